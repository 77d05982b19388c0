"""The books after a loss: what the newest readable commit row says, brought into line with the rows that are really there.

The journal's state is the newest commit row. After damage it may be older than the blocks that survived, or speak of rows that
are gone. These functions compute the state that is true of what lies here; the equation of the books holds before and after:

- blocks behind the newest commit row: their messages are accepted (their senders were told so) and queued;
- exception rows that are gone: their messages become gaps of their route;
- commits that only the witness knows: their messages become gaps of every route that had accepted them, and no seq up to the
  witness's is used again.

A route may be set back by lost commits: it then sends again under the same ids, which its receiver recognises.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.journal.exceptions import DONE_STATES, STATE_OF
from gateway.journal.ledger import members, rules_at
from gateway.journal.records import commit_of
from gateway.model.state import Books, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.journal.ledger import JournalState, RouteLedger
    from gateway.journal.records import Census
    from gateway.journal.witness import LastStatus

__all__ = ["FoundException", "HeldBlock", "admit_blocks", "believe_witness", "reconcile_ahead", "recount_exceptions"]

_HELD: Final = STATE_OF[Term.HELD]
_DEAD: Final = STATE_OF[Term.DEAD_LETTER]
_QUEUED: Final = STATE_OF[Term.QUEUED]


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """A block row as it is there after the mending; ``traffic``: code of its class."""

    id: int
    traffic: int
    first_seq: int
    last_seq: int
    census: Census

    @property
    def commit(self) -> int:
        """The commit that wrote it."""
        return commit_of(self.id)


@dataclass(frozen=True, slots=True)
class FoundException:
    """An exception row: its route's number, its message, its state as persisted."""

    route: int
    seq: int
    state: int


def admit_blocks(state: JournalState, blocks: Iterable[HeldBlock]) -> int:
    """Count the blocks behind the newest commit row in; how many seqs between them belong to no block (lost unseen)."""
    begin, held = state.next_seq, 0
    for block in blocks:
        rules = rules_at(state.versions, block.first_seq)
        for (source, _), count in block.census.items():
            state.accepted[source] = state.accepted.get(source, 0) + count
            held += count
        for name, rule in rules.items():
            if (ledger := state.routes.get(name)) is not None and (count := members(rule, name, block.census)):
                state.routes[name] = _with_books(ledger, accepted=ledger.books.accepted + count)
        state.next_seq = max(state.next_seq, block.last_seq + 1)
    return max(0, state.next_seq - begin - held)


def believe_witness(state: JournalState, last: LastStatus) -> int:
    """Take over what a valid witness knows beyond ``state``; the messages that became gaps, summed over the sources.

    Counts of the books only grow here: a lost message that had been delivered counts as a gap too, since no proof of its
    delivery is left.
    """
    state.next_seq = max(state.next_seq, last.witness.next_seq)
    lost = 0
    for source, accepted in _accepted(last.status, "sources").items():
        if (more := accepted - state.accepted.get(source, 0)) > 0:
            state.accepted[source] = accepted
            lost += more
    for name, accepted in _accepted(last.status, "routes").items():
        ledger = state.routes.get(name)
        if ledger is not None and (more := accepted - ledger.books.accepted) > 0:
            state.routes[name] = _with_books(ledger, accepted=accepted, gaps=ledger.books.gaps + more)
    return lost


def recount_exceptions(state: JournalState, rows: Sequence[FoundException]) -> tuple[int, frozenset[tuple[int, int]]]:
    """Bring the books into line with the exception rows; messages that became gaps, and rows ``(route, seq)`` to leave out.

    Left out are rows of routes that the state does not know, and rows of messages that their route's cursor (set back by the
    loss) has still before it: those are queued, and will be settled anew.
    """
    known = {ledger.number: name for name, ledger in state.routes.items()}
    left_out: set[tuple[int, int]] = set()
    counts = {name: dict.fromkeys(STATE_OF.values(), 0) for name in state.routes}
    for row in rows:
        name = known.get(row.route)
        if name is None or row.state not in counts[name] or _is_ahead(state.routes[name], row.seq):
            left_out.add((row.route, row.seq))
        else:
            counts[name][row.state] += 1
    lost = 0
    for name, by_state in counts.items():
        ledger = state.routes[name]
        fixed = _recounted(ledger, by_state)
        lost += max(0, fixed.books.gaps - ledger.books.gaps)
        state.routes[name] = fixed
    state.route_number = max([state.route_number, *(row.route + 1 for row in rows)])
    return lost, frozenset(left_out)


