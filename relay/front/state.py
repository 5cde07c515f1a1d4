"""What the front needs to decide who comes in, and what a reload swaps.

Not here: the decisions (admission). The one rule: a reload makes a whole new set first and then swaps; if anything in
the new configuration is wrong, the old stays in force.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from relay.auth.certificates import CertificateRules
from relay.auth.issuers import Issuers
from relay.auth.jwks import JwksCache, keys_from_config
from relay.auth.public import PublicClaims
from relay.auth.refusals import UnknownKey
from relay.auth.revocation import Revocations
from relay.auth.tickets import Tickets
from relay.auth.tokens import Identity, Verifier
from relay.config.loader import LoadedConfig, read_api_keys
from relay.config.schema import Trusted, issuers_of, table_of, taken_subjects, tenants_of
from relay.errors import ConfigError, ConfigProblem
from relay.front.api import ApiKeys
from relay.front.doors import Doors
from relay.front.terms import Hosts, Terms
from relay.limits.addresses import Networks
from relay.limits.counts import AddressLimits
from relay.limits.failures import Failures
from relay.limits.pending import Pending
from relay.net.jwks_fetch import JwksFetcher
from relay.net.tls import Certificates
from relay.ops.lag import Lag
from relay.protocols.base import WireProtocol
from relay.protocols.plain import Plain
from relay.protocols.relay_v1 import RelayV1Json, RelayV1Msgpack

if TYPE_CHECKING:
    from relay.front.guests import Guest
    from relay.front.tenants import Tenant
    from relay.net.link import Link
    from relay.session.connection import Connection

PLAIN: WireProtocol = Plain()
PROTOCOLS: Final[dict[str, type[RelayV1Json | RelayV1Msgpack]]] = {
    one.name: one for one in (RelayV1Json, RelayV1Msgpack)
}


@functools.cache
def relay_v1(subprotocol: str, *, parts: bool = True, fields: frozenset[str] | None = None) -> WireProtocol:
    """The wire format of a client that said so in its address; one object for all who said the same, because a message
    is encoded once for each.
    """
    return PROTOCOLS[subprotocol](takes_parts=parts, fields=fields)


NO_GUESS: Final = frozenset(
    {"token_missing", "token_expired", "token_not_yet_valid", "token_revoked", "ticket_unknown", "ticket_expired"}
)
"""Refusals of tokens that are no attempt to guess or to forge one: an app that wakes up with an old token, or a
ticket, which nobody can guess."""


def located(error: ConfigError, loaded: LoadedConfig) -> list[ConfigProblem]:
    """The problems of what was compiled from a configuration, each with the line it stands on."""
    return [
        dataclasses.replace(problem, where=loaded.where(problem.key)) if problem.where == "configuration" else problem
        for problem in error.problems
    ]


class Rules(Terms):
    """All that a configuration says about who may connect, compiled; its own terms are those of the tenant "".

    Raises ConfigError with every problem.
    """

    def __init__(self, loaded: LoadedConfig, revocations: Revocations | None = None) -> None:
        config = loaded.config
        self._revocations = revocations
        super().__init__(config)
        self.loaded = loaded
        self.hosts = Hosts(config)
        self.terms: dict[str, Terms] = {"": self}
        self.tenants_of = tenants_of(config.auth, config.tenants)
        """For each issuer, the tenants that its tokens may be of."""
        self._taken = taken_subjects(config.auth, config.tenants)
        self.doors = Doors(config.proxy)
        self.certificates = CertificateRules(config.auth.mtls)
        self.jwks: dict[str, JwksCache] = {}
        self.fetchers: dict[str, JwksFetcher] = {}
        """By the issuer's name, for those whose keys have a URL."""
        verifiers: dict[str, Verifier] = {}
        shown = [
            claim
            for tenant in ("", *config.tenants)
            for table, _ in loaded.tables_of(tenant)[1].values()
            for claim in table.presence_claims
        ]
        self._public = PublicClaims(shown, config.limits.public_claims_bytes) if shown else None
        problems: list[ConfigProblem] = []
        for name in config.tenants:
            try:
                self.terms[name] = Terms(config, name)
            except ConfigError as error:
                problems += error.problems
        for name, trusted in issuers_of(config.auth).items():
            try:
                verifiers[name] = self._verifier(name, trusted)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        self.issuers = Issuers(config.auth, verifiers)
        self.api_keys = ApiKeys(read_api_keys(loaded))
        self.networks = Networks(config.limits.allow_addresses, config.limits.deny_addresses)

    def _verifier(self, name: str, trusted: Trusted) -> Verifier:
        """Keys, their cache and their fetcher are one issuer's alone: a kid means nothing outside it."""
        loaded, auth = self.loaded, self.config.auth
        keys = keys_from_config(trusted, lambda path: loaded.resolve(path).read_bytes(), table_of(name))
        settings = trusted.jwks
        verifier = functools.partial(
            Verifier,
            auth=trusted,
            name=name,
            cache_tokens=auth.cache_tokens,
            taken=self._taken[name],
            tenants=self.tenants_of[name],
            public=self._public,
        )
        if not settings.url:
            return verifier(keys)
        if settings.ca_file:
            settings = msgspec.structs.replace(settings, ca_file=str(loaded.resolve(settings.ca_file)))
        cache = self.jwks[name] = JwksCache(settings, keys)
        self.fetchers[name] = JwksFetcher(cache, settings, f"{table_of(name)}.jwks")
        return verifier(lambda: cache.keys)

    def verify(self, token: str) -> Identity:
        """Raises Rejected; UnknownKey among them where `identify` may help."""
        now = time.time()
        identity = self.issuers.verify(token, now)
        if self._revocations is not None:
            self._revocations.check(identity, now)
        return identity

    def allows_origin(self, origin: str | None, host: str | None, tls: bool, owner: str | None) -> bool:
        """Whether a page may connect, as far as can be said before its token is known: `owner` is whose host it is."""
        if owner is not None:
            return self.terms[owner].origins.allows(origin, host, tls)
        any_of = (terms for name, terms in self.terms.items() if name not in self.hosts.bound)
        return any(terms.origins.allows(origin, host, tls) for terms in any_of)

    async def identify(self, token: str, timeout: float) -> Identity:
        """`verify`, where need be after the issuer was asked for a key within `timeout` seconds. Raises Rejected."""
        try:
            return self.verify(token)
        except UnknownKey as unknown:
            fetcher = self.fetchers.get(unknown.issuer)
            if fetcher is not None:
                with trio.move_on_after(timeout):
                    if await fetcher.wait_for_kid(unknown.kid):
                        return self.verify(token)
            raise


