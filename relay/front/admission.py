"""Who comes in: from a request for a WebSocket to a session that is counted but not started, or a refusal.

What can be decided at once is decided at once (`admit_now`), which is nearly always; who has to wait for something (its
first message, its issuer's keys, a plugin's answer) goes on with `admit`, in a task. Not here: TLS and the request head
(newcomer), what becomes of those who were refused (reception), what a session does. The one rule: both ways ask the
same questions in the same order.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from relay.auth.tokens import Identity
from relay.delivery.tick import Tick
from relay.errors import Rejected
from relay.front.compression import Compression
from relay.front.departures import Departures
from relay.front.doors import Visit
from relay.front.guard import Guard
from relay.front.guests import Guest, Guests
from relay.front.place import Place, check_home, check_open, find_place, find_session, room_in
from relay.front.refusals import Refusals
from relay.front.returning import Returning
from relay.front.state import State
from relay.front.tenants import Tenant, tenant_of
from relay.net.deflate import Agreement
from relay.net.handshake import Upgrade, accept_response, check_upgrade
from relay.net.head import Request
from relay.net.http import HTTPConnection
from relay.net.link import Link
from relay.net.poller import Poller
from relay.net.transport import Transport
from relay.plugin.arrival import Arrival
from relay.session.connection import Connection
from relay.session.leg import Leg
from relay.session.metered import make_connection
from relay.session.resume import Resuming
from relay.session.services import Services

log = logging.getLogger("relay")


@dataclass(slots=True)
class Candidate:
    """One who wants to come in, and what has turned out about it so far, from above to below."""

    http: HTTPConnection
    request: Request
    transport: Transport
    visit: Visit
    upgrade: Upgrade | None = None
    owner: str | None = None
    """The tenant whose host it came to."""
    place: Place | None = None
    resumed: Connection | None = None
    guest: Guest | None = None
    identity: Identity | None = None
    tenant: Tenant | None = None
    session: Connection | None = None
    """The one that it is a further socket of."""
    agreement: Agreement | None = None

    @property
    def last(self) -> int:
        """Of its room's messages, how many it wants to begin with."""
        return self.place.last if self.place is not None else 0

    def accept(self) -> bytes:
        """The 101, as far as it has turned out what it says."""
        assert self.upgrade is not None
        assert self.place is not None
        extension = self.agreement.response if self.agreement is not None else None
        return accept_response(self.upgrade, self.place.protocol.subprotocol, extension)


