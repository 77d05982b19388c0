"""Rows as JSON objects: the one form that the admin socket, ``--json`` and the tables for people share.

Nothing here shows content; ``revealed`` alone does, and its callers have had it audited.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from gateway.model.clock import rfc3339

if TYPE_CHECKING:
    from gateway.admin.ports import AuditReport, TapLine
    from gateway.journal.interface import ExceptionRow, QueueRow, ReplayResult, TraceRecord
    from gateway.journal.refused import RefusedRow
    from gateway.model.message import StoredMessage

__all__ = ["Row", "audit_row", "exception_row", "message_row", "queue_row", "refused_row", "replay_row", "revealed", "tap_row", "trace_row"]

Row = dict[str, object]


def queue_row(row: QueueRow, route: str) -> Row:
    """One queued message."""
    return {
        "id": row.event_id,
        "route": route,
        "source": row.source,
        "type": row.kind,
        "class": row.traffic.label,
        "received": rfc3339(row.received_us),
        "bytes": row.size_bytes,
        "lane_seq": row.laneseq,
        "revision": row.revision,
    }


def exception_row(row: ExceptionRow) -> Row:
    """One dead letter. ``code`` is our word; the destination's text is content."""
    return {
        "id": row.event_id,
        "route": row.route,
        "source": row.source,
        "type": row.kind,
        "class": row.traffic.label,
        "code": row.code,
        "received": rfc3339(row.received_us),
        "since": rfc3339(row.at_us),
        "bytes": row.size_bytes,
        "lane_seq": row.laneseq,
        "revision": row.revision,
    }


def message_row(message: StoredMessage, gateway: str) -> Row:
    """The envelope of a stored message."""
    return {
        "id": f"{gateway}/{message.incarnation}/{message.seq}",
        "source": message.source,
        "type": message.kind,
        "class": message.traffic.label,
        "received": rfc3339(message.received_us),
        "clock": message.clock_state.value,
        "charset": message.charset,
        "bytes": len(message.body),
        "ordering_key": message.ordering_key,
        "commit": message.commit,
    }


def trace_row(record: TraceRecord) -> Row:
    """One recorded fact."""
    fact = record.record
    return {
        "at": rfc3339(record.at_us),
        "fact": fact.kind.value,
        "route": fact.route,
        "source": fact.source,
        "actor": fact.actor,
        "detail": dict(fact.detail),
        "commit": record.commit,
    }


def refused_row(row: RefusedRow) -> Row:
    """One refused frame; the peer's network address is sealed at rest and shown to operators."""
    return {"id": row.id, "at": rfc3339(row.at_us), "source": row.source, "code": row.code, "peer": row.peer, "bytes": row.size_bytes}


def replay_row(result: ReplayResult, *, dry_run: bool) -> Row:
    """What a range replay did or would do."""
    replayed = result.delivered + result.dead_letter
    return {
        "replayed": replayed,
        "delivered": result.delivered,
        "dead_letter": result.dead_letter,
        "skipped": dict(result.skipped),
        "dry_run": dry_run,
    }


def audit_row(report: AuditReport) -> Row:
    """The outcome of ``audit verify``."""
    return {
        "ok": report.intact,
        "first_commit": report.first_commit,
        "last_commit": report.last_commit,
        "commits": report.commits,
        "records": report.records,
        "blocks": report.blocks,
        "findings": [{"commit": finding.commit, "fault": finding.fault.value} for finding in report.findings],
        "counts": {fault.value: count for fault, count in report.counts.items()},
        "declared": [{"commit": declared.commit, "fact": declared.kind.value} for declared in report.declared],
        "witness": report.witness.value,
    }


def tap_row(line: TapLine) -> Row:
    """The envelope of a message that has just been committed."""
    return {
        "id": line.event_id,
        "source": line.source,
        "type": line.kind,
        "class": line.traffic,
        "received": rfc3339(line.received_us),
        "bytes": len(line.body),
    }


def revealed(row: Row, body: bytes, charset: str, reason: str | None = None) -> Row:
    """``row`` with its content (base64: the wire bytes may be anything)."""
    shown = {**row, "charset": charset, "data_base64": base64.b64encode(body).decode("ascii")}
    return shown if reason is None else {**shown, "reason": reason}
