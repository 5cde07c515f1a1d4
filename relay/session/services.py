"""What all connections of a process share, handed to each: no global hides in a module.

Not here: anything about one connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from relay.auth.tokens import Identity
from relay.config.schema import Config
from relay.counters import Counters
from relay.decisions import Decisions
from relay.delivery.channels import Channels
from relay.errors import CloseReason
from relay.limits.buckets import Rate
from relay.limits.quotas import Quotas
from relay.plugin.supervisor import Supervised
from relay.rooms.hub import Hub
from relay.session.acks import Acks
from relay.session.resume import Resumption
from relay.session.timers import Timers, Wheel
from relay.session.work import Spawn

if TYPE_CHECKING:
    from relay.session.connection import Connection
    from relay.session.wire import Producer

KeyFetch: TypeAlias = Callable[[str | None], Awaitable[bool]]
"""Waits until the key of that id is known, True; False: it is not to be had."""


@dataclass(slots=True)
class Services:
    """`wall` is Unix time in seconds, `monotonic` the clock of timers and rates. `verify` raises Rejected."""

    config: Config
    hub: Hub
    channels: Channels
    counters: Counters
    timers: Timers
    wheel: Wheel
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    spawn: Spawn
    verify: Callable[[str], Identity]
    message_rate: Rate
    byte_rate: Rate
    version: str
    closed: Callable[[str], None] = lambda subject: None
    """Told the subject of every connection that has ended."""
    key_fetch: Callable[[str], KeyFetch | None] = lambda issuer: None
    """How a key that a token of this issuer names, and nobody knows yet, can be had; None: there is nobody to ask."""
    decisions: Decisions = field(default_factory=Decisions)
    """Who was refused, throttled or closed lately, and why."""
    bad_token: Callable[[str, str], None] = lambda address, code: None
    """Told of a token that was no good on a live connection: from where, and why."""
    check_revoked: Callable[[Identity, float], None] = lambda who, now: None
    """Raises Rejected for a token that was revoked since it was verified."""
    plugins: list[Supervised] = field(default_factory=list)
    """All of them, under watch."""
    sessions: dict[str, Connection] = field(default_factory=dict)
    """By name, for those who come with one more socket."""
    resumption: Resumption = field(default_factory=Resumption)
    """Sessions that have lost their socket, and the tickets for them."""
    acks: Acks = field(default_factory=Acks)
    """Messages whose arrival somebody waits for."""
    producer: Producer | None = None
    """By which socket the message came that is being handled just now: it waits if its readers cannot keep up."""
    quotas: Quotas = field(default_factory=Quotas)
    """In force for connections that come from now on."""
    own_settings: Mapping[str, str] = field(default_factory=dict)
    """Keys of limits that a tenant's own table decides: "limits.rooms" is "tenants.acme.limits.rooms" there."""

    def named(self, setting: str | None) -> str | None:
        """A config key as it is called here."""
        return self.own_settings.get(setting or "", setting)

    def reason(self, reason: CloseReason) -> CloseReason:
        """The same, with its config key as it is called here."""
        setting = self.named(reason.setting)
        return reason if setting == reason.setting else replace(reason, setting=setting)
