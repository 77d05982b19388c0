"""The ``mllp`` kind: one persistent connection, one message outstanding, its reply matched by MSA-2."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, assert_never

from gateway.codec.acknowledgement import AckCode, parse_reply
from gateway.codec.message_header import HeaderFault, scan
from gateway.codec.mllp import Frame, MllpReceiver, commit_block, frame
from gateway.model.errors import ConfigurationError, TransientError
from gateway.model.message import GATEWAY_SOURCE
from gateway.model.receipt import Answered, BatchRejected, Blocked, Failed, RouteState, Verdict, VerdictKind
from gateway.sink.https_receipt import REASON_MAX_CHARS
from gateway.sink.mllp_replies import AMBIGUOUS, DEFAULTS, Action, ReplyEvent, softened
from gateway.sink.watched_files import TlsFiles
from gateway.transport.tcp import connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.codec.acknowledgement import Reply
    from gateway.codec.mllp import FrameEvent
    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome
    from gateway.settings.fields import SecretReference
    from gateway.sink.mllp_settings import MllpSinkSettings
    from gateway.sink.services import SinkServices
    from gateway.transport.tcp import TcpLink

__all__ = ["MllpSink", "build"]

#: A reply is a few hundred bytes; a query response may carry more.
_REPLY_MAX_BYTES: Final = 1024 * 1024
#: FS without CR ends a reply when nothing follows for so long.
_FRAME_IDLE_S: Final = 0.5
#: Control ids that were answered or given up; a destination may send their replies (again) much later.
_REMEMBERED: Final = 512
#: Errors in a row are counted per message; so many messages at most.
_COUNTED_MAX: Final = 256


class MllpSink:
    """One route's MLLP destination. ``stale_replies``: discarded since the start."""

    max_messages = 1  #: a crash then leaves at most one message in doubt; receivers of HL7 v2 rarely recognise a duplicate
    max_bytes = 1
    linger_s = 0.0

    def __init__(self, settings: MllpSinkSettings, services: SinkServices, tls: TlsFiles | None) -> None:
        self.stale_replies = 0
        self._settings = settings
        self._services = services
        self._tls = tls
        self._actions = {**DEFAULTS, ReplyEvent.CA: Action.WAIT if settings.await_application_ack else Action.DONE, **settings.on_reply}
        self._link: TcpLink | None = None
        self._framer = MllpReceiver(_REPLY_MAX_BYTES, _REPLY_MAX_BYTES)
        self._frames: deque[FrameEvent] = deque()
        self._known: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._errors: dict[tuple[str, int], int] = {}
        self._sent_s = -settings.min_interval_ms / 1000

    def accepts(self, delivery: Delivery) -> bool:
        """HL7 v2 messages only; what the gateway itself has to say has no form here."""
        return delivery.message.source != GATEWAY_SOURCE and delivery.message.kind.startswith("hl7.v2.")

    def prepare(self, batch: Sequence[Delivery]) -> None:
        """The stored bytes are sent as they are: nothing to render."""

    async def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Send the message and wait for what its reply means; see ``mllp_replies.py``."""
        delivery = batch[0]
        try:
            link = await self._connected()
        except TransientError as error:
            return Failed(error.code)
        except ConfigurationError:
            return Blocked(RouteState.MISCONFIGURED, "tls-files")
        await self._space_out()
        control_id = _control_id(delivery.message.body)
        settings = self._settings
        event, reply = await self._exchange(link, delivery.message.body, control_id)
        action = self._action(event, reply)
        if action is Action.WAIT:
            event, reply = await self._await_reply(link, control_id, settings.application_timeout_s, application=True)
            action = self._action(event, reply)
        if control_id:
            self._known.append(control_id)
        if event in AMBIGUOUS or not settings.persistent:
            await self._disconnect()
        return self._outcome(delivery, event, reply, action)

    async def close(self) -> None:
        """Close the connection; idempotent."""
        await self._disconnect()

    # --- the dialogue ---------------------------------------------------------------------------------------------

    async def _connected(self) -> TcpLink:
        if self._link is not None and await self._usable(self._link):
            return self._link
        await self._disconnect()
        address, settings = self._settings.address, self._settings
        tls = None if self._tls is None else self._tls.tls()
        self._link = await connect(address.host, address.port, tls, settings.connect_timeout_s)
        self._framer = MllpReceiver(_REPLY_MAX_BYTES, _REPLY_MAX_BYTES)
        self._frames.clear()
        return self._link

    async def _usable(self, link: TcpLink) -> bool:
        """An idle connection that the peer has closed would leave the next message in doubt; look before sending."""
        while True:
            try:
                data = await link.receive(0)
            except TransientError:
                return not self._framer.must_close
            if not data:
                return False
            self._framer.receive(data)
            self.stale_replies += 1  # nothing is outstanding, so it is no reply to what comes next

    async def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _space_out(self) -> None:
        clock, interval_s = self._services.clock, self._settings.min_interval_ms / 1000
        if (wait_s := self._sent_s + interval_s - clock.monotonic_s()) > 0:
            await asyncio.sleep(wait_s)
        self._sent_s = clock.monotonic_s()

    async def _exchange(self, link: TcpLink, body: bytes, control_id: bytes) -> tuple[ReplyEvent, Reply | None]:
        timeout_s = self._settings.answer_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await link.send(frame(body))
        except TimeoutError:
            return ReplyEvent.TIMEOUT, None
        except TransientError:
            return ReplyEvent.CLOSED, None
        return await self._await_reply(link, control_id, timeout_s, application=False)

    async def _await_reply(
        self, link: TcpLink, control_id: bytes, timeout_s: float, *, application: bool
    ) -> tuple[ReplyEvent, Reply | None]:
        """The first reply that is not stale. ``application``: a repeated accept acknowledgement is passed over too."""
        end_s = self._services.clock.monotonic_s() + timeout_s
        while True:
            while self._frames:
                event, reply = self._classify(self._frames.popleft(), control_id)
                if event is None or (application and event in {ReplyEvent.CA, ReplyEvent.COMMIT_ACK}):
                    self.stale_replies += 1
                    continue
                return event, reply
            if self._framer.must_close:
                return ReplyEvent.GARBAGE, None
            if (ended := await self._receive(link, end_s)) is not None:
                return ended, None

    async def _receive(self, link: TcpLink, end_s: float) -> ReplyEvent | None:
        """Wait for bytes; the end of the wait where none came."""
        left_s = end_s - self._services.clock.monotonic_s()
        if left_s <= 0:
            return ReplyEvent.TIMEOUT
        try:
            data = await link.receive(min(left_s, _FRAME_IDLE_S) if self._framer.awaiting_idle else left_s)
        except TransientError:
            if not self._framer.awaiting_idle:
                return ReplyEvent.TIMEOUT
            self._frames.extend(self._framer.idle())
            return None
        if not data:
            cut = self._framer.end()
            return ReplyEvent.GARBAGE if cut else ReplyEvent.CLOSED
        self._frames.extend(self._framer.receive(data))
        return None

    def _classify(self, event: FrameEvent, control_id: bytes) -> tuple[ReplyEvent | None, Reply | None]:
        """None = stale: a reply to a message that was answered or given up before."""
        if not isinstance(event, Frame):
            return ReplyEvent.GARBAGE, None
        if self._settings.mllp2 and (taken := commit_block(event.body)) is not None:
            return (ReplyEvent.COMMIT_ACK if taken else ReplyEvent.COMMIT_NAK), None
        reply = parse_reply(event.body)
        if reply is None:
            return ReplyEvent.GARBAGE, None
        if reply.control_id == control_id or (not reply.control_id and self._settings.accept_empty_msa2):
            return ReplyEvent(reply.code.value), reply
        if not reply.control_id:
            return ReplyEvent.EMPTY_ID, reply
        return (None if reply.control_id in self._known else ReplyEvent.MISMATCH), reply

    # --- what it means --------------------------------------------------------------------------------------------

    def _action(self, event: ReplyEvent, reply: Reply | None) -> Action:
        action = self._actions[event]
        if reply is None or event in AMBIGUOUS:
            return action
        return softened(action, reply, frozenset(self._settings.retry_errors), self._settings.retry_texts)

    def _outcome(self, delivery: Delivery, event: ReplyEvent, reply: Reply | None, action: Action) -> Outcome:
        code = f"mllp-{event.value.lower()}"
        key = (delivery.message.incarnation, delivery.message.seq)
        match action:
            case Action.DONE:
                self._errors.pop(key, None)
                return Answered((Verdict(VerdictKind.ACCEPTED),), code)
            case Action.DEAD:
                self._errors.pop(key, None)
                return BatchRejected(code, "" if reply is None else reply.text.decode("latin-1")[:REASON_MAX_CHARS])
            case Action.SUSPEND:
                return Blocked(RouteState.REJECTING, f"{code}-suspended", self._settings.suspend_s)
            case Action.RETRY | Action.WAIT:
                return self._retry(key, event, code, reply)
            case _:
                assert_never(action)

    def _retry(self, key: tuple[str, int], event: ReplyEvent, code: str, reply: Reply | None) -> Outcome:
        """Ambiguous ones are failures of the link. An error is about this message: other sources go on meanwhile."""
        if event in AMBIGUOUS or reply is None:
            return Failed(code, in_doubt=event is not ReplyEvent.COMMIT_NAK)
        if len(self._errors) >= _COUNTED_MAX:
            self._errors.clear()
        count = self._errors[key] = self._errors.get(key, 0) + 1
        if reply.code in {AckCode.AE, AckCode.CE} and count >= self._settings.suspend_after:
            return Blocked(RouteState.REJECTING, f"{code}-suspended", self._settings.suspend_s)
        return Answered((Verdict(VerdictKind.RETRY),), code)


def _control_id(body: bytes) -> bytes:
    found = scan(body)
    return (found.header if isinstance(found, HeaderFault) else found).control_id


def build(settings: MllpSinkSettings, services: SinkServices) -> MllpSink:
    """The sink of that ``[[sink]]`` table for one route; connects with the first ``send``."""

    def place(reference: SecretReference | None) -> Path | None:
        return None if reference is None else reference.place(services.credentials_directory)

    tls = settings.tls
    files = None if tls is None else TlsFiles(place(tls.ca), place(tls.cert), place(tls.key), tls.server_name or "")
    return MllpSink(settings, services, files)
