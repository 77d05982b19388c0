"""Made-up messages that the codec tests share."""

from __future__ import annotations

ADT = (
    b"MSH|^~\\&|HIS|WARD|EDGE|SITE|20261122120000||ADT^A01^ADT_A01|M0001|P|2.5.1\r"
    b"EVN|A01|20261122120000\r"
    b"PID|1||100001^^^HOSP^MR~200^^^^PI||DOE^TEST\r"
    b"PV1|1|I|ICU^7^A\r"
)
ORU = b"MSH|^~\\&|MON|ICU|EDGE|SITE|20261122120001||ORU^R01^ORU_R01|M0002|P|2.4\rPID|1||100002^^^HOSP^MR\rOBX|1|NM|8867-4||80\r"


def header(**fields: str) -> bytes:
    """One MSH segment; ``msh15="AL"`` sets MSH-15. A type and a control id stand by default."""
    values = {3: "HIS", 4: "WARD", 5: "EDGE", 6: "SITE", 7: "20261122120000", 9: "ADT^A01", 10: "M0001", 11: "P", 12: "2.5.1"}
    values |= {int(name.removeprefix("msh")): value for name, value in fields.items()}
    texts = ["MSH", "^~\\&", *(values.get(n, "") for n in range(3, max(values) + 1))]
    return "|".join(texts).encode("latin-1") + b"\r"
