"""MSH-18 and the names of character sets: HL7 table 0211, the spellings met in the field, IANA names, Python codecs.

Source: HL7 v2.5.1 table 0211; IANA character set registry (preferred MIME names, lower case).
"""

from __future__ import annotations

import re

__all__ = ["UTF_8", "decode_exactly", "iana_name", "python_codec"]

UTF_8 = "utf-8"

#: Longer than any spelling known; a longer MSH-18 is not looked at.
_LABEL_MAX_BYTES = 64
_NOISE = re.compile(rb"[^A-Z0-9]")

# Key: the label in capitals, letters and digits only, a leading "ISO" removed ("ISO-8859-1", "8859/1": one key).
_BY_LABEL: dict[bytes, str] = {
    **dict.fromkeys((b"ASCII", b"USASCII", b"IR6", b"646US"), "us-ascii"),
    **{b"8859%d" % part: f"iso-8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **dict.fromkeys((b"LATIN1", b"IR100"), "iso-8859-1"),
    **{b"IR%d" % number: f"iso-8859-{part}" for number, part in ((101, 2), (109, 3), (110, 4), (144, 5), (127, 6))},
    **{b"IR%d" % number: f"iso-8859-{part}" for number, part in ((126, 7), (138, 8), (148, 9))},
    **{b"%b125%d" % (prefix, page): f"windows-125{page}" for prefix in (b"WINDOWS", b"CP") for page in range(9)},
    **dict.fromkeys((b"UTF8", b"UNICODEUTF8", b"UNICODE", b"IR192", b"10646UTF8"), UTF_8),
    **dict.fromkeys((b"IR87", b"2022JP"), "iso-2022-jp"),
    b"IR159": "iso-2022-jp-2",  # has JIS X 0212, which IR159 is
    b"IR14": "jis_x0201",
    **dict.fromkeys((b"SHIFTJIS", b"SJIS"), "shift_jis"),
    b"EUCJP": "euc-jp",
    **dict.fromkeys((b"GB180302000", b"GB18030"), "gb18030"),
    **dict.fromkeys((b"GB2312", b"IR58"), "gb2312"),
    b"GBK": "gbk",
    **dict.fromkeys((b"KSX1001", b"EUCKR", b"IR149"), "euc-kr"),
    **dict.fromkeys((b"BIG5",), "big5"),
    b"TIS620": "tis-620",
}
# IANA name -> (Python codec, every byte text that decodes is given back by encoding). Names that are missing here have
# no exact codec in Python: JIS X 0201 has a yen sign where Python's shift_jis has a backslash, for one.
_CODECS: dict[str, tuple[str, bool]] = {
    "us-ascii": ("ascii", True),
    UTF_8: ("utf-8", True),
    "iso-8859-1": ("latin-1", True),
    **{f"iso-8859-{part}": (f"iso8859-{part}", False) for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"windows-125{page}": (f"cp125{page}", False) for page in range(9)},
    **{name: (name, False) for name in ("iso-2022-jp", "iso-2022-jp-2", "shift_jis", "euc-jp", "gb18030", "gb2312", "gbk")},
    **{name: (name, False) for name in ("euc-kr", "big5", "tis-620")},
}


def iana_name(label: bytes) -> str:
    """The IANA name that MSH-18 ``label`` (one repetition) means: ``utf-8`` where it is empty, ``""`` where unknown."""
    if not label:
        return UTF_8
    if len(label) > _LABEL_MAX_BYTES:
        return ""
    return _BY_LABEL.get(_NOISE.sub(b"", label.upper()).removeprefix(b"ISO"), "")


def python_codec(name: str) -> str | None:
    """The Python codec of an IANA name, None where there is no exact one."""
    found = _CODECS.get(name)
    return found[0] if found else None


def decode_exactly(body: bytes, name: str) -> str | None:
    """``body`` as text of character set ``name``, or None where encoding that text would not give ``body`` back."""
    found = _CODECS.get(name)
    if found is None:
        return None
    codec, bijective = found
    try:
        text = body.decode(codec)
        return text if bijective or text.encode(codec) == body else None
    except UnicodeError:
        return None
