"""MSH-18 labels and exact decoding."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.charset import _BY_LABEL, _CODECS, decode_exactly, iana_name, python_codec

# Source: HL7 v2.5.1 table 0211, then spellings seen in the field.
LABELS = [
    (b"", "utf-8"),
    (b"ASCII", "us-ascii"),
    (b"8859/1", "iso-8859-1"),
    (b"8859/2", "iso-8859-2"),
    (b"8859/9", "iso-8859-9"),
    (b"8859/15", "iso-8859-15"),
    (b"ISO IR6", "us-ascii"),
    (b"ISO IR14", "jis_x0201"),
    (b"ISO IR87", "iso-2022-jp"),
    (b"ISO IR159", "iso-2022-jp-2"),
    (b"GB 18030-2000", "gb18030"),
    (b"KS X 1001", "euc-kr"),
    (b"BIG-5", "big5"),
    (b"UNICODE", "utf-8"),
    (b"UNICODE UTF-8", "utf-8"),
    (b"CNS 11643-1992", ""),
    (b"UNICODE UTF-16", ""),
    (b"UTF-8", "utf-8"),
    (b"utf8", "utf-8"),
    (b"ISO-8859-1", "iso-8859-1"),
    (b"ISO8859-15", "iso-8859-15"),
    (b"iso_8859/1", "iso-8859-1"),
    (b"WINDOWS-1252", "windows-1252"),
    (b"cp1252", "windows-1252"),
    (b"KLINGON", ""),
    (b"8859/1" * 100, ""),
    (b"\xff\x00", ""),
]


@pytest.mark.parametrize(("label", "name"), LABELS)
def test_a_label_names_its_character_set(label: bytes, name: str) -> None:
    assert iana_name(label) == name


def test_every_name_of_the_table_is_known_to_python_or_named_as_not() -> None:
    assert {name for name in _BY_LABEL.values() if python_codec(name) is None} == {"jis_x0201"}
    assert all(codecs.lookup(codec) for codec, _ in _CODECS.values())


def test_umlauts_survive_exactly_as_declared() -> None:
    assert decode_exactly(b"M\xfcller", "iso-8859-1") == "Müller"
    assert decode_exactly(b"M\xfcller", "utf-8") is None
    assert decode_exactly(b"M\xfcller", "us-ascii") is None
    assert decode_exactly("Müller".encode(), "utf-8") == "Müller"


@pytest.mark.parametrize("name", ["", "jis_x0201", "no-such"])
def test_an_unknown_character_set_decodes_nothing(name: str) -> None:
    assert decode_exactly(b"plain", name) is None


def test_a_text_with_two_spellings_in_its_character_set_is_not_exact() -> None:
    assert b"\x1b$B\x1b(Babc".decode("iso-2022-jp") == "abc"  # a shift to and fro that encoding does not write again
    assert decode_exactly(b"\x1b$B\x1b(Babc", "iso-2022-jp") is None


@given(st.binary(max_size=24), st.sampled_from(sorted(_CODECS)))
def test_what_decodes_encodes_to_the_same_bytes_and_is_real_text(body: bytes, name: str) -> None:
    text = decode_exactly(body, name)
    if text is not None:
        assert text.encode(python_codec(name) or "") == body
        assert text.encode("utf-8") or not text  # no lone surrogates: JSON can carry it
