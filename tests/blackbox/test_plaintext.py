"""No patient data in clear: canaries in good, broken, refused and dead-lettered messages, sought in every byte that is left behind."""

from __future__ import annotations

import base64
import contextlib
import random
import re
import string
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.disks import loop_disk
from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import wind_down
from tests.blackbox.messages import framed, message
from tests.blackbox.mllp_line import Line, Sender
from tests.prerequisites import need_loop_devices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_setup import NewGateway

PLACES = ("family", "given", "number", "street", "note", "account", "kin", "broken", "reason", "header", "control")
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
_ZSTD = b"\x28\xb5\x2f\xfd"


class Canaries:
    """One unmistakable word per place of a message, and every form in which it could stand in a file."""

    def __init__(self) -> None:
        self.words = {place: "QZ" + "".join(random.choices(string.ascii_uppercase, k=11)) for place in PLACES}
        self.forms: dict[bytes, str] = {}
        for place, word in self.words.items():
            raw = word.encode()
            self.forms |= {raw.lower(): place, raw.hex().encode(): f"{place}, hex", word.encode("utf-16-le").lower(): f"{place}, UTF-16"}
            for shift in range(3):
                text = base64.b64encode(b"x" * shift + raw)
                self.forms[text[4 : 4 + (len(raw) + shift - 6) // 3 * 4].lower()] = f"{place}, base64"
        self.pattern = re.compile(b"|".join(map(re.escape, self.forms)))

    def patient(self, number: int) -> bytes:
        w = self.words
        return (
            f"PID|1||{w['number']}{number}^^^SITE^MR||{w['family']}^{w['given']}||19700101|F|||{w['street']} 1^^X||||||||{w['account']}\r"
            f"NK1|1|{w['kin']}^MARY|SPO\rNTE|1||{w['note']}\r"
        ).encode()

    def found_in(self, data: bytes) -> set[str]:
        """Names of the canaries in it, also inside zlib and gzip streams; a bare zstd frame is a find of its own."""
        found = {self.forms[hit] for hit in self.pattern.findall(data.lower())}
        for match in _ZLIB.finditer(data):
            with contextlib.suppress(zlib.error):
                text = zlib.decompressobj(47).decompress(data[match.start() : match.start() + 200_000], 1_000_000)
                found |= {f"{self.forms[hit]}, compressed" for hit in self.pattern.findall(text.lower())}
        return found | ({"a zstd frame"} if data.count(_ZSTD) > 1 else set())


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


def broken(canaries: Canaries) -> Iterator[bytes]:
    """Bytes that make a parser complain about what it read."""
    word, header, who = canaries.words["broken"].encode(), canaries.words["header"], canaries.patient(0)
    yield framed(word + b"|no header\r" + who)
    yield framed(b"PID|1||" + word + b"\r" + who)
    yield framed(b"MSH|" + word)
    yield framed(b"MSH" + who)
    for kind in (f"{header}^A01", f"ADT^{header}", header * 30):
        yield framed(message(canaries.words["control"], kind=kind, rest=who))
    yield framed(message("", kind="ADT^A01", rest=who))
    yield framed(message("charset", charset=header, rest=who))
    yield framed(message("version", version=header, rest=who))
    yield framed(message("bytes", charset="UNICODE UTF-8", rest=b"PID|1||\xff\xfe" + word + b"\x00\r" + who))
    yield framed(message("accept", accept=header, application=header, rest=who))
    yield framed(b"FHS|^~\\&\rBHS|^~\\&|" + word + b"\r" + who + b"BTS|9\r")
    yield word + who + b"\x1c\r"
    yield b"\x0b" + message("half", rest=who)  # never ended; the connection closes


def files_of(gateway: Gateway) -> Iterator[tuple[str, bytes]]:
    """Every file that the gateway left or holds open, and its arguments."""
    roots = [gateway.home, gateway.state, gateway.scratch, gateway.log]
    if gateway.alive():
        proc = Path(f"/proc/{gateway.pid}")
        yield "arguments", (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        for handle in (proc / "fd").iterdir():
            with contextlib.suppress(OSError):
                if "(deleted)" in (name := str(handle.readlink())) and handle.is_file():
                    yield f"deleted, still open: {name}", handle.read_bytes()
    for root in roots:
        for path in [root, *root.rglob("*")] if root.is_dir() else [root]:
            yield "a file name", str(path).encode()
            if path.is_file():
                yield path.name, path.read_bytes()


def sayings_of(gateway: Gateway) -> Iterator[tuple[str, bytes]]:
    """What an operator sees without asking for content."""
    for path in ("/metrics", "/healthz", "/readyz"):
        yield path, gateway.http(path)[1]
    for command in (("status",), ("status", "--json"), ("queue", "ls"), ("dead-letter", "ls"), ("refused", "ls"), ("check",)):
        done = gateway.ask(*command)
        yield " ".join(command), done.stdout + done.stderr


def look(gateway: Gateway, canaries: Canaries, *, sayings: bool = True) -> int:
    """Bytes looked through; fails at the first kind of find."""
    seen, finds = 0, set()
    for where, data in [*files_of(gateway), *(sayings_of(gateway) if sayings else ())]:
        seen += len(data)
        finds |= {f"{where}: {name}" for name in canaries.found_in(data)}
    assert not finds, sorted(finds)
    return seen


def talk(gateway: Gateway, canaries: Canaries, numbers: range) -> int:
    """Send good messages, return how many were accepted."""
    with Line(gateway.port) as line:
        for number in numbers:
            line.send(framed(message(f"M-{number}", kind="ADT^A01^ADT_A01", rest=canaries.patient(number))))
        return sum(answer.positive for answer in line.answers(len(numbers), 15))


def provoke(gateway: Gateway, canaries: Canaries) -> None:
    for data in broken(canaries):
        with contextlib.suppress(OSError), Line(gateway.port) as line:
            line.send(data)
            line.quiet(0.3)


def test_the_search_finds_what_is_there(canaries: Canaries) -> None:
    word = canaries.words["family"].encode()
    assert canaries.found_in(b"..." + word.lower() + b"...") == {"family"}
    assert canaries.found_in(base64.b64encode(b"1" + word + b"22"))
    assert canaries.found_in(zlib.compress(b"a text " + word * 2))
    assert canaries.found_in(word.hex().encode())


@pytest.mark.root
@pytest.mark.timeout(240)
@pytest.mark.xdist_group("disks")
def test_no_byte_that_is_left_behind_shows_a_patient(
    new_gateway: NewGateway, destination: Destination, canaries: Canaries, tmp_path: Path
) -> None:
    need_loop_devices()
    poison = {b"|M-5|", b"|M-120|"}
    destination.reason = f"no patient {canaries.words['reason']} {canaries.words['family']}"
    destination.rejects = lambda body: b"|M-3|" in body
    destination.poisons = lambda body: any(word in body for word in poison)
    with loop_disk(tmp_path / "raw", 64) as disk:
        gateway = new_gateway(state_dir=disk.path / "state")
        gateway.start()
        accepted = talk(gateway, canaries, range(200))
        provoke(gateway, canaries)
        assert until(lambda: gateway.route()["dead_letter"] >= 3, 15)
        destination.down()
        accepted += talk(gateway, canaries, range(200, 400))
        look(gateway, canaries)

        sender = Sender(gateway.port, "K", rate=1000, window=32, make=lambda control: message(control, rest=canaries.patient(7))).start()
        time.sleep(0.7)
        gateway.kill()
        wind_down([sender], 0.0)
        look(gateway, canaries, sayings=False)
        gateway.start()
        destination.up()
        wanted = {f"M-{number}" for number in range(400)} - {"M-3", "M-5", "M-120"}
        assert not destination.wait_for(wanted)
        assert accepted == 400
        look(gateway, canaries)
        assert gateway.stop() == 0
        seen = look(gateway, canaries, sayings=False)
        disk.umount()
        image = disk.image.read_bytes()
        assert seen > 50_000
        assert not canaries.found_in(image), "in the raw image of the disk"
        disk.mount()


def test_revealing_content_is_asked_for_and_recorded(new_gateway: NewGateway, destination: Destination, canaries: Canaries) -> None:
    destination.down()
    gateway = new_gateway()
    gateway.start()
    assert talk(gateway, canaries, range(1)) == 1
    listed = gateway.ask("queue", "ls", "--json").stdout.decode()
    (event_id,) = set(re.findall(r"test-gw/[0-9a-f]{32}/\d+", listed))
    word = canaries.words["family"].encode()
    assert word not in gateway.ask("queue", "show", event_id).stdout
    shown = gateway.ask("queue", "show", event_id, "--reveal")
    assert shown.returncode == 0, shown.stderr.decode()
    assert word in shown.stdout
    assert "reveal" in gateway.ask("trace", event_id).stdout.decode()
    look(gateway, canaries)
