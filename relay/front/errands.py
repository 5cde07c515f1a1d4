"""Newcomers for whom something has to be waited for, each in a task of its own: a PROXY header, plain requests, last
words, a guest's first message, an issuer's keys, a plugin's answer.

Not here: what is decided (admission, routes), and everybody who needs none of this (reception). The one rule: whatever
one client does or sends, it ends with its task and touches nobody else; the guard here is one of the three `except
Exception` outside plugins and the poller.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from relay.errors import Rejected
from relay.front.admission import Admission, Candidate
from relay.front.doors import HeaderRefused
from relay.front.newcomer import Newcomer
from relay.front.parting import accept_then_close, linger
from relay.front.refusals import Refusals
from relay.limits.pending import Place as Pending
from relay.net.handshake import is_upgrade
from relay.net.head import Request
from relay.net.http import HTTPConnection
from relay.net.routes import Router, serve_requests
from relay.net.transport import Lost, Transport

if TYPE_CHECKING:
    from relay.front.reception import Reception

log = logging.getLogger("relay")


Job: TypeAlias = Callable[[], Awaitable[None]]


class Errands:
    """`nursery` is set before the first connection is taken. `running`: how many there are."""

    nursery: trio.Nursery

    def __init__(self, reception: Reception, admission: Admission, refusals: Refusals, router: Router) -> None:
        self._reception = reception
        self._admission = admission
        self._refusals = refusals
        self._router = router
        self.running = 0

    # Each ends with the connection closed, or as a session that needs no task.

    def header(self, sock: socket.socket, peer: str, place: Pending) -> None:
        """The address a trusted proxy speaks for, in its PROXY header; then it goes on as everybody does."""
        self.begin(lambda: self._header(sock, peer, place))

    def linger(self, newcomer: Newcomer, transport: Transport) -> None:
        """It has been told by an alert."""
        self._reception.gate.leave(newcomer.place)
        self._serve(newcomer, lambda: linger(transport, 1.0))

    def refuse(self, newcomer: Newcomer, http: HTTPConnection, rejected: Rejected) -> None:
        """By a status."""
        self._reception.gate.leave(newcomer.place)  # it needs none for what it is told
        self._serve(newcomer, lambda: http.refuse(rejected))

    def read(self, newcomer: Newcomer, http: HTTPConnection) -> None:
        """Its head is there, and is not as most are."""
        self._serve(newcomer, lambda: self._read(newcomer, http))

    def answer(self, newcomer: Newcomer, http: HTTPConnection, request: Request) -> None:
        """It wants a page, and may want a WebSocket later."""
        self._serve(newcomer, lambda: self._answer(newcomer, http, request))

    def admit(self, newcomer: Newcomer, candidate: Candidate) -> None:
        """Before anybody can say whether it comes in, something has to be waited for."""
        self._serve(newcomer, lambda: self._admit(newcomer, candidate))

    def turn_down(self, newcomer: Newcomer, candidate: Candidate, rejected: Rejected) -> None:
        """It does not come in."""
        self._serve(newcomer, lambda: self._turn_down(candidate, rejected))

    # Their tasks.

    def begin(self, job: Job) -> None:
        """All of them begin here."""

        async def counted() -> None:
            try:
                await job()
            finally:
                self.running -= 1
                self._reception.look()

        self.running += 1
        self.nursery.start_soon(counted)

    def _serve(self, newcomer: Newcomer, job: Callable[[], Awaitable[bool | None]]) -> None:
        """`job` returns True where a session has taken the connection over."""

        async def guarded() -> None:
            visit, taken = newcomer.visit, None
            try:
                taken = await job()
            except Lost as lost:  # as text: a log record outlives it
                log.debug("connection from %s lost before it was one: %s", visit.address, str(lost))
            except Exception:
                log.exception("bug while serving a connection from %s", visit.address)
            finally:
                if not taken:
                    assert newcomer.transport is not None
                    newcomer.transport.close()
                    self._reception.leave(newcomer.place, visit)

        self.begin(guarded)

    async def _header(self, sock: socket.socket, peer: str, place: Pending) -> None:
        reception = self._reception
        doors, seconds = reception.state.rules.doors, reception.services.config.timeouts.proxy
        source = None
        try:
            source = await doors.source(sock, peer, seconds)
        except HeaderRefused as refused:
            self._refusals.header_refused(refused, peer)
        except Exception:
            log.exception("bug while serving a connection from %s", peer)
        finally:
            if source is None:
                reception.gate.leave(place)
                sock.close()
        if source is not None:
            reception.receive(sock, peer, source, place, trio.current_time())

    async def _read(self, newcomer: Newcomer, http: HTTPConnection) -> bool:
        try:
            request = await http.next_request()
            if request is None:
                return False
            refusal = newcomer.refusal or newcomer.visit.enter(http.remote, trio.current_time())
            if refusal is not None:
                raise refusal
        except Rejected as rejected:
            self._reception.gate.leave(newcomer.place)
            self._refusals.rejected(rejected, http.remote)
            await http.refuse(rejected)
            return False
        return await self._answer(newcomer, http, request)

    async def _answer(self, newcomer: Newcomer, http: HTTPConnection, request: Request) -> bool:
        reception, transport = self._reception, newcomer.transport
        assert transport is not None
        if not is_upgrade(request):
            reception.gate.leave(newcomer.place)
            later = await serve_requests(http, request, self._router, reception.services.config.timeouts)
            if later is None:
                return False
            request = later
        return await self._admit(newcomer, Candidate(http, request, transport, newcomer.visit))

    async def _admit(self, newcomer: Newcomer, candidate: Candidate) -> bool:
        """Whether it has become a session."""
        reception, admission, transport = self._reception, self._admission, candidate.transport
        leave = partial(reception.gate.leave, newcomer.place)
        try:
            refusal = candidate.visit.enter(candidate.http.remote, trio.current_time())
            if refusal is not None:  # on a proxy's connection the clients change
                raise refusal
            link = await admission.admit(candidate, leave)
        except Rejected as rejected:
            admission.refused(candidate, rejected)
            await self._turn_down(candidate, rejected)
            return False
        reception.watch_end(candidate, link)
        try:
            if candidate.guest is None:
                await transport.send_all(candidate.accept())
                link.services.counters.handshakes += 1
                leave()
                link.start(candidate.http.take_early(), candidate.last)
            else:
                candidate.guest.begin(link, candidate.last)
                candidate.visit.guest = None
        except BaseException:
            link.abort()
            raise
        return True

    async def _turn_down(self, candidate: Candidate, rejected: Rejected) -> None:
        config, upgrade = self._reception.services.config, candidate.upgrade
        if candidate.guest is not None:
            await candidate.guest.refuse(rejected)
        elif upgrade is not None and config.websocket.accept_then_close:
            await accept_then_close(candidate.transport, upgrade, rejected, config.timeouts.close)
        else:
            await candidate.http.refuse(rejected)
