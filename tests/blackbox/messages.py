"""Made-up HL7 v2 messages. Record numbers lie in the reserved range, names are the ones of nobody."""

from __future__ import annotations

import hashlib

__all__ = ["FIRST_MRN", "control_id", "framed", "message", "padded"]

FIRST_MRN = 100_000
_FAMILY = ("DOE", "TEST", "SAMPLE", "EXAMPLE", "NOBODY")


def message(
    control: str,
    *,
    kind: str = "ORU^R01^ORU_R01",
    patient: int = 0,
    accept: str = "",
    application: str = "",
    charset: str = "",
    version: str = "2.5.1",
    rest: bytes | None = None,
) -> bytes:
    """One message with that control id; ``rest`` replaces everything after the MSH segment."""
    tail = f"|||{accept}|{application}||{charset}".rstrip("|")
    head = f"MSH|^~\\&|MONITOR|ICU|GATEWAY|SITE|20261122120000+0100||{kind}|{control}|P|{version}{tail}\r".encode()
    return head + (_body(patient) if rest is None else rest)


def _body(patient: int) -> bytes:
    name = _FAMILY[patient % len(_FAMILY)]
    return (
        f"PID|1||{FIRST_MRN + patient % 100_000}^^^SITE^MR||{name}^JANE||19700101|F\r"
        "PV1|1|I|ICU^7^A\r"
        "OBR|1|||69000-8^Vital signs^LN\r"
        f"OBX|1|NM|8867-4^Heart rate^LN||{60 + patient % 40}|/min|||||F\r"
    ).encode()


def padded(control: str, size_bytes: int, patient: int = 0) -> bytes:
    """A message of exactly ``size_bytes`` whose text differs from message to message, as results do."""
    text = message(control, patient=patient)
    digits = hashlib.sha256(control.encode()).hexdigest()
    line = 2
    while (room := size_bytes - len(text)) > 60:
        value = int(digits[line % 60 : line % 60 + 4], 16) % 300
        text += f"OBX|{line}|NM|2160-0^Creatinine^LN||{value}|umol/L|53-97||||F\r".encode()[: room - 8]
        line += 1
    return text + b"NTE|1||" + b"N" * (room - 8) + b"\r" if room >= 8 else text


def framed(body: bytes) -> bytes:
    """The body between the MLLP block characters."""
    return b"\x0b" + body + b"\x1c\r"


def control_id(body: bytes) -> str:
    """MSH-10 of a body whose separator is the usual one; empty where there is none."""
    fields = body.removeprefix(b"\xef\xbb\xbf").split(b"\r", 1)[0].split(b"|")
    return fields[9].decode("latin-1") if fields[0] == b"MSH" and len(fields) > 9 else ""