def _is_ahead(ledger: RouteLedger, seq: int) -> bool:
    return seq > ledger.cursor.seq and seq not in ledger.beyond


def _recounted(ledger: RouteLedger, by_state: Mapping[int, int]) -> RouteLedger:
    """The books that these rows allow; accepted and what lies ahead of the cursor stay as they are.

    What the rows do not show any more is a gap; what they show too much of had been delivered before (a replay whose commit
    row is lost).
    """
    books = ledger.books
    held, dead, requeued = by_state[_HELD], by_state[_DEAD], by_state[_QUEUED]
    missing = (books.held + books.dead_letter + ledger.requeued) - (held + dead + requeued)
    delivered = books.delivered + min(0, missing)
    gaps = books.gaps + max(0, missing) + min(0, delivered)
    fixed = Books(books.accepted, max(0, delivered), held, dead, books.filtered, max(0, gaps))
    return replace(ledger, books=fixed, requeued=requeued, done=sum(by_state[done] for done in DONE_STATES))


def _with_books(ledger: RouteLedger, **changes: int) -> RouteLedger:
    return replace(ledger, books=replace(ledger.books, **changes))


def _accepted(status: Mapping[str, Any], part: str) -> dict[str, int]:
    """Name -> accepted of a status answer; its MAC is ours, its shape may be of another version."""
    rows = status.get(part)
    found = {}
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {"name": str(name), "accepted": int(accepted)}:
                found[name] = accepted
    return found


def reconcile_ahead(state: JournalState, blocks: Sequence[HeldBlock]) -> int:
    """Messages that the books say are ahead of a route but that no block holds any more become its gaps; how many.

    ``blocks``: every block row in seq order, lost ones that came back empty included.
    """
    readable = {name: -_settled_ahead(state, ledger, blocks) for name, ledger in state.routes.items()}
    for block in blocks:
        for name, rule in rules_at(state.versions, block.first_seq).items():
            if (ledger := state.routes.get(name)) is not None and block.commit >= ledger.cursor.commit:
                readable[name] += members(rule, name, block.census)
    lost = 0
    for name, ledger in state.routes.items():
        missing = ledger.ahead - readable[name]
        lost += max(0, missing)
        if missing > 0:
            state.routes[name] = _with_books(ledger, gaps=ledger.books.gaps + missing)
        elif missing < 0:
            state.routes[name] = _with_books(ledger, accepted=ledger.books.accepted - missing)
    return lost


def _settled_ahead(state: JournalState, ledger: RouteLedger, blocks: Sequence[HeldBlock]) -> int:
    """How much of the blocks from the cursor's commit on is decided already, as far as those blocks are still there."""
    cursor = ledger.cursor
    here: Counter[int] = Counter()
    for block in blocks:
        if block.commit == cursor.commit and ledger.name in (rules := rules_at(state.versions, block.first_seq)):
            here[block.traffic] += members(rules[ledger.name], ledger.name, block.census)
    passed = sum(min(count, here[traffic.code]) for traffic, count in cursor.partial.items())
    ids = {block.id for block in blocks}
    declared = sum(gap.count for row, gap in ledger.gaps.items() if row in ids)
    return passed + declared + _held_beyond(ledger, blocks)


def _held_beyond(ledger: RouteLedger, blocks: Sequence[HeldBlock]) -> int:
    """How many of the messages that are settled beyond the cursor lie in a block; blocks of one class ascend and do not overlap."""
    if not ledger.beyond:
        return 0
    by_class: dict[int, list[HeldBlock]] = {}
    for block in blocks:
        by_class.setdefault(block.traffic, []).append(block)
    held = 0
    for seq, (code, _) in ledger.beyond.items():
        mates = by_class.get(code, [])
        at = bisect_right(mates, seq, key=lambda block: block.first_seq)
        held += at > 0 and mates[at - 1].last_seq >= seq
    return held
