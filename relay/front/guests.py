"""Guests: clients that come without a token, and may say it in their first message (`auth.deferred`).

The handshake goes on inside the WebSocket: 101, one message with the token, then all that is asked of everybody else.
Not here: whom a token is for (guard), what is asked afterwards (admission). The one rule: a stranger costs a bounded
number of bytes for a bounded time; he is no connection: no outbox, no room, no session, and only his own task reads
him, so that nothing is read while his keys are fetched.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.errors import CloseCode, CloseReason, Refused, Rejected
from relay.front.parting import linger
from relay.front.state import State
from relay.limits.buckets import Rate
from relay.limits.counts import Counts
from relay.net.handshake import Credential, Upgrade
from relay.net.head import Request
from relay.net.link import NO_CODE, Link
from relay.net.slow_path import EngineLimits
from relay.net.transport import Lost, Transport
from relay.net.websocket import Engine
from relay.protocols.base import Ping, ProtocolError, RequestId, WireProtocol
from relay.protocols.frames import PONG, close_frame, frame
from relay.session.services import Services

FRAGMENTS: Final = 16
"""Fragments that the first message may come in. Nobody cuts a token into pieces; proxies may."""
CONTROL: Final = Rate(10.0, 10.0)
"""Pings and pongs of a guest, a second: a session may send more."""
SOON: Final = 5.0
"""Seconds after which it is worth while to come again: guests do not stay long."""


class Guests:
    """Who may be one, and how many."""

    def __init__(self, state: State, services: Services) -> None:
        self._state = state
        self._services = services
        self._of_address = Counts(0)

    def expects(self, request: Request, upgrade: Upgrade) -> bool:
        """Whether this client may tell later who it is: the mode is on, and it has said nothing about it now."""
        rules = self._state.rules
        return (
            rules.config.auth.deferred.enabled
            and upgrade.credential is None
            and not (request.certificate is not None and rules.certificates.identify)
        )

    def enter(self, request: Request, transport: Transport, protocol: WireProtocol) -> Guest:
        """One more guest, who owes a `leave`. Raises Rejected: 503, 429."""
        state = self._state
        state.check_failures(request.remote)
        settings = state.rules.config.auth.deferred
        why = "as many clients as may are about to send their token"
        if len(state.guests) >= settings.guests:
            raise Rejected(503, "too_many_guests", why, retry_after=SOON, setting="auth.deferred.guests")
        key = state.addresses.key(request.remote)
        self._of_address.limit = settings.per_address
        if key and not self._of_address.enter(key):
            why = f"{why} from your address"
            raise Rejected(429, "too_many_guests", why, retry_after=SOON, setting="auth.deferred.per_address")
        guest = Guest(self, key, transport, protocol, self._services)
        state.guests.add(guest)
        return guest

    def left(self, guest: Guest, outcome: str) -> None:
        """He is none any more."""
        if guest in self._state.guests:
            self._state.guests.discard(guest)
            if guest.key:
                self._of_address.leave(guest.key)
            self._services.counters.guests[outcome] += 1


class Guest:
    """One of them: reads until the token is there, with an engine of its own (net/slow_path.Sink)."""

    __slots__ = (
        "_early", "_engine", "_guests", "_out", "_problem", "_request", "_scope", "_services", "_token", "_transport",
        "dismissed", "gone", "key", "outcome", "protocol",
    )  # fmt: skip

    def __init__(
        self, guests: Guests, key: str, transport: Transport, protocol: WireProtocol, services: Services
    ) -> None:
        self.key = key
        self.protocol = protocol
        self.outcome = "left"
        self.gone = self.dismissed = False
        self._guests = guests
        self._transport = transport
        self._services = services
        config = services.config
        limits = EngineLimits(config.auth.deferred.bytes, FRAGMENTS, CONTROL, config.websocket.fast_path)
        self._engine: Engine | None = Engine(self, limits)
        self._engine.message = self._message
        self._out = b""
        self._problem: Rejected | None = None
        self._token: str | None = None
        self._request: RequestId = None
        self._early = b""
        self._scope = trio.CancelScope()

    async def credential(self, accept: bytes, early: bytes) -> Credential:
        """Sends the 101, and returns what his first message says. `early` came behind the request head. Raises
        Rejected, Lost.
        """
        seconds = self._services.config.timeouts.auth
        self._scope.deadline = trio.current_time() + seconds
        with self._scope:
            await self._transport.send_all(accept)
            await self._read(early)
        if self._token is not None:
            return Credential("message", self._token)
        if self.dismissed:
            why = "the server is going away"
            raise Rejected(503, "draining", why, retry_after=1.0, close_code=CloseCode.GOING_AWAY)
        if self._problem is not None:
            raise self._problem
        raise Rejected(
            408, "timeout", "the token did not come in time", setting="timeouts.auth", close_code=CloseCode.UNAUTHORIZED
        )

    async def _read(self, data: bytes) -> None:
        """Until the token is there, or a reason why it will not be. Raises Lost."""
        engine, transport = self._engine, self._transport
        assert engine is not None
        most, total = self._services.config.auth.deferred.bytes, 0
        while True:
            total += len(data)
            if data:
                engine.feed(data, trio.current_time())
            if self._out:
                out, self._out = self._out, b""
                await transport.send_all(out)
            if self.gone:
                await linger(transport, self._services.config.timeouts.close)
                raise Lost("the guest has closed")
            if self._token is not None:  # what came behind it is for the session, and nothing more is read till then
                self._early = engine.release()
                total -= len(self._early)
            if total > most:
                self._token = None
                self._problem = too_much(most)
            if self._problem is not None or self._token is not None:
                self._engine = None
                return
            data = await transport.receive_some()
            if not data:
                raise Lost("the guest has gone")

    def begin(self, link: Link, last: int) -> None:
        """The session begins: hello, the answer to the first message if it wants one, and what came behind it."""
        self.outcome = "admitted"
        self.leave()
        link.start(b"", last)
        session = link.connection.main
        if session.closing is None:
            session.ok(self._request, {"expires": session.identity.expires})
        if self._early:
            link.take(self._early)

    async def refuse(self, rejected: Rejected) -> None:
        """Tells why, and ends. Raises nothing but Cancelled."""
        self.outcome = rejected.code
        code = CloseCode(rejected.close_code)
        known = rejected.code == str(int(code))  # then the reason is all there is to say
        why = rejected.reason if known else f"{rejected.code}: {rejected.reason}"
        reason = CloseReason(code, why, rejected.setting, rejected.retry_after)
        words = (self.protocol.bye(reason) or b"") + close_frame(code, reason.text())
        seconds = self._services.config.timeouts.close
        try:
            with trio.move_on_after(seconds):
                await self._transport.send_all(words)
                await linger(self._transport, seconds)
        except Lost:
            pass

    def leave(self) -> None:
        self._guests.left(self, self.outcome)

    def dismiss(self) -> None:
        """The server goes away: nobody is waited for who has said nothing yet."""
        self.dismissed = True
        self._scope.cancel()

    # What the engine tells.

    def _message(self, opcode: int, payload: bytes) -> None:
        engine = self._engine
        assert engine is not None
        try:
            command = self.protocol.opening(opcode, payload)
        except Refused as refused:
            engine.stop()
            self._problem = Rejected(401, "auth_expected", refused.message, setting="auth.deferred.enabled")
            return
        except ProtocolError as error:
            engine.stop()
            self.failed(error.reason)
            return
        if isinstance(command, Ping):
            self._out += self.protocol.pong(command.id) or b""
        else:
            self._request, self._token = command.id, command.token
            engine.hold(True)

    def several(self) -> None: ...

    def ping(self, payload: bytes) -> None:
        self._out += frame(PONG, payload)

    def pong(self, payload: bytes) -> None: ...

    def closed(self, code: int, reason: str) -> None:
        """He closes: answered with his code (RFC 6455 section 5.5.1)."""
        self.gone = True
        self._out += close_frame(CloseCode.NORMAL if code == NO_CODE else code)

    def failed(self, reason: CloseReason) -> None:
        if reason.code == CloseCode.TOO_BIG:
            self._problem = too_much(self._services.config.auth.deferred.bytes)
        else:
            code = int(reason.code)
            self._problem = Rejected(400, str(code), reason.reason, setting=reason.setting, close_code=code)

    def inflated(self, more: int) -> None: ...


def too_much(most: int) -> Rejected:
    """More came than a guest may send, or a message of more fragments."""
    why = f"more than {most} bytes, or {FRAGMENTS} fragments, before the token"
    return Rejected(413, "too_large", why, setting="auth.deferred.bytes", close_code=CloseCode.TOO_BIG)
