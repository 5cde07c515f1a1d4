"""Who a request is from: whatever credential it carries becomes an identity, or a refusal.

Not here: where credentials stand in a request (net/handshake), what is checked about them (auth), and what somebody may
do (place). The one rule: what a browser sends by itself, a cookie, counts only for pages that are allowed by name.
"""

from __future__ import annotations

import ipaddress
import time

import trio

from relay.auth.certificates import check_binding
from relay.auth.refusals import UnknownKey, refuse
from relay.auth.tokens import Identity
from relay.config import schema
from relay.counters import Counters
from relay.errors import Rejected
from relay.front.state import State
from relay.limits.addresses import parse_ip
from relay.net.handshake import Credential
from relay.net.head import Request


class Guard:
    """At the WebSocket's handshake and on the pages: who may not try tokens here may not try them there."""

    def __init__(self, state: State, counters: Counters) -> None:
        self.state = state
        self.counters = counters

    async def identify(self, request: Request, credential: Credential | None) -> Identity:
        """Raises Rejected: 401, 403 for a cookie of the wrong page, 429 after too many bad tokens from one address."""
        await trio.lowlevel.checkpoint_if_cancelled()  # the request was waited for: others have had their turn
        identity = self.identify_now(request, credential)
        if identity is not None:
            return identity
        rules = self.state.rules
        assert credential is not None
        try:
            identity = await rules.identify(credential.value, rules.config.timeouts.auth)
            check_binding(identity, request.certificate, rules.config.auth.mtls)
        except Rejected as rejected:
            self.state.not_authenticated(request.remote, rejected.code)
            raise
        self.state.authenticated(request.remote)
        return identity

    def identify_now(self, request: Request, credential: Credential | None) -> Identity | None:
        """`identify`, as far as nothing has to be waited for; None: the issuer has to be asked for its keys."""
        state = self.state
        state.check_failures(request.remote)
        try:
            identity = self._identity(request, credential)
        except Rejected as rejected:
            if isinstance(rejected, UnknownKey) and rejected.issuer in state.rules.fetchers:
                return None
            state.not_authenticated(request.remote, rejected.code)
            raise
        state.authenticated(request.remote)
        return identity

    def recognize(self, request: Request, identity: Identity) -> Identity:
        """Who comes back to a session of theirs: no token is looked at again, but what it was bound to is.

        Raises Rejected: 401 for another client certificate, 429 after too many bad tokens from one address.
        """
        self.state.check_failures(request.remote)
        check_binding(identity, request.certificate, self.state.rules.config.auth.mtls)
        return identity

    def _identity(self, request: Request, credential: Credential | None) -> Identity:
        rules, certificate = self.state.rules, request.certificate
        if credential is None and certificate is not None and rules.certificates.identify:
            identity = rules.certificates.identity(certificate)
            self.state.revocations.check(identity, time.time())
            return identity
        identity = self._bearer(request, credential)
        check_binding(identity, certificate, rules.config.auth.mtls)
        return identity

    def _bearer(self, request: Request, credential: Credential | None) -> Identity:
        """Whom a token or a ticket is for."""
        rules = self.state.rules
        if credential is None:
            raise refuse("token_missing")
        if credential.kind == "ticket":
            return self._redeem(request, credential.value)
        if credential.kind == "cookie":
            self._check_page(request)
        return rules.verify(credential.value)

    def _check_page(self, request: Request) -> None:
        """Against cross-site WebSocket hijacking (RFC 6455 section 10.2): a page of anybody's sends the cookie too."""
        rules, tls = self.state.rules, self.state.certificates is not None
        origins = rules.terms[rules.hosts.owner(request.host) or ""].origins
        if not origins.names(request.headers.get("origin"), request.host, tls):
            why = "a cookie counts only with the Origin of a page that is allowed by name"
            raise Rejected(403, "cookie_origin", why, setting="auth.allowed_origins")

    # Tickets.

    def issue(self, request: Request, identity: Identity) -> tuple[str, float]:
        """A ticket, and the seconds it is good for. Raises Rejected 503."""
        settings = self.state.rules.config.auth.tickets
        ticket = self.state.tickets.issue(identity, network(request.remote, settings), settings, trio.current_time())
        self.counters.tickets["issued"] += 1
        return ticket, settings.lifetime

    def _redeem(self, request: Request, ticket: str) -> Identity:
        auth = self.state.rules.config.auth
        if not auth.tickets.enabled:
            raise tickets_off()
        try:
            bound = network(request.remote, auth.tickets)
            identity = self.state.tickets.redeem(ticket, bound, trio.current_time())
            now = time.time()
            if now >= identity.expires + auth.issuers.get(identity.trusted, auth).leeway:
                raise refuse("token_expired")
            self.state.revocations.check(identity, now)
        except Rejected:
            self.counters.tickets["refused"] += 1
            raise
        self.counters.tickets["used"] += 1
        return identity


def tickets_off() -> Rejected:
    return Rejected(404, "tickets_off", "tickets are not given out here", setting="auth.tickets.enabled")


def network(address: str, settings: schema.Tickets) -> str:
    """What a ticket is bound to; "": to nothing."""
    ip = parse_ip(address)
    if not settings.bind_address:
        return ""
    if ip is None:
        return address
    bits = settings.ipv4_prefix if ip.version == 4 else settings.ipv6_prefix
    return str(ipaddress.ip_network(f"{str(ip).partition('%')[0]}/{bits}", strict=False))
