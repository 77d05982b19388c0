"""Made-up HL7 v2 messages. Record numbers lie in the reserved range, names are the ones of nobody."""

from __future__ import annotations

import hashlib

__all__ = ["FIRST_MRN", "control_id", "framed", "message", "padded"]

FIRST_MRN = 100_000
_FAMILY = ("DOE", "TEST", "SAMPLE", "EXAMPLE", "NOBODY")
_ANALYTES = (
    ("718-7", "Hemoglobin", "g/dL", "12.0-16.0"),
    ("2823-3", "Potassium", "mmol/L", "3.5-5.1"),
    ("2951-2", "Sodium", "mmol/L", "136-145"),
    ("2345-7", "Glucose", "mg/dL", "70-99"),
    ("1988-5", "C reactive protein", "mg/L", "0-5"),
    ("2160-0", "Creatinine", "umol/L", "53-97"),
    ("6690-2", "Leukocytes", "10*3/uL", "4.5-11.0"),
    ("777-3", "Platelets", "10*3/uL", "150-400"),
)


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
    """A result of exactly ``size_bytes``, as hard to compress as results are (zstd 1 makes 64 of 700 bytes five times smaller)."""
    noise = hashlib.shake_128(f"{control}/{patient}".encode()).digest(size_bytes // 8 + 64)
    stamp = f"202611{noise[0] % 28 + 1:02}{noise[1] % 24:02}{noise[2] % 60:02}{noise[3] % 60:02}"
    order = noise[4:8].hex().upper()
    head = message(control, patient=patient, rest=b"")
    text = (
        head
        + (
            f"PID|1||{FIRST_MRN + patient % 100_000}^^^SITE^MR||{_FAMILY[noise[8] % 5]}^{noise[9:12].hex().upper()}||"
            f"19{noise[12] % 80 + 20}{noise[13] % 12 + 1:02}{noise[14] % 28 + 1:02}|{'FM'[noise[15] % 2]}|||"
            f"{noise[16]} STREET^^TOWN^^{noise[17] * 97:05}\r"
            f"PV1|1|I|W{noise[18] % 9}^{noise[19] % 40}^{'ABCD'[noise[20] % 4]}||||{noise[21:24].hex()}^TEST^DOCTOR\r"
            f"OBR|1|P{order}|F{order}|24323-8^Panel^LN|||{stamp}\r"
        ).encode()
    )
    line = 1
    while (room := size_bytes - len(text)) > 90:
        code, name, unit, span = _ANALYTES[noise[24 + line] % len(_ANALYTES)]
        value = int.from_bytes(noise[24 + line : 26 + line]) % 3000 / 10
        text += f"OBX|{line}|NM|{code}^{name}^LN||{value}|{unit}|{span}|{'NHL'[noise[line] % 3]}|||F|||{stamp}\r".encode()[:room]
        line += 1
    return text + b"NTE|1||" + noise.hex().encode()[: max(0, room - 8)] + b"\r" if room >= 8 else text[:size_bytes]


def framed(body: bytes) -> bytes:
    """The body between the MLLP block characters."""
    return b"\x0b" + body + b"\x1c\r"


def control_id(body: bytes) -> str:
    """MSH-10 of a body whose separator is the usual one; empty where there is none."""
    fields = body.removeprefix(b"\xef\xbb\xbf").split(b"\r", 1)[0].split(b"|")
    return fields[9].decode("latin-1") if fields[0] == b"MSH" and len(fields) > 9 else ""
