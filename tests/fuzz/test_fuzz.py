"""The fuzz target under hypothesis everywhere, and under atheris where it runs; both bounded."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.codec.messages import ADT, ORU
from tests.fuzz.fuzz_mllp import check
from tests.prerequisites import need

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10
SEEDS = [
    b"\x05\x0b" + ADT[:60] + b"\x1c\r\x0b" + ORU[:60] + b"\x1c\r",
    b"\x03\x0bMSH|^~\\&|a\x0bMSH|^~\\&|A|B|C|D|1||ADT^A01|1\x1c\n",
    b"\x01junk\x0b\x1c\r\x0b\xef\xbb\xbfBHS|^~\\&|A\rMSH|^~\\&|A|B|C|D|1||ACK|1\rMSA|AA|1\rBTS|1\r\x1c",
    b"\x07" + b"x" * 300,
    b"\x10\x0b" + b"x" * 300 + b"\x1c\r",
]
TOKENS = [
    b"\x0b",
    b"\x1c",
    b"\r",
    b"\n",
    b"\x1c\r",
    b"MSH|^~\\&|",
    b"|",
    b"^",
    b"~",
    b"FHS|",
    b"BHS|",
    b"BTS|1\r",
    b"\xef\xbb\xbf",
    b"MSA|AA|",
    b"PID|",
]


@given(st.lists(st.sampled_from([*TOKENS, b"||ADT^A01|1|P|2.5\r"]) | st.binary(max_size=4), max_size=30).map(b"".join))
@example(SEEDS[0])
@example(SEEDS[1])
@example(SEEDS[2])
@example(SEEDS[3])
@example(SEEDS[4])
def test_the_invariant_of_the_mllp_target_holds(data: bytes) -> None:
    check(data)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of seeds, with a dictionary beside it."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, seed in enumerate(SEEDS):
        (folder / f"seed-{number}").write_bytes(seed)
    lines = ["".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS]
    (tmp_path / "tokens").write_text("".join(f'"{line}"\n' for line in lines))
    return folder


if platform.machine() == "x86_64":  # there is no wheel elsewhere: the test above is the whole of it there

    def test_coverage_guided_fuzzing_finds_nothing(corpus: Path) -> None:
        need("atheris (extra: fuzz)", importlib.util.find_spec("atheris") is not None)
        place = corpus.parent
        options = [f"-max_total_time={SECONDS}", "-max_len=400", "-timeout=5", f"-dict={place / 'tokens'}", f"-artifact_prefix={place}/"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *options, str(corpus)],
            cwd=ROOT,
            capture_output=True,
            timeout=SECONDS + 60,
            check=False,
        )
        found = [path.read_bytes().hex() for path in place.glob("crash-*")]
        assert done.returncode == 0, f"{found}\n{done.stderr[-3000:].decode('utf-8', 'replace')}"
