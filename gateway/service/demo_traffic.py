"""Synthetic hospital traffic: four departmental systems and the patients of one imaginary ward.

No person is real: names are DOE and the like, record numbers lie in 100000..199999, a range this project reserves.
Variety comes from a counter, so that two runs send the same messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.clock import rfc3339

__all__ = ["SYSTEMS", "Department"]

#: name -> message types it sends, in turn.
SYSTEMS: dict[str, tuple[str, ...]] = {
    "ADT": ("ADT^A04^ADT_A01", "ADT^A01^ADT_A01", "ADT^A08^ADT_A01", "ADT^A03^ADT_A03"),
    "LIS": ("ORU^R01^ORU_R01",),
    "PHARMACY": ("ORM^O01^ORM_O01",),
    "SCHEDULING": ("SIU^S12^SIU_S12", "SIU^S14^SIU_S12"),
}

_FAMILY = ("DOE", "ROE", "SAMPLE", "TESTER", "EXAMPLE", "PLACEHOLDER")
_GIVEN = ("ALEX", "SAM", "ROBIN", "KIM", "CHRIS", "TONI", "JANE", "JOHN")
_TESTS = (
    ("718-7", "Hemoglobin", "g/dL", "12.0-16.0", 11.2),
    ("2823-3", "Potassium", "mmol/L", "3.5-5.1", 3.9),
    ("2345-7", "Glucose", "mg/dL", "70-99", 88.0),
    ("1988-5", "CRP", "mg/L", "0-5", 4.1),
)
_DRUGS = ("PARACETAMOL 500 MG", "AMOXICILLIN 250 MG", "METOPROLOL 50 MG")


@dataclass(slots=True)
class Department:
    """One sending system; ``message(n, now_us)`` is its n-th message."""

    name: str

    def control_id(self, n: int) -> str:
        """MSH-10 of the n-th message."""
        return f"{self.name}-{n:07d}"

    def message(self, n: int, now_us: int) -> bytes:
        """Bytes ready for framing; segments end with CR, UTF-8 declared."""
        kind = SYSTEMS[self.name][n % len(SYSTEMS[self.name])]
        stamp = rfc3339(now_us)[:19].translate({ord(c): None for c in "-:T"}) + "+0000"
        header = f"MSH|^~\\&|{self.name}|DEMOHOSP|GATEWAY|EDGE|{stamp}||{kind}|{self.control_id(n)}|P|2.5.1||||||UNICODE UTF-8"
        segments = [header, *_event(kind, stamp), _pid(n), _visit(n), *_detail(kind, n, stamp)]
        return "".join(segment + "\r" for segment in segments).encode()


def _event(kind: str, stamp: str) -> list[str]:
    return [f"EVN|{kind[4:7]}|{stamp}"] if kind.startswith("ADT") else []


def _pid(n: int) -> str:
    mrn = 100_000 + n * 7 % 400
    family, given = _FAMILY[mrn % len(_FAMILY)], _GIVEN[mrn % len(_GIVEN)]
    return f"PID|1||{mrn}^^^DEMOHOSP^MR||{family}^{given}||19{50 + mrn % 50}0{1 + mrn % 9}1{mrn % 10}|{'FM'[mrn % 2]}"


def _visit(n: int) -> str:
    return f"PV1|1|I|ICU^{1 + n % 12}^A|||||||||||||||||V{100_000 + n * 7 % 400}"


def _detail(kind: str, n: int, stamp: str) -> list[str]:
    match kind[:3]:
        case "ORU":
            lines = [f"OBR|1|P{n:07d}|F{n:07d}|57021-8^CBC^LN|||{stamp}"]
            lines += [
                f"OBX|{i}|NM|{code}^{name}^LN||{base + n % 17 / 10:.1f}|{unit}|{span}|N|||F|||{stamp}"
                for i, (code, name, unit, span, base) in enumerate(_TESTS, 1)
            ]
            return lines
        case "ORM":
            return [f"ORC|NW|P{n:07d}|||||^^^{stamp}", f"RXO|{_DRUGS[n % len(_DRUGS)]}|1||TAB"]
        case "SIU":
            return [f"SCH|A{n:07d}||||||ROUTINE^Routine||30|min|^^30^{stamp}|||||9^CLERK^DEMO|||||||||BOOKED", "RGS|1|A"]
        case _:
            return []
