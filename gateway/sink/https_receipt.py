"""The body of a 200: which events the destination took. Strict, because a portal or a proxy may answer in its place.

Source: DESIGN 6.3; ``gateway/receiver/openapi.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.model.errors import RemoteProtocolError
from gateway.model.receipt import Verdict, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["REASON_MAX_CHARS", "read_receipt"]

#: A destination's text is kept, sealed, with the dead letter; so much of it.
REASON_MAX_CHARS: Final = 1000

_WORDS: Final = {
    "accepted": VerdictKind.ACCEPTED,
    "duplicate": VerdictKind.DUPLICATE,
    "rejected": VerdictKind.REJECTED,
    "retry": VerdictKind.RETRY,
}
_PLAIN: Final = {word: Verdict(kind) for word, kind in _WORDS.items()}
_DOUBT: Final = Verdict(VerdictKind.DOUBT)


def read_receipt(body: bytes, ids: Sequence[str]) -> tuple[Verdict, ...]:
    """One verdict per id, in their order; DOUBT for those that the receipt does not name.

    Raises: RemoteProtocolError receipt-not-json, receipt-no-results, receipt-malformed, receipt-unknown-id,
    receipt-contradiction (one id twice).
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteProtocolError("receipt-not-json") from None
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list):
        raise RemoteProtocolError("receipt-no-results")
    sent = set(ids)
    found: dict[str, Verdict] = {}
    for result in results:
        event_id, verdict = _result(result)
        if event_id not in sent:
            raise RemoteProtocolError("receipt-unknown-id")
        if event_id in found:
            raise RemoteProtocolError("receipt-contradiction")
        found[event_id] = verdict
    return tuple([found.get(event_id, _DOUBT) for event_id in ids])


def _result(result: Any) -> tuple[str, Verdict]:
    if not isinstance(result, dict):
        raise RemoteProtocolError("receipt-malformed")
    event_id, status, reason = result.get("id"), result.get("status"), result.get("reason")
    if not isinstance(event_id, str) or not isinstance(status, str) or status not in _WORDS:
        raise RemoteProtocolError("receipt-malformed")
    if reason is None or reason == "":
        return event_id, _PLAIN[status]
    if not isinstance(reason, str):
        raise RemoteProtocolError("receipt-malformed")
    return event_id, Verdict(_WORDS[status], reason[:REASON_MAX_CHARS])
