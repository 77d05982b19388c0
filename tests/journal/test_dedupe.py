"""The window of remembered control ids: bounded, blinded, rebuilt at the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.dedupe import KEY_BYTES, Blinder, Dedupe, Digest
from gateway.journal.records import meta_keys
from tests.journal.working import Box, append, entry, leave

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model.message import Entry

BLINDER = Blinder(b"i" * 32)


def admit(window: Dedupe, commit: int, *entries: Entry) -> list[bool]:
    """Commit these; which of them were duplicates."""
    keys = [(window.admit(made)[0], made) for made in entries]
    window.settle([(key, made) for key, made in keys if key], commit, committed=True)
    return [made.duplicate for made in entries]


def test_a_resend_is_a_duplicate_whatever_its_sender_stamped_into_msh_7() -> None:
    window = Dedupe(BLINDER, 10)
    first = entry(1, body=b"MSH|^~\\&|A|B|C|D|20261125120000||ADT^A01|1|P|2.5\r")
    again = entry(1, body=b"MSH|^~\\&|A|B|C|D|20261125120007||ADT^A01|1|P|2.5\r")
    first.restamp = again.restamp = (17, 31)
    assert admit(window, 1, first) == [False]
    assert admit(window, 2, again) == [True]


def test_without_a_control_id_nothing_is_a_duplicate() -> None:
    assert entry(1, anonymous=True).identity is None  # the committer asks the window only about entries with one


@given(st.lists(st.tuples(st.text(max_size=3), st.lists(st.binary(max_size=3), max_size=4)), min_size=2, max_size=2, unique_by=repr))
def test_different_identities_never_share_the_bytes_that_are_hashed(pair: list[tuple[str, list[bytes]]]) -> None:
    one, two = [BLINDER.identity(source, tuple(parts)) for source, parts in pair]
    assert one != two


def test_the_same_value_is_blinded_differently_for_each_purpose_and_key() -> None:
    value = b"123456^TEST"
    assert len({BLINDER.body(value, (0, 0)), BLINDER.ordering(value, "x"), BLINDER.ordering(b"", value.decode())}) == 3
    assert BLINDER.ordering(value, "x") != Blinder(b"j" * 32).ordering(value, "x")


def test_a_key_of_source_a_is_no_key_of_source_b() -> None:
    window = Dedupe(BLINDER, 10)
    assert admit(window, 1, entry(1, "a"), entry(1, "b")) == [False, False]
    assert admit(window, 2, entry(1, "a"), entry(1, "b")) == [True, True]


@pytest.mark.parametrize("capacity", [1, 1000, 5000])
def test_the_window_is_bounded_and_remembers_at_least_its_capacity(capacity: int) -> None:
    window = Dedupe(BLINDER, capacity)
    for at in range(12_000):
        admit(window, at, entry(at))
        assert len(window) <= capacity + 1024
    assert len(window) >= capacity
    assert admit(window, 20_000, entry(12_000 - capacity)) == [True]
    assert admit(window, 20_001, entry(0)) == [False]
    assert window.oldest_commit is not None
    assert window.oldest_commit <= 12_000 - capacity


def test_a_capacity_of_zero_remembers_nothing_but_what_is_pending() -> None:
    window = Dedupe(BLINDER, 0)
    first, copy = entry(1), entry(1)
    key, original = window.admit(first)
    assert (original, window.admit(copy)[1]) == (None, first)
    window.settle([(key, first)], 1, committed=True)
    assert admit(window, 2, entry(1)) == [False]


def test_forgetting_an_old_use_of_a_key_keeps_the_newer_one() -> None:
    window = Dedupe(BLINDER, 1500)
    admit(window, 1, entry(0, body=b"old"))
    admit(window, 2, *[entry(at) for at in range(1, 1024)])
    admit(window, 3, entry(0, body=b"new"))
    admit(window, 4, *[entry(at) for at in range(2000, 3600)])
    assert admit(window, 5, entry(0, body=b"new")) == [True]


def test_small_commits_are_repeated_together_and_large_ones_are_not() -> None:
    digest = Digest()
    rows = [digest.add(commit, [bytes([commit % 256]) * KEY_BYTES]) for commit in range(1, 600)]
    repeated = [(commit, row) for commit, row in enumerate(rows, 1) if row[0]]
    assert [(commit, first) for commit, (first, _) in repeated] == [(256, 1), (512, 257)]
    assert all(len(keys) == 256 for _, (_, keys) in repeated)
    assert not any(digest.add(commit, [b"k" * KEY_BYTES] * 64)[0] for commit in range(600, 1200))


@pytest.mark.parametrize(("commits", "each"), [(700, 1), (20, 50)])
async def test_the_window_is_rebuilt_at_the_next_start(tmp_path: Path, commits: int, each: int) -> None:
    box = Box(tmp_path, dedupe_keys=500)
    journal = await box.open()
    for at in range(commits):
        await append(journal, *[entry(at * each + part) for part in range(each)])
    leave(journal)
    journal = await box.open()
    last = commits * each
    assert 500 <= len(journal._opened.dedupe) < 500 + 1024
    assert (await append(journal, entry(last - 1)))[0].duplicate
    assert (await append(journal, entry(last - 500)))[0].duplicate
    await journal.close()


async def test_a_start_opens_few_rows_where_each_commit_held_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(tmp_path, dedupe_keys=2000)
    journal = await box.open()
    for at in range(600):
        await append(journal, entry(at))
    await journal.close()
    opened: list[int] = []
    real = meta_keys

    def counted(plaintext: bytes) -> tuple[int, bytes]:
        opened.append(1)
        return real(plaintext)

    monkeypatch.setattr("gateway.journal.opening.meta_keys", counted)
    journal = await box.open()
    assert len(journal._opened.dedupe) == 600
    assert len(opened) < 120
    await journal.close()
