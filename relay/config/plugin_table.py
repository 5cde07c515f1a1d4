"""The settings of plugins: how they are watched, and what every plugin's table may say.

Not here: a plugin's own settings (its `Settings` class). The one rule: as in schema, a description says what a setting
does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from relay.config.table import Bytes, Count, Seconds, Table, about


class Supervision(Table, frozen=True):
    """How plugins are watched."""

    directory: Annotated[str, about("Folder whose .py files may hold plugins, beside the installed ones.")] = "plugins"
    stall: Annotated[Seconds, about("Seconds after which a synchronous hook that still runs is named in the log.")] = (
        0.1
    )
    failures: Annotated[
        Count, about("Failures within failure_window after which a plugin is switched off; 0: never.")
    ] = 100
    interrupt: Annotated[
        Seconds,
        about("Seconds after which a synchronous hook that still runs is broken off; it fails. 0: never."),
    ] = 1.0
    slow_hook: Annotated[
        Seconds,
        about(
            "Seconds. A plugin whose synchronous hooks take longer than this, on average, and that takes most of the "
            "loop's time, is called once a turn of the loop; others are served in between. 0: never."
        ),
    ] = 0.001
    retry: Annotated[
        Seconds,
        about(
            "Seconds after which a plugin that was switched off is tried again, twice as long each time it fails; 0: "
            "never."
        ),
    ] = 60.0
    tasks: Annotated[Count, about("Tasks, and timers, that one plugin may have at a time.")] = 1000
    trace: Annotated[
        bool,
        about("Each call of a plugin's hooks is a line of the log, of level debug. Costs nothing while it is off."),
    ] = False
    failure_window: Annotated[Seconds, about("Seconds over which failures are counted.")] = 60.0


class PluginTable(msgspec.Struct, frozen=True, kw_only=True):
    """The keys every [plugins.NAME] table may have; all others belong to the plugin's own Settings."""

    rooms: Annotated[
        str | list[str],
        about("Pattern or patterns of the rooms it serves: whole segments between colons, or a trailing *."),
    ] = msgspec.field(default_factory=list)
    filters: Annotated[
        str | list[str],
        about("Patterns of rooms of other plugins that it stands in front of: it may refuse and rewrite what comes."),
    ] = msgspec.field(default_factory=list)
    publish: Annotated[str | list[str], about("Patterns of rooms of other plugins that it may publish in.")] = (
        msgspec.field(default_factory=list)
    )
    use: Annotated[
        str,
        about(
            "The plugin: an entry point's name, 'file' in the plugin directory, or 'module:Class'. Empty: the name of "
            "the table."
        ),
    ] = ""
    enabled: Annotated[bool, about("false switches it off and keeps its settings.")] = True
    channel: Annotated[str, about("Channel its messages travel in unless they say otherwise.")] = "default"
    history: Annotated[Count, about("Messages each room remembers for those who join or come back.")] = 0
    history_seconds: Annotated[Seconds, about("Seconds a message is remembered; 0: until others take its place.")] = (
        300.0
    )
    history_bytes: Annotated[Bytes, about("Bytes each room remembers at most; 0: any number.")] = 0
    last_value: Annotated[
        bool, about("Whoever joins hears the newest message at once. Needs a history of at least 1.")
    ] = False
    durable: Annotated[
        bool,
        about(
            "Its rooms' history is kept on disk (history.file): a message is heard, and its publisher answered, once "
            "it is written. Needs a history of at least 1."
        ),
    ] = False
    presence: Annotated[bool, about("Members see who joins and leaves.")] = False
    presence_claims: Annotated[
        list[str], about("Claims of a member's token that the others see, as in ['name', 'picture'].")
    ] = msgspec.field(default_factory=list)
    presence_debounce: Annotated[
        Seconds,
        about("Seconds until the others are told that a member left; who comes back within them was never away."),
    ] = 0.0
    presence_events_up_to: Annotated[
        Count,
        about("Members up to which all are told who joins and leaves; beyond, they are told the number alone."),
    ] = 200
    presence_count_every: Annotated[
        Seconds, about("Seconds between two such numbers, at least, and only if it changed; 0: none is told.")
    ] = 5.0
    presence_list_up_to: Annotated[
        Count, about("Members up to which they are listed for who asks; beyond, the number alone.")
    ] = 1000
    max_members: Annotated[Count, about("Connections in one room; 0: any number.")] = 0
    max_rooms: Annotated[Count, about("Rooms of this table that may be open at once; 0: any number.")] = 0
    max_rooms_per_subject: Annotated[Count, about("Rooms of this table that one subject may be in; 0: any number.")] = 0
    wildcards: Annotated[
        bool,
        about(
            "Its rooms may be heard by a pattern (`join` with `sensors:*`): no join hook is asked then, and nobody is "
            "told."
        ),
    ] = False
    delta: Annotated[
        bool,
        about(
            "Of a new value of a `key`, a JSON object, those who joined with `delta` are sent only what has changed "
            "(JSON merge patch)."
        ),
    ] = False
    decisions: Annotated[
        bool,
        about(
            "It hears what the relay and other plugins decide against anybody (on_decisions): names of subjects and of "
            "rooms that are not its own."
        ),
    ] = False
    hook_timeout: Annotated[Seconds, about("Seconds for one asynchronous hook; 0: timeouts.hook.")] = 0.0
    isolate: Annotated[
        Literal["none", "process"],
        about("process: it runs in a process of its own, and cannot hold, crash or fill the relay's."),
    ] = "none"
    memory_bytes: Annotated[
        Bytes, about("Memory of that process, bytes of address space; 0: any. Only with isolate = 'process'.")
    ] = 0


def default_plugins() -> dict[str, dict[str, Any]]:
    return {
        "chat": {"rooms": ["lobby", "chat:*"], "history": 100, "presence": True},
        "direct": {"rooms": "direct:*"},
        "feed": {"rooms": "feed:*", "history": 10},
        "echo": {"rooms": "echo:*"},
    }
