"""`relay rooms`: list, show, close, freeze, unfreeze and rename rooms of a running relay.

Not here: what that does (front/api_rooms), how the API is found (api). The one rule: what is said is what the relay
answered.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import click

from relay.cli.api import ApiClient, ApiError, api_options
from relay.cli.source import Source, config_options, fail


@click.group()
def rooms() -> None:
    """Look at rooms of a running relay, and close, freeze or rename them."""


def _asks(api: ApiClient, method: str, path: str, body: dict[str, Any] | None, tenant: str | None) -> Any:
    where = f"{path}?{urlencode({'tenant': tenant})}" if tenant else path
    try:
        return api.ask(method, where, body) if body is not None else api.ask(method, where)
    except ApiError as error:
        fail(str(error))


def _path(room: str, what: str = "") -> str:
    return f"/rooms/{quote(room, safe='-._~:')}{what}"


_tenant = click.option("--tenant", help="In the rooms of that tenant.  [default: those of none]")
_json = click.option("--json", "as_json", is_flag=True, help="Print the relay's answer as it is.")


@rooms.command("list")
@click.option("--prefix", default="", help="Only rooms whose names begin so.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@_tenant
@_json
@config_options
@api_options
def list_(source: Source, api: ApiClient, prefix: str, limit: int, tenant: str | None, as_json: bool) -> None:
    """List open rooms, the largest first."""
    wanted = {"prefix": prefix, "limit": limit, **({"tenant": tenant} if tenant else {})}
    answer = _asks(api, "GET", f"/rooms?{urlencode(wanted)}", None, None)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from relay.ops.logs import visible

    for room in answer["rooms"]:
        frozen = "  frozen" if room["frozen"] else ""
        members = f"{room['members']:>7} members  offset {room['offset']:>8}"
        click.echo(f"{members}  {visible(room['room'])!s}  [{room['plugin']}]{frozen}")
    click.echo(f"{len(answer['rooms'])} of {answer['count']} rooms")


@rooms.command()
@click.argument("room")
@_tenant
@config_options
@api_options
def show(source: Source, api: ApiClient, room: str, tenant: str | None) -> None:
    """Show one room: its numbers, what was dropped in it, and who is in it. As JSON."""
    click.echo(json.dumps(_asks(api, "GET", _path(room), None, tenant), ensure_ascii=False, indent=2))


@rooms.command()
@click.argument("room")
@click.option("--reason", help="What the members are told.")
@click.option("--ban", default="0s", help="Do not let it be opened again for: 90s, 15m, 12h, 7d.")
@_tenant
@config_options
@api_options
def close(source: Source, api: ApiClient, room: str, reason: str | None, ban: str, tenant: str | None) -> None:
    """Close a room: its members leave, and are told why."""
    from relay.cli.signing import seconds_of

    try:
        seconds = 0.0 if ban in ("0", "0s") else float(seconds_of(ban))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ban") from None
    body = {"ban": seconds, **({"reason": reason} if reason else {})}
    answer = _asks(api, "POST", _path(room, "/close"), body, tenant)
    click.echo(f"closed: {answer['left']} connections have left" + (f", for {ban}" if seconds else ""))


@rooms.command()
@click.argument("room")
@click.option("--reason", help="What those who publish are told.")
@_tenant
@config_options
@api_options
def freeze(source: Source, api: ApiClient, room: str, reason: str | None, tenant: str | None) -> None:
    """Freeze a room: it is heard, but nobody may publish in it."""
    _asks(api, "POST", _path(room, "/freeze"), {"reason": reason} if reason else {}, tenant)
    click.echo("frozen")


@rooms.command()
@click.argument("room")
@_tenant
@config_options
@api_options
def unfreeze(source: Source, api: ApiClient, room: str, tenant: str | None) -> None:
    """Let clients publish in a room again."""
    _asks(api, "POST", _path(room, "/unfreeze"), None, tenant)
    click.echo("not frozen any more")


@rooms.command()
@click.argument("room")
@click.argument("to")
@click.option("--no-alias", is_flag=True, help="Do not let the old name lead to the new one.")
@_tenant
@config_options
@api_options
def rename(source: Source, api: ApiClient, room: str, to: str, no_alias: bool, tenant: str | None) -> None:
    """Give a room another name; members, history and offsets move along."""
    answer = _asks(api, "POST", _path(room, "/rename"), {"to": to, "alias": not no_alias}, tenant)
    click.echo(f"renamed: {answer['members']} connections are in {answer['room']}")