@dataclass(slots=True)
class State:
    """The front's own memory."""

    rules: Rules
    certificates: Certificates | None
    addresses: AddressLimits
    revocations: Revocations
    failures: Failures
    pending: Pending
    tenants: dict[str, Tenant] = field(default_factory=dict)
    """By name; "" is always there."""
    draining: bool = False
    descriptors: int = sys.maxsize
    """Connections for which this process may open files, whatever the configuration says."""
    short_of_memory: str = ""
    """The setting of the mark that was passed; "": memory is not short."""
    started_at: float = field(default_factory=time.time)
    links: set[Link] = field(default_factory=set)
    guests: set[Guest] = field(default_factory=set)
    tickets: Tickets = field(default_factory=Tickets)
    lag: Lag = field(default_factory=Lag)

    def sessions(self) -> Iterator[Connection]:
        """The live ones of all tenants."""
        return chain.from_iterable(tenant.services.sessions.values() for tenant in list(self.tenants.values()))

    def check_failures(self, address: str) -> None:
        """Raises Rejected while an address has to wait after too many bad tokens."""
        self.failures.check(self.addresses.key(address), trio.current_time())

    def authenticated(self, address: str) -> None:
        self.failures.succeeded(self.addresses.key(address))

    def not_authenticated(self, address: str, code: str) -> None:
        """A token was refused for `code`. What an issuer did sign, and what was no token at all, is no guess."""
        if code not in NO_GUESS:
            self.failures.failed(self.addresses.key(address), trio.current_time())

    @property
    def ready(self) -> bool:
        return not self.draining and not self.short_of_memory
