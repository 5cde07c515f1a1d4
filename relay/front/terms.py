"""What a configuration says about one tenant, compiled; and which host names are whose.

Not here: the tenant as it runs (tenants). The one rule: all of it is made anew by a reload, and swapped as a whole.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.config.schema import Config
from relay.errors import Rejected
from relay.limits.buckets import Rate
from relay.net.origins import OriginPolicy
from relay.net.slow_path import EngineLimits
from relay.session.spending import compile_quotas


class Terms:
    """`config` is that of the tenant: with its own limits in the place of the process's. Raises ConfigError."""

    def __init__(self, config: Config, tenant: str = "") -> None:
        own = config.tenants[tenant] if tenant else None
        if own is not None:
            config = msgspec.structs.replace(config, limits=msgspec.structs.replace(config.limits, **own.limits))
        self.config: Config = config
        if own is not None and own.allowed_origins:
            self.origins = OriginPolicy(own.allowed_origins, f"tenants.{tenant}.allowed_origins")
        else:
            self.origins = OriginPolicy(config.auth.allowed_origins)
        limits = config.limits
        self.own_settings: dict[str, str] = {
            f"limits.{key}": f"tenants.{tenant}.limits.{key}" for key in (own.limits if own is not None else ())
        }
        """How the limits are called that its own table decides."""
        self.engine = EngineLimits(
            limits.message_bytes,
            limits.fragments,
            Rate(limits.control_frames, limits.control_frames_burst),
            config.websocket.fast_path,
        )
        self.message_rate = Rate(limits.messages_per_second, limits.messages_burst)
        self.byte_rate = Rate(limits.bytes_per_second, limits.bytes_burst)
        self.quotas = compile_quotas(config.quotas, tenant)
        self.rates = (
            config.quotas, limits.messages_per_second, limits.messages_burst, limits.bytes_per_second,
            limits.bytes_burst,
        )  # fmt: skip
        """All by which it is counted what a connection spends."""


class Hosts:
    """Whose a host name is. A name counts before the wildcard it falls under (`*.` stands for one whole label)."""

    __slots__ = ("_owners", "bound")

    def __init__(self, config: Config) -> None:
        self._owners: Final = {host.lower(): name for name, one in config.tenants.items() for host in one.hosts}
        self.bound: Final = frozenset(name for name, one in config.tenants.items() if one.hosts)
        """Tenants whose clients come to a host of theirs, and nowhere else."""

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, host: str | None) -> str | None:
        """The tenant whose host this is ("acme.example.com", with or without a port); None: it is nobody's."""
        if not self._owners or host is None:
            return None
        name = host.lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name
        name = name.removesuffix(".")
        return self._owners.get(name) or self._owners.get("*." + name.partition(".")[2])

    def check_names(self, host: str | None, asked_for: str | None) -> str | None:
        """`owner` of the Host field, which the name asked for in TLS (SNI) must agree with, where there was one.

        Raises Rejected 421 (RFC 9110 section 15.5.20): what was proved to the client is the other name's certificate.
        """
        owner = self.owner(host)
        if self._owners and asked_for is not None and self.owner(asked_for) != owner:
            raise Rejected(421, "misdirected", "the host of the request is not the one that TLS was set up for")
        return owner

    def admits(self, tenant: str, owner: str | None) -> bool:
        """Whether a client of `tenant` may come in by a host of `owner`."""
        return owner == tenant if owner is not None else tenant not in self.bound
