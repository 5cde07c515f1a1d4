"""How the API shows a connection, a room, a decision and a setting.

Not here: finding them (api_routes). The one rule: no token, no key and no payload is shown, and what others wrote is
shown with its control characters made visible.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from relay.config.loader import LoadedConfig
from relay.config.schema import PluginTable
from relay.decisions import Decision
from relay.net.link import Link
from relay.ops.logs import clean
from relay.rooms.room import Room

MOST_ROOMS: Final = 1000  # of one connection, listed
_SHOWABLE: Final = (bool, int, float, str)


def connection(link: Link, now: float) -> dict[str, Any]:
    """One socket. Times are Unix seconds; `idle` are seconds since the client was last heard."""
    one, main = link.connection, link.connection.main
    reason = one.closing
    return {
        "session": one.session,
        "subject": one.subject,
        "tenant": one.identity.tenant,
        "address": main.address,
        "protocol": one.protocol.name,
        "home": main.home or None,
        "first": one is main,
        "rooms": sorted(main.rooms)[:MOST_ROOMS],
        "opened_at": round(link.opened_at, 3),
        "idle": round(max(0.0, now - link.heard), 3),
        "token_expires": one.identity.expires,
        "messages_in": one.messages,
        "bytes_in": link.bytes_in,
        "bytes_out": link.writer.bytes_out,
        "outbox_bytes": link.outbox.size,
        "not_read_because": link.not_read_because(),
        "closing": None if reason is None else reason.text(),
    }


def room(one: Room) -> dict[str, Any]:
    return {
        "room": one.name,
        "plugin": one.rule.plugin,
        "members": len(one),
        "subjects": len(one.subjects),
        "offset": one.offset,
        "epoch": one.epoch,
        "history": 0 if one.history is None else len(one.history),
        "subscribers": len(one.watchers or ()),
        "frozen": one.name in one.hub.standing.frozen,
    }


def more_of_room(one: Room) -> dict[str, Any]:
    """What is told of one room alone: drops since it was opened, and its aliases."""
    drops = [
        {"channel": channel, "reason": reason, "count": count} for (channel, reason), count in (one.drops or {}).items()
    ]
    return {"drops": drops, "aliases": one.hub.aliases.of(one.name)}


def decision(one: Decision) -> dict[str, Any]:
    """Without what does not apply."""
    shown: dict[str, Any] = {
        "at": round(one.at, 3), "last": round(one.last, 3), "count": one.count, "kind": one.kind, "code": one.code,
    }  # fmt: skip
    for name in ("setting", "session", "subject", "address", "room", "plugin", "tenant", "detail"):
        text = getattr(one, name)
        if text:
            shown[name] = clean(text)
    return shown


def setting(loaded: LoadedConfig, key: str) -> dict[str, Any]:
    """The value of a config key, and where it was set: "config.toml:12" or "default". A secret's value is left out."""
    shown: dict[str, Any] = {"where": loaded.where(key)}
    if key.startswith(("auth.keys", "internal.api_keys")):
        return shown
    if key.startswith("tenants.") and ".plugins." in key:  # a plugin's own may be a secret
        return shown
    found: Any = loaded.config
    for part in key.split("."):
        if isinstance(found, dict):
            found = found.get(part)
        else:
            found = getattr(found, part, None) if isinstance(found, msgspec.Struct) else None
    parts = key.split(".")
    if parts[0] == "plugins" and len(parts) == 3:
        if parts[2] not in PluginTable.__struct_fields__:  # a plugin's own: it may be a secret
            return shown
        found = getattr(loaded.plugin_tables[parts[1]][0], parts[2]) if parts[1] in loaded.plugin_tables else None
    if isinstance(found, _SHOWABLE) or (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        shown["value"] = found
    return shown
