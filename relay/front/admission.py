"""A TCP connection from accept to its end: TLS, request head, then HTTP pages or a WebSocket session.

Each step has its own deadline and its own refusal. Not here: what a session does. The one rule: whatever one client
does or sends, it ends with this task and touches nobody else; the guard in `serve` is the only `except Exception`
outside plugins and the poller.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from typing import Final

import trio

from relay.auth.certificates import ClientCertificate
from relay.auth.tokens import Identity
from relay.delivery.tick import Tick
from relay.errors import CLOSE_CODES, Rejected
from relay.front.compression import Compression
from relay.front.doors import HeaderRefused, Visit
from relay.front.gate import Gate
from relay.front.guard import Guard
from relay.front.guests import Guest, Guests
from relay.front.parting import accept_then_close, linger
from relay.front.place import check_home, check_open, find_place, find_session, room_in
from relay.front.returning import Returning
from relay.front.state import State
from relay.front.tenants import Tenant, tenant_of
from relay.limits.pending import Place as Pending
from relay.net.client_certificates import REFUSED as CERTIFICATE_REFUSED
from relay.net.handshake import accept_response, check_upgrade, is_upgrade
from relay.net.head import Headers, Request
from relay.net.http import HTTPConnection
from relay.net.link import LOST, NO_CODE, Link, given_up_after
from relay.net.poller import Poller
from relay.net.routes import Router, serve_requests
from relay.net.tls import close_half_wrapped
from relay.net.transport import Lost, Transport
from relay.plugin.arrival import Arrival
from relay.session.leg import Leg
from relay.session.metered import make_connection
from relay.session.resume import Resuming
from relay.session.services import Services

log = logging.getLogger("relay")

_TLS_TIMEOUT: Final = Rejected(408, "timeout", "the handshake did not end in time", setting="timeouts.tls")


class Admission:
    """Takes connections in. `router` has the HTTP pages."""

    def __init__(self, state: State, services: Services, poller: Poller, tick: Tick, router: Router) -> None:
        self.state = state
        self.services = services
        self.poller = poller
        self.tick = tick
        self.router = router
        self.compression = Compression(services.counters)
        self.guard = Guard(state, services.counters)
        self.guests = Guests(state, services)
        self.returning = Returning(state)
        self.gate = Gate(state, services, self._reject)

    def take(self, nursery: trio.Nursery, sock: socket.socket, address: str) -> None:
        """Begins to serve a connection, unless its address has shown what it will do."""
        self.services.counters.accepted += 1
        place = self.gate.enter(address)
        if place is None:
            sock.close()
        else:
            nursery.start_soon(self.serve, sock, address, place)

    async def serve(self, sock: socket.socket, address: str, place: Pending) -> None:
        """The whole life of one connection. Raises nothing but Cancelled."""
        visit = Visit(self.state.addresses, address)
        doors = self.state.rules.doors
        refusal = None
        transport = None
        try:
            sock.setblocking(False)
            source: str | None = address
            if doors.expects_header(address):
                source = await self._source(sock, address)
            if source is None:
                return
            late = doors.waits_for_head(source)
            if not late:
                if not self.state.rules.networks.allows(source):
                    self._reject(_denied(), source)  # not a word: it is not even told that this is a relay
                    await trio.lowlevel.checkpoint()
                    return
                if source != address and not self.gate.known(place, source):
                    await trio.lowlevel.checkpoint()
                    return
                refusal = visit.enter(source, trio.current_time())
                # Saying why costs a TLS handshake; under a flood that is not to be had.
                if refusal is not None and self.gate.crowded:
                    self._reject(refusal, source)
                    return
            transport = await self._secure(sock, source, place)
            if transport is None:
                return
            http = HTTPConnection(
                transport, self.services.config.limits, remote=source, tls=transport.tls,
                client=self._client if late else None,
                certificate=self._certificate(transport),
            )  # fmt: skip
            request = await self._first_request(http, transport, visit, refusal, place)
            if request is None:
                return
            if not is_upgrade(request):
                self.gate.leave(place)
                later = await serve_requests(http, request, self.router, self.services.config.timeouts)
                if later is None:
                    return
                request = later
            admitted = await self._admit(http, request, transport, visit, place)
            if admitted is None:
                return
            tenant, link, accept, last, guest = admitted
            try:
                if guest is None:
                    sent = transport.send(accept)
                    if sent < len(accept):
                        await transport.send_all(accept[sent:])
                    link.services.counters.handshakes += 1
                    self.gate.leave(place)
                    link.start(http.take_early(), last)
                else:
                    guest.begin(link, last)
                    visit.guest = None
                del http, request, accept, admitted, guest  # what a parked task holds, every idle connection holds
                await link.ended.wait()
            finally:
                link.abort()
                self._ended(tenant, link, visit.address)
        except Lost as lost:
            log.debug("connection from %s lost before it was one: %s", visit.address, str(lost))  # a record outlives it
        except Exception:
            log.exception("bug while serving a connection from %s", visit.address)
        finally:
            self.gate.leave(place)
            if transport is not None:
                transport.close()
            sock.close()
            if visit.guest is not None:
                visit.guest.leave()
            visit.leave()

    async def _source(self, sock: socket.socket, peer: str) -> str | None:
        """The address a trusted proxy speaks for, in its PROXY header; None: there was no good one."""
        try:
            return await self.state.rules.doors.source(sock, peer, self.services.config.timeouts.proxy)
        except HeaderRefused as refused:
            kind, why, setting = refused.kind, str(refused), "proxy.protocol"
            self.services.counters.proxy_failures[kind] += 1
            self.services.decisions.add("rejected", f"proxy_{kind}", setting=setting, address=peer, detail=why)
            level = logging.DEBUG if kind == "eof" else logging.WARNING  # a health check that only connects
            log.log(
                level, "PROXY header refused", extra={"fields": {"address": peer, "reason": why, "setting": setting}}
            )
            return None

    def _certificate(self, transport: Transport) -> ClientCertificate | None:
        if self.services.config.tls.client_certificates == "off":
            return None
        der = transport.peer_certificate()
        return None if der is None else ClientCertificate(der)

    def _client(self, headers: Headers, address: str) -> str:
        """Whose address a request counts as that a trusted proxy passes on. Raises Rejected 403."""
        client = self.state.rules.doors.client(headers, address)
        if not self.state.rules.networks.allows(client):
            raise _denied()
        return client

    async def _secure(self, sock: socket.socket, address: str, place: Pending) -> Transport | None:
        """TLS, if the listener has it. None: it failed, and the client was told by an alert."""
        config = self.services.config
        try:
            if self.state.certificates is not None:
                sock.getpeername()  # ssl would find that it was reset, and leave a socket of its own open
                context = self.state.certificates.context
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            transport = Transport(
                sock,
                unsent_bytes=config.outbox.unsent_bytes,
                congestion=config.outbox.congestion,
                unacknowledged=given_up_after(config.websocket),
            )
        except (OSError, ValueError) as problem:  # it was gone before we began
            close_half_wrapped(problem)
            self._tls_failed("eof", address, "it was gone before the handshake")
            sock.close()
            await trio.lowlevel.checkpoint()
            return None
        if not transport.tls:
            return transport
        try:
            with self.gate.patience(place, config.timeouts.tls) as deadline:
                await transport.do_handshake()
        except Lost as lost:
            why = str(lost)
            if why.startswith(CERTIFICATE_REFUSED):
                self._tls_failed("certificate", address, why, "tls.client_certificates")
                self.gate.leave(place)
                try:
                    await linger(transport, 1.0)  # with TLS 1.3 it thinks that it is in, and has sent its request
                finally:
                    transport.sock.close()
                return None
            self._tls_failed("protocol" if why.startswith("TLS") else "eof", address, why)
            transport.sock.close()
            return None
        except BaseException:  # cancelled: nobody else has this socket yet
            transport.abort()
            raise
        finally:
            self.gate.heard(place)
        if deadline.cancelled_caught:
            cause = self.gate.too_slow(place, _TLS_TIMEOUT)
            if cause is _TLS_TIMEOUT:
                self._tls_failed("timeout", address, cause.reason, cause.setting)
            else:
                self._reject(cause, address)
            transport.abort()
            return None
        return transport

    async def _first_request(
        self, http: HTTPConnection, transport: Transport, visit: Visit, refusal: Rejected | None, place: Pending
    ) -> Request | None:
        request = None
        try:
            try:
                with self.gate.patience(place, self.services.config.timeouts.head) as deadline:
                    request = await http.next_request()
            finally:
                self.gate.heard(place)
            if deadline.cancelled_caught:
                slow = Rejected(408, "timeout", "the request head did not come in time", setting="timeouts.head")
                in_a_crowd = self.gate.crowded and not place.was_cut  # places are cut one by one, times end together
                slow = self.gate.too_slow(place, slow)
                if in_a_crowd:  # saying so to hundreds in one moment would make all others wait
                    self._reject(slow, http.remote)
                    transport.abort()
                    return None
                raise slow
            if request is not None and refusal is None:
                refusal = visit.enter(http.remote, trio.current_time())  # now at the latest it is known who it is
            if request is not None and refusal is not None:
                raise refusal
        except Rejected as rejected:
            self.gate.leave(place)  # it needs none for what it is told
            self._reject(rejected, http.remote)
            await http.refuse(rejected)
            return None
        return request

    def _reject(
        self, rejected: Rejected, address: str, room: str = "", subject: str = "", tenant: Tenant | None = None
    ) -> None:
        """Counts and keeps a refused handshake."""
        self.services.counters.rejected[rejected.code] += 1
        (self.services if tenant is None else tenant.services).decisions.add(
            "rejected", rejected.code, setting=rejected.setting, subject=subject, address=address, room=room,
            detail=rejected.why or rejected.reason,
        )  # fmt: skip

    def _tls_failed(self, kind: str, address: str, detail: str, setting: str | None = None) -> None:
        self.services.counters.tls_failures[kind] += 1
        self.services.decisions.add("tls", f"tls_{kind}", setting=setting, address=address, detail=detail)

    async def _admit(
        self, http: HTTPConnection, request: Request, transport: Transport, visit: Visit, pending: Pending
    ) -> tuple[Tenant, Link, bytes, int, Guest | None] | None:
        """The WebSocket handshake: a session that is counted but not started, and the 101; or a status with its
        reason. A guest has the 101 already, and is told by a close.
        """
        upgrade = identity = tenant = guest = None
        auth = self.services.config.auth
        try:
            if refusal := visit.enter(http.remote, trio.current_time()):  # on a proxy's connection the clients change
                raise refusal
            upgrade = check_upgrade(request, token_in_query=auth.token_in_query, cookie=auth.cookie)
            owner = self.state.rules.hosts.check_names(request.host, getattr(transport.sock, "asked_for", None))
            place = find_place(request, upgrade, self.state, self.services, owner)
            resumed = self.returning.find(upgrade, place)
            if resumed is not None:
                identity = self.guard.recognize(request, resumed.identity)
            else:
                credential = upgrade.credential
                if self.guests.expects(request, upgrade):
                    guest = visit.guest = self.guests.enter(request, transport, place.protocol)
                    self.services.counters.handshakes += 1
                    self.gate.leave(pending)
                    accept = accept_response(upgrade, place.protocol.subprotocol)
                    credential = await guest.credential(accept, http.take_early())
                identity = await self.guard.identify(request, credential)
                if guest is not None:
                    upgrade.extensions.clear()  # none was agreed on: a stranger is worth no inflater
                    check_open(self.state, self.services)
            tenant = tenant_of(self.state, identity, owner, place.home)
            tenant.check_origin(upgrade.origin, request.host, transport.tls)
            place = place.at(tenant.services.hub.aliases.resolve(place.home))
            check_home(identity, place, tenant.services)
            session = find_session(identity, place, tenant.services) if place.session else resumed
            compression, config = self.compression, tenant.services.config
            agreement = compression.agree(upgrade.extensions, config, session.protocol if session else None)
            if resumed is None:  # else it is counted still
                tenant.count_in(identity)
            arrival = None
            if session is None:
                name = secrets.token_urlsafe(12)
                arrival = Arrival(name, identity.subject, http.remote, place.protocol.name, place.home)
                await self._announce(tenant, arrival, identity)
        except Rejected as rejected:
            subject = identity.subject if identity is not None else ""
            self._reject(rejected, http.remote, room_in(request), subject, tenant)
            log.info(
                "handshake refused",
                extra={
                    "fields": {
                        "address": http.remote, "path": request.path, "status": rejected.status, "code": rejected.code,
                        "reason": rejected.why or rejected.reason, "setting": rejected.setting,
                    }
                },
            )  # fmt: skip
            if guest is not None:
                await guest.refuse(rejected)
            elif upgrade is not None and self.services.config.websocket.accept_then_close:
                await accept_then_close(transport, upgrade, rejected, self.services.config.timeouts.close)
            else:
                await http.refuse(rejected)
            return None
        services = tenant.services
        link = Link(services, transport, self.poller, self.tick, tenant.terms.engine, agreement)
        if session is None:
            assert arrival is not None
            if tenant.arrivals.wanted:
                link.arrival = arrival
            protocol = compression.protocol(place.protocol, agreement, config)
            link.connection = make_connection(
                services, link, identity, protocol, arrival.session, place.home, http.remote
            )
            if place.resume is not None:
                link.connection.resumes = 0
        elif resumed is not None:
            link.connection = Resuming(resumed, link, http.remote)
        else:
            link.connection = Leg(session, link, identity, list(place.channels))
        services.counters.connections += 1
        compression.entered(agreement)
        self.state.links.add(link)
        extension = agreement.response if agreement is not None else None
        return tenant, link, accept_response(upgrade, place.protocol.subprotocol, extension), place.last, guest

    async def _announce(self, tenant: Tenant, arrival: Arrival, identity: Identity) -> None:
        """To the plugins that want to know. Raises Rejected; then the subject is not counted any more."""
        try:
            await tenant.arrivals.arrive(arrival)
        except BaseException:
            tenant.count_out(identity)
            raise

    def _ended(self, tenant: Tenant, link: Link, address: str) -> None:
        """Counts and tells the end of a socket, and of its session unless that waits for another one: one line each."""
        counters, connection = link.services.counters, link.connection
        self.state.links.discard(link)
        counters.connections -= 1
        self.compression.left(link.agreement)
        counters.closed[_counted_as(link.close_code)] += 1
        if link.parked:
            self.returning.lost(link, address)
            return
        if not isinstance(connection, Resuming):
            tenant.count_out(connection.identity)
        if link.arrival is not None:
            tenant.arrivals.left(link.arrival, link.close_code)
        reason = connection.closing
        ours = link.close_reason is not None and (link.close_code != LOST or link.close_reason.setting is not None)
        code = link.close_reason.code if ours and link.close_reason is not None else link.close_code
        connection.main.note(
            "closed" if ours else "left", str(int(code)), reason.setting if reason else None,
            reason.reason if reason else "", connection.main.home,
        )  # fmt: skip
        if not log.isEnabledFor(logging.INFO):
            return
        log.info(
            "connection closed",
            extra={
                "fields": {
                    "session": connection.session,
                    "subject": connection.subject,
                    **({"tenant": tenant.name} if tenant.name else {}),
                    "address": address,
                    "protocol": connection.protocol.name,
                    "code": link.close_code,
                    "reason": reason.reason if reason else "",
                    "setting": reason.setting if reason else None,
                    "seconds": round(time.time() - link.opened_at, 3),
                    "messages_in": connection.messages,
                    "bytes_in": link.bytes_in,
                    "bytes_out": link.writer.bytes_out,
                }
            },
        )


def _denied() -> Rejected:
    return Rejected(403, "address_denied", "this network may not connect", setting="limits.deny_addresses")


def _counted_as(code: int) -> int:
    """A close code as a metric's label: those that clients make up (RFC 6455 section 7.4.2) count by their thousand."""
    return code if code in CLOSE_CODES or code in (NO_CODE, LOST) else code // 1000 * 1000
