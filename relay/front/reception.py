"""Connections from accept to the session: what becomes of each.

Not here: when it is whose turn and how long it may take (lobby), TLS and the head themselves (newcomer), who comes in
(admission), those who need a task (errands). The one rule: until it is a session, a connection is one object in one
table, and whatever happens to it ends in `_close`, in an errand or in `_start`.
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import Final

import trio

from relay.auth.certificates import ClientCertificate
from relay.errors import Rejected
from relay.front.admission import Admission, Candidate
from relay.front.doors import Visit
from relay.front.errands import Errands
from relay.front.gate import Gate
from relay.front.lobby import Lobby
from relay.front.newcomer import Newcomer
from relay.front.refusals import Refusals
from relay.front.state import State
from relay.front.tenants import Tenant
from relay.limits.pending import Place as Pending
from relay.net.client_certificates import REFUSED as CERTIFICATE_REFUSED
from relay.net.handshake import is_upgrade
from relay.net.head import Headers, Plain
from relay.net.http import HTTPConnection
from relay.net.link import Link, given_up_after
from relay.net.poller import Poller
from relay.net.routes import Router
from relay.net.sieve import Shut
from relay.net.transport import Lost, Transport, reset
from relay.session.services import Services

log = logging.getLogger("relay")

_TLS_TIMEOUT: Final = Rejected(408, "timeout", "the handshake did not end in time", setting="timeouts.tls")


class Reception:
    """`router` has the HTTP pages."""

    def __init__(self, state: State, services: Services, poller: Poller, router: Router) -> None:
        self.state = state
        self.services = services
        self._poller = poller
        self._refusals = Refusals(services)
        self.gate = Gate(state, services, self._refusals)
        self._admission = Admission(state, services, poller, poller.tick, self._refusals)
        self._errands = Errands(self, self._admission, self._refusals, router)
        self._lobby = Lobby(state, services, poller, self, lambda: not (state.links or self._errands.running))

    @property
    def head_limits(self) -> tuple[int, int]:
        limits = self.services.config.limits
        return limits.head_bytes, limits.head_fields

    # From accept to the first step.

    def take(self, sock: socket.socket, address: str) -> Shut | None:
        """Takes a connection in, unless its address has shown what it will do: then it says for how long not."""
        now = trio.current_time()
        self.services.counters.accepted += 1
        place = self.gate.enter(address, now)
        if isinstance(place, Shut):
            sock.close()
            return place
        sock.setblocking(False)
        if self.state.rules.doors.expects_header(address):
            self._errands.header(sock, address, place)
        else:
            self.receive(sock, address, address, place, now)
        return None

    def receive(self, sock: socket.socket, peer: str, source: str, place: Pending, now: float) -> None:
        """`source` is the address that counts, as far as can be told without the request head."""
        state = self.state
        visit = Visit(state.addresses, source)
        late = state.rules.doors.waits_for_head(source)
        refusal = None
        if not late:
            denied = None
            if not state.rules.networks.allows(source):
                denied = denied_network()
            elif source == peer or self.gate.known(place, source):
                refusal = visit.enter(source, now)
                if refusal is not None and self.gate.crowded:
                    denied = refusal  # saying why costs a TLS handshake; under a flood that is not to be had
            else:
                self._turn_away(sock, place, visit)
                return
            if denied is not None:  # not a word: it is not even told that this is a relay
                self._refusals.rejected(denied, source)
                self._turn_away(sock, place, visit)
                return
        tls = state.certificates is not None
        newcomer = Newcomer(self, self._lobby, sock, place, visit, refusal, late=late, tls=tls)
        try:
            self._lobby.enter(newcomer, now)
        except OSError as error:  # the system's limit of watched descriptors
            log.error("cannot watch a connection: %s", error.strerror)
            self._turn_away(sock, place, visit)

    def _turn_away(self, sock: socket.socket, place: Pending, visit: Visit) -> None:
        self.gate.leave(place)
        visit.leave()
        sock.close()

    # Its turns.

    def proceed(self, newcomer: Newcomer, now: float) -> None:
        """Does what can be done for it. Raises nothing."""
        try:
            newcomer.proceed(now)
        except Lost as lost:  # as text: a log record outlives it
            log.debug("connection from %s lost before it was one: %s", newcomer.visit.address, str(lost))
            self._close(newcomer)
        except Exception:
            log.exception("bug while serving a connection from %s", newcomer.visit.address)
            self._close(newcomer)

    # TLS.

    def begin(self, newcomer: Newcomer) -> Transport | None:
        config, certificates = self.services.config, self.state.certificates
        try:
            return Transport(
                newcomer.sock,
                None if certificates is None else certificates.context,
                unsent_bytes=config.outbox.unsent_bytes,
                congestion=config.outbox.congestion,
                unacknowledged=given_up_after(config.websocket),
            )
        except (OSError, ValueError):  # it was gone before we began
            self._refusals.tls_failed("eof", newcomer.visit.address, "it was gone before the handshake")
            self._close(newcomer)
            return None

    def insecure(self, newcomer: Newcomer, why: str) -> None:
        address, place = newcomer.visit.address, newcomer.place
        self.state.pending.failed(place.key, trio.current_time())
        if why.startswith(CERTIFICATE_REFUSED):
            self._refusals.tls_failed("certificate", address, why, "tls.client_certificates")
            assert newcomer.transport is not None
            self.hand_over(newcomer)
            self._errands.linger(
                newcomer, newcomer.transport
            )  # with TLS 1.3 it thinks that it is in, and has sent its request
        else:
            self._refusals.tls_failed("protocol" if why.startswith("TLS") else "eof", address, why)
            self._close(newcomer, said=True)

    # The request head.

    def has_head(self, newcomer: Newcomer, plain: Plain | None) -> None:
        now = trio.current_time()
        http = self.http_of(newcomer)
        if plain is None:
            self.hand_over(newcomer)
            self._errands.read(newcomer, http)
            return
        try:
            request = http.begin(plain)
            refusal = newcomer.refusal or newcomer.visit.enter(http.remote, now)  # now at the latest it is known whose
            if refusal is not None:
                raise refusal
        except Rejected as rejected:
            self.refuse(newcomer, http, rejected)
            return
        if not is_upgrade(request):
            self.hand_over(newcomer)
            self._errands.answer(newcomer, http, request)
            return
        assert newcomer.transport is not None
        candidate = Candidate(http, request, newcomer.transport, newcomer.visit)
        try:
            link = self._admission.admit_now(candidate)
        except Rejected as rejected:
            self._admission.refused(candidate, rejected)
            self.hand_over(newcomer)
            self._errands.turn_down(newcomer, candidate, rejected)
            return
        if link is None:
            self.hand_over(newcomer)
            self._errands.admit(newcomer, candidate)
        else:
            self._start(newcomer, candidate, link)

    def no_head(self, newcomer: Newcomer, why: Rejected | None) -> None:
        if why is None:
            self._close(newcomer)
        else:
            self.refuse(newcomer, self.http_of(newcomer, cut_off=True), why)

    def refuse(self, newcomer: Newcomer, http: HTTPConnection, rejected: Rejected) -> None:
        """By a status."""
        self._refusals.rejected(rejected, http.remote)
        self.hand_over(newcomer)
        self._errands.refuse(newcomer, http, rejected)

    def http_of(self, newcomer: Newcomer, *, cut_off: bool = False) -> HTTPConnection:
        transport = newcomer.transport
        assert transport is not None
        certificate = None
        if self.services.config.tls.client_certificates != "off":
            der = transport.peer_certificate()
            certificate = None if der is None else ClientCertificate(der)
        return HTTPConnection(
            transport, self.services.config.limits, remote=newcomer.visit.address, tls=transport.tls,
            client=self._client if newcomer.late else None, certificate=certificate, received=newcomer.received,
            cut_off=cut_off,
        )  # fmt: skip

    def _client(self, headers: Headers, address: str) -> str:
        """Whose address a request counts as that a trusted proxy passes on. Raises Rejected 403."""
        client = self.state.rules.doors.client(headers, address)
        if not self.state.rules.networks.allows(client):
            raise denied_network()
        return client

    # The session.

    def _start(self, newcomer: Newcomer, candidate: Candidate, link: Link) -> None:
        """It is one from now on. The poller knows the descriptor already, and only its handler changes."""
        transport, accept = candidate.transport, candidate.accept()
        self._lobby.leave(newcomer)
        self.gate.leave(newcomer.place)
        self.watch_end(candidate, link)
        try:
            sent = transport.send(accept)
        except Lost:
            self._poller.remove(newcomer.fd)
            link.abort()
            raise
        if sent < len(accept):
            link.writer.keep(accept[sent:])
        link.services.counters.handshakes += 1
        try:
            link.start(candidate.http.take_early(), candidate.last)
        except Exception:
            link.abort()
            raise

    def watch_end(self, candidate: Candidate, link: Link) -> None:
        """Whoever started it need not wait for its end."""
        assert candidate.tenant is not None
        link.gone = partial(self._gone, candidate.tenant, candidate.visit)

    def _gone(self, tenant: Tenant, visit: Visit, link: Link) -> None:
        try:
            self._admission.departures.ended(tenant, link, visit.address)
        except Exception:
            log.exception("bug while serving a connection from %s", visit.address)
        finally:
            visit.leave()
        self._lobby.look()

    # Those who are slow, and those who are in the way.

    def interrupted(self, newcomer: Newcomer) -> None:
        self._slow(newcomer, _TLS_TIMEOUT, told=newcomer.secured)

    def too_slow(self, newcomer: Newcomer) -> bool:
        """Its time is up. Whether it is told: saying so to hundreds would make all others wait."""
        why = _TLS_TIMEOUT
        told = newcomer.secured and not self.gate.crowded
        if newcomer.secured:
            why = Rejected(408, "timeout", "the request head did not come in time", setting="timeouts.head")
        self._slow(newcomer, why, told=told)
        return told

    def _slow(self, newcomer: Newcomer, why: Rejected, *, told: bool) -> None:
        cause = self.gate.too_slow(newcomer.place, why)
        if told:
            self.refuse(newcomer, self.http_of(newcomer, cut_off=True), cause)
            return
        if cause is _TLS_TIMEOUT:
            self._refusals.tls_failed("timeout", newcomer.visit.address, cause.reason, cause.setting)
        else:
            self._refusals.rejected(cause, newcomer.visit.address)
        self._close(newcomer, aborted=True)

    # The end.

    def hand_over(self, newcomer: Newcomer) -> None:
        """To a task, which closes it. The poller tells nothing of it any more."""
        self._lobby.leave(newcomer)
        self._poller.remove(newcomer.fd)

    def _close(self, newcomer: Newcomer, *, aborted: bool = False, said: bool = False) -> None:
        """`said`: TLS has said its last word already. More than once is as once."""
        if newcomer.over:
            return
        self.hand_over(newcomer)
        if aborted:
            reset(newcomer.sock)
        elif newcomer.transport is not None and not said:
            newcomer.transport.close()
        newcomer.sock.close()
        self.leave(newcomer.place, newcomer.visit)

    def leave(self, place: Pending, visit: Visit) -> None:
        """Nothing is left of it."""
        self.gate.leave(place)
        if visit.guest is not None:
            visit.guest.leave()
        visit.leave()
        self._lobby.look()

    # The life of it all.

    async def run(self, connections: trio.Nursery) -> None:
        """Until `close` was called and nobody is left, or it is cancelled: then all are cut."""
        self._errands.nursery = connections
        try:
            await self._lobby.run()
        finally:
            for newcomer in list(self._lobby.here):
                self._close(newcomer, aborted=True)
            for link in list(self.state.links):
                link.abort()

    def look(self) -> None:
        """An errand is over."""
        self._lobby.look()

    def close(self) -> None:
        """Nobody comes any more."""
        self._lobby.close()


def denied_network() -> Rejected:
    return Rejected(403, "address_denied", "this network may not connect", setting="limits.deny_addresses")