class Admission:
    """`refusals` counts and keeps them."""

    def __init__(self, state: State, services: Services, poller: Poller, tick: Tick, refusals: Refusals) -> None:
        self.state = state
        self.services = services
        self._refusals = refusals
        self._poller = poller
        self._tick = tick
        self._compression = Compression(services.counters)
        self._guard = Guard(state, services.counters)
        self._guests = Guests(state, services)
        self._returning = Returning(state)
        self.departures = Departures(state, self._compression, self._returning)

    def admit_now(self, candidate: Candidate) -> Link | None:
        """A session that is counted, but not started. None: the candidate has to wait, and `admit` knows for what.

        Raises Rejected; nothing is counted then.
        """
        self._look(candidate)
        assert candidate.upgrade is not None
        if self._expects_guest(candidate):
            return None
        if candidate.resumed is not None:
            candidate.identity = self._guard.recognize(candidate.request, candidate.resumed.identity)
        else:
            candidate.identity = self._guard.identify_now(candidate.request, candidate.upgrade.credential)
            if candidate.identity is None:
                return None
        tenant = self._settle(candidate)
        if candidate.session is None and tenant.arrivals.asks:
            return None
        return self._link(candidate, self._count_in(candidate))

    async def admit(self, candidate: Candidate, leave: Callable[[], None]) -> Link:
        """What `admit_now` could not. `leave` is called when it needs no place on its way in any more.

        Raises Rejected, Lost.
        """
        if candidate.upgrade is None:
            self._look(candidate)
        if candidate.identity is None:
            await self._identify(candidate, leave)
        tenant = self._settle(candidate) if candidate.tenant is None else candidate.tenant
        arrival = self._count_in(candidate)
        if arrival is not None:
            try:
                await tenant.arrivals.arrive(arrival)
            except BaseException:
                assert candidate.identity is not None
                tenant.count_out(candidate.identity)
                raise
        return self._link(candidate, arrival)

    def refused(self, candidate: Candidate, rejected: Rejected) -> None:
        """Says so in the log, and counts it."""
        request, http = candidate.request, candidate.http
        subject = candidate.identity.subject if candidate.identity is not None else ""
        self._refusals.rejected(rejected, http.remote, room_in(request), subject, candidate.tenant)
        log.info(
            "handshake refused",
            extra={
                "fields": {
                    "address": http.remote, "path": request.path, "status": rejected.status, "code": rejected.code,
                    "reason": rejected.why or rejected.reason, "setting": rejected.setting,
                }
            },
        )  # fmt: skip

    # Step by step.

    def _look(self, candidate: Candidate) -> None:
        """What it wants, as far as its request says so. Raises Rejected."""
        request, state, auth = candidate.request, self.state, self.services.config.auth
        upgrade = check_upgrade(request, token_in_query=auth.token_in_query, cookie=auth.cookie)
        candidate.upgrade = upgrade
        candidate.owner = state.rules.hosts.check_names(request.host, candidate.transport.asked_for)
        candidate.place = find_place(request, upgrade, state, self.services, candidate.owner)
        candidate.resumed = self._returning.find(upgrade, candidate.place)

    def _expects_guest(self, candidate: Candidate) -> bool:
        assert candidate.upgrade is not None
        return candidate.resumed is None and self._guests.expects(candidate.request, candidate.upgrade)

    async def _identify(self, candidate: Candidate, leave: Callable[[], None]) -> None:
        """Who it is. A guest gets his 101 here. Raises Rejected, Lost."""
        request, upgrade, place = candidate.request, candidate.upgrade, candidate.place
        assert upgrade is not None
        assert place is not None
        if candidate.resumed is not None:
            candidate.identity = self._guard.recognize(request, candidate.resumed.identity)
            return
        credential, guest = upgrade.credential, None
        if self._expects_guest(candidate):
            guest = candidate.guest = candidate.visit.guest = self._guests.enter(
                request, candidate.transport, place.protocol
            )
            self.services.counters.handshakes += 1
            leave()
            credential = await guest.credential(candidate.accept(), candidate.http.take_early())
        candidate.identity = await self._guard.identify(request, credential)
        if guest is not None:
            upgrade.extensions.clear()  # none was agreed on: a stranger is worth no inflater
            check_open(self.state, self.services)

    def _settle(self, candidate: Candidate) -> Tenant:
        """Where it comes to, now that it is known who it is. Raises Rejected."""
        request, identity, upgrade, place = candidate.request, candidate.identity, candidate.upgrade, candidate.place
        assert identity is not None
        assert upgrade is not None
        assert place is not None
        tenant = candidate.tenant = tenant_of(self.state, identity, candidate.owner, place.home)
        services = tenant.services
        tenant.check_origin(upgrade.origin, request.host, candidate.transport.tls)
        place = candidate.place = place.at(services.hub.aliases.resolve(place.home))
        check_home(identity, place, services)
        session = candidate.session = find_session(identity, place, services) if place.session else candidate.resumed
        candidate.agreement = self._compression.agree(
            upgrade.extensions, services.config, session.protocol if session else None
        )
        return tenant

    def _count_in(self, candidate: Candidate) -> Arrival | None:
        """Counts it against its subject's limit; what plugins are told of a new session. Raises Rejected."""
        identity, tenant, place = candidate.identity, candidate.tenant, candidate.place
        assert identity is not None
        assert tenant is not None
        assert place is not None
        if candidate.resumed is None:  # else it is counted still
            tenant.count_in(identity)
        if candidate.session is not None:
            return None
        name = secrets.token_urlsafe(12)
        return Arrival(name, identity.subject, candidate.http.remote, place.protocol.name, place.home)

    def _link(self, candidate: Candidate, arrival: Arrival | None) -> Link:
        """`arrival`: of a new session."""
        identity, tenant, place = candidate.identity, candidate.tenant, candidate.place
        assert identity is not None
        assert tenant is not None
        assert place is not None
        services, agreement, remote = tenant.services, candidate.agreement, candidate.http.remote
        link = Link(services, candidate.transport, self._poller, self._tick, tenant.terms.engine, agreement)
        if arrival is not None:
            if tenant.arrivals.wanted:
                link.arrival = arrival
            protocol = self._compression.protocol(place.protocol, agreement, services.config)
            connection = make_connection(services, link, identity, protocol, arrival.session, place.home, remote)
            link.connection = connection
            if place.resume is not None:
                connection.resumes = 0
        elif candidate.resumed is not None:
            link.connection = Resuming(candidate.resumed, link, remote)
        else:
            assert candidate.session is not None
            link.connection = Leg(candidate.session, link, identity, list(place.channels))
        services.counters.connections += 1
        self._compression.entered(agreement)
        self.state.links.add(link)
        return link
