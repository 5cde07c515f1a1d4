"""The settings of tenants: several applications or customers in one process that know nothing of each other.

Not here: what a tenant is made of while it runs (front/tenants). The one rule: what a tenant may set of its own is
listed here; everything else is the same for all.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from relay.config.table import Table, about, items
from relay.config.trust import Auth, Issuer, Trusted, issuers_of

OWN_LIMITS: Final = (
    "max_connections", "connections_per_subject", "rooms", "message_bytes", "sockets_per_session",
    "parted_message_bytes", "parted_bytes", "parted_streams", "fragments", "control_frames", "control_frames_burst",
    "rooms_per_connection", "patterns_per_connection", "pattern_rooms",
    "messages_per_second", "messages_burst", "bytes_per_second", "bytes_burst", "slow_down",
    "requests_waiting",
)  # fmt: skip
"""Keys of [limits] that a tenant may have its own of. The others are about the time before it is known whose a
connection is."""


def own_limits(limits: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """What the table of a tenant's limits is checked by; what it leaves out is as in [limits]."""
    hints = typing.get_type_hints(limits, include_extras=True)
    fields = [(field.name, hints[field.name], field.default) for field in msgspec.structs.fields(limits)]
    own = [field for field in fields if field[0] in OWN_LIMITS]
    return msgspec.defstruct("TenantLimits", own, bases=(Table,), module=__name__, frozen=True)


class Tenant(Table, frozen=True):
    """A room space of its own: what happens in one tenant cannot be seen, heard or guessed from another."""

    issuers: Annotated[
        list[str],
        about(
            "Names of [auth.issuers.NAME] tables whose tokens are this tenant's; []: those of [auth] that name the "
            "tenant in their claim auth.claims.tenant."
        ),
    ] = items()
    hosts: Annotated[
        list[str],
        about(
            "Host names its clients connect to, as 'acme.example.com' or '*.acme.example.com'; nobody else gets in "
            "there. []: any that is no other tenant's."
        ),
    ] = items()
    allowed_origins: Annotated[
        list[str], about("Origins whose pages may connect, as in auth.allowed_origins; []: those there.")
    ] = items()
    limits: Annotated[
        dict[str, Any],
        about(f"Limits of its own, in the place of those in [limits]: {', '.join(OWN_LIMITS)}."),
    ] = {}
    plugins: Annotated[
        dict[str, dict[str, Any]],
        about(
            "Tables [tenants.NAME.plugins.PLUGIN], as [plugins.PLUGIN]. Without any, the tenant has those of the top, "
            "in instances of its own."
        ),
    ] = {}

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # plugins by name: which of their settings are secret?
        return [(name, list(value) if name == "plugins" else value) for name, value in super().__rich_repr__()]


def tenants_of(auth: Auth, tenants: Mapping[str, Tenant]) -> dict[str, tuple[str, ...]]:
    """For each issuer, the tenants that its tokens may be of; "" is what belongs to none. With more than one, the
    token has to say which.
    """
    found: dict[str, list[str]] = {issuer: [] for issuer in issuers_of(auth)}
    if "" in found:
        found[""].append("")
    for name, table in tenants.items():
        for issuer in dict.fromkeys(table.issuers or [""]):
            if issuer in found:
                found[issuer].append(name)
    return {issuer: tuple(names) or ("",) for issuer, names in found.items()}


def taken_subjects(auth: Auth, tenants: Mapping[str, Tenant]) -> dict[str, tuple[str, ...]]:
    """For each issuer, what none of its subjects may begin with, because those of another issuer of a tenant of its
    do.
    """
    shared = tenants_of(auth, tenants)
    prefixes = {name: subject_prefix(trusted) for name, trusted in issuers_of(auth).items()}
    inside: dict[str, set[str]] = {}
    for issuer, names in shared.items():
        for name in names:
            inside.setdefault(name, set()).add(prefixes[issuer])
    return {
        issuer: tuple(
            sorted({other for name in names for other in inside[name] if other != own and other.startswith(own)})
        )
        for issuer, names in shared.items()
        for own in [prefixes[issuer]]
    }


def subject_prefix(trusted: Trusted) -> str:
    return trusted.subject_prefix if isinstance(trusted, Issuer) else ""
