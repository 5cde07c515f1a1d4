"""The settings of what rooms remember: how much in all, and where on disk.

Not here: how much one room remembers (plugin_table). The one rule: as in schema, a description says what a setting
does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from relay.config.table import Bytes, Count, Seconds, Table, about


class History(Table, frozen=True):
    """What rooms remember, all together. How much one room remembers, its plugin's table says."""

    memory_bytes: Annotated[
        Bytes,
        about(
            "Bytes that all rooms remember together, in memory; beyond it, rooms that nobody is in are forgotten, then "
            "the oldest messages of the room that grows."
        ),
    ] = 268435456
    receipts: Annotated[Count, about("Answered publishes with a key (`once`) that each room knows again.")] = 1000
    receipt_seconds: Annotated[Seconds, about("Seconds such an answer is known.")] = 300.0
    file: Annotated[
        str, about("SQLite file for the rooms of plugins with durable = true; empty: nothing is kept on disk.")
    ] = ""
    sync: Annotated[
        Literal["full", "normal"],
        about(
            "full: what was answered survives a power failure; normal: the end of the process, however that comes, at "
            "less cost."
        ),
    ] = "full"
    queue_bytes: Annotated[
        Bytes, about("Bytes that may wait for the disk; beyond it publishing in durable rooms is refused.")
    ] = 16777216
