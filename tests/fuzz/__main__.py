"""Coverage-guided fuzzing, on x86-64: ``python -m tests.fuzz -max_total_time=60 CORPUS`` (libFuzzer's options; extra ``fuzz``)."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["gateway.codec", "tests.fuzz.fuzz_mllp"]):
    from tests.fuzz.fuzz_mllp import check

atheris.Setup(sys.argv, check)
atheris.Fuzz()
