"""Quotas: rates that an operator declares, each a table of the config.

Not here: the other limits (schema), and what keeps a quota (limits/quotas). The one rule: a quota counts one thing, for
one kind of who, and says what happens at its bound.
"""

from __future__ import annotations

from typing import Annotated, Literal

from relay.config.table import Table, about, items


class Quota(Table, frozen=True):
    """A rate, and what happens to what exceeds it."""

    counts: Annotated[
        Literal["messages_in", "bytes_in", "messages_out", "bytes_out", "joins", "calls"],
        about("What is counted: messages or bytes that clients send or are sent, rooms joined, or calls of plugins."),
    ]
    per: Annotated[
        Literal["connection", "subject", "address", "room", "plugin", "tenant"],
        about("Who shares one bucket; a tenant is all of it together. What is sent to clients has no room or plugin."),
    ]
    rate: Annotated[float, about("Units a second; 0 switches the quota off.", ge=0)]
    burst: Annotated[float, about("Units that may come at once; 0: what one second may bring.", ge=0)] = 0.0
    at_limit: Annotated[
        Literal["slow", "refuse", "close"],
        about(
            "slow: who sends is read more slowly, and bytes_out are written more slowly; refuse: an `error` with "
            "retry_after, and of what is sent a `gap`; close: 4229."
        ),
    ] = "refuse"
    rooms: Annotated[list[str], about("Patterns of the rooms it is about; []: all, and what is about no room.")] = (
        items()
    )
    plugins: Annotated[list[str], about("Plugins whose rooms it is about; []: all.")] = items()
    tenants: Annotated[list[str], about("Tenants it holds in, each with buckets of its own; []: all.")] = items()


def default_quotas() -> dict[str, Quota]:
    return {
        "joins": Quota(counts="joins", per="connection", rate=50.0, burst=500.0),
        "calls": Quota(counts="calls", per="connection", rate=200.0, burst=1000.0),
    }


OUT = ("messages_out", "bytes_out")


def faults(table: Quota) -> list[tuple[str, str, str]]:
    """(key, what is wrong, hint) of what cannot be together."""
    found = []
    if table.counts in OUT:
        if table.per in ("room", "plugin"):
            what = f"{table.counts} cannot be counted per {table.per}"
            found.append(("per", what, "bound what goes in: a room's members are each sent what is published in it"))
        if table.at_limit == "slow" and table.counts == "messages_out":
            what = "messages_out cannot be slowed down"
            found.append(("at_limit", what, "bytes_out can; or refuse, or close"))
        elif table.at_limit == "slow" and (table.rooms or table.plugins):
            key = "rooms" if table.rooms else "plugins"
            what = "what is written more slowly is a whole connection"
            found.append((key, what, "leave it out, or refuse, or close"))
    return found
