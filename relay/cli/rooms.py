"""`relay rooms`: list, show, close, freeze and rename rooms of a running relay, and the aliases that lead to them.

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
    """Look at rooms of a running relay, and close, freeze or rename them.

    \b
    Examples:
      relay rooms list --prefix chat:
      relay rooms close chat:tea --reason "maintenance" --ban 15m
      relay rooms kick chat:tea --subject mallory
      relay rooms list --closed
    """


def _asks(api: ApiClient, method: str, path: str, body: dict[str, Any] | None, tenant: str | None) -> Any:
    where = f"{path}?{urlencode({'tenant': tenant})}" if tenant else path
    try:
        return api.ask(method, where, body) if body is not None else api.ask(method, where)
    except ApiError as error:
        fail(str(error))


def _left(answer: Any) -> str:
    return "1 connection has left" if answer["left"] == 1 else f"{answer['left']} connections have left"


def _path(room: str, what: str = "") -> str:
    return f"/rooms/{quote(room, safe='-._~:')}{what}"


_tenant = click.option("--tenant", help="In the rooms of that tenant.  [default: those of none]")
_json = click.option("--json", "as_json", is_flag=True, help="Print the relay's answer as it is.")


@rooms.command("list")
@click.option("--frozen", is_flag=True, help="Rooms that are frozen, whether somebody is in them or not.")
@click.option("--closed", is_flag=True, help="Rooms that cannot be opened for a while.")
@click.option("--prefix", default="", help="Only rooms whose names begin so.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@_tenant
@_json
@config_options
@api_options
def list_(
    source: Source,
    api: ApiClient,
    frozen: bool,
    closed: bool,
    prefix: str,
    limit: int,
    tenant: str | None,
    as_json: bool,
) -> None:
    """List open rooms, the largest first; or those that are frozen or closed."""
    if frozen or closed:
        _list_standing(
            api, [name for name, asked in (("frozen", frozen), ("closed", closed)) if asked], prefix, tenant, as_json
        )
        return
    wanted = {"prefix": prefix, "limit": limit, **({"tenant": tenant} if tenant else {})}
    answer = _asks(api, "GET", f"/rooms?{urlencode(wanted)}", None, None)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from relay.ops.logs import visible

    for room in answer["rooms"]:
        state = "  frozen" if room["frozen"] else ""
        members = f"{room['members']:>7} members  offset {room['offset']:>8}"
        click.echo(f"{members}  {visible(room['room'])!s}  [{room['plugin']}]{state}")
    click.echo(f"{len(answer['rooms'])} of {answer['count']} rooms")


def _list_standing(api: ApiClient, wanted: list[str], prefix: str, tenant: str | None, as_json: bool) -> None:
    answer = _asks(api, "GET", "/standing", None, tenant)
    found = {name: [one for one in answer[name] if one["room"].startswith(prefix)] for name in wanted}
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    from relay.ops.logs import visible

    for name, rooms in found.items():
        for one in rooms:
            state = f"{name} for {one['seconds']:.0f} s" if "seconds" in one else name
            click.echo(f"{visible(one['room'])}  {state}: {visible(one['reason'])}")
    click.echo(", ".join(f"{len(rooms)} {name}" for name, rooms in found.items()))


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
    click.echo(f"closed: {_left(answer)}" + (f", for {ban}" if seconds else ""))


@rooms.command()
@click.argument("room")
@_tenant
@config_options
@api_options
def reopen(source: Source, api: ApiClient, room: str, tenant: str | None) -> None:
    """Let a room be opened again that was closed with --ban."""
    answer = _asks(api, "POST", _path(room, "/reopen"), None, tenant)
    click.echo("it can be opened again" if answer["was_closed"] else "it was not closed")


@rooms.command()
@click.argument("room")
@click.option("--subject", help="All connections of that subject.")
@click.option("--session", help="That one connection.")
@click.option("--reason", help="What they are told.")
@_tenant
@config_options
@api_options
def kick(
    source: Source,
    api: ApiClient,
    room: str,
    subject: str | None,
    session: str | None,
    reason: str | None,
    tenant: str | None,
) -> None:
    """Put somebody out of a room. Nothing keeps them from coming back."""
    if bool(subject) == bool(session):
        raise click.UsageError("who? Give --subject or --session")
    texts = {"subject": subject, "session": session, "reason": reason}
    body = {name: text for name, text in texts.items() if text}
    answer = _asks(api, "POST", _path(room, "/kick"), body, tenant)
    click.echo(_left(answer))


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
    members = answer["members"]
    who = "1 connection is" if members == 1 else f"{members} connections are"
    click.echo(f"renamed: {who} in {answer['room']}")


@rooms.command()
@click.argument("room")
@_tenant
@config_options
@api_options
def forget(source: Source, api: ApiClient, room: str, tenant: str | None) -> None:
    """Make a room forget its messages; its offsets go on."""
    answer = _asks(api, "DELETE", _path(room, "/history"), None, tenant)
    click.echo(f"forgotten: {answer['forgotten']} message" + ("" if answer["forgotten"] == 1 else "s"))


@rooms.command()
@_tenant
@_json
@config_options
@api_options
def aliases(source: Source, api: ApiClient, tenant: str | None, as_json: bool) -> None:
    """List other names of rooms."""
    answer = _asks(api, "GET", "/aliases", None, tenant)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from relay.ops.logs import visible

    for one in answer["aliases"]:
        click.echo(f"{visible(one['alias'])} -> {visible(one['room'])}")
    click.echo(f"{answer['count']} aliases")


@rooms.command()
@click.argument("alias")
@click.argument("room")
@_tenant
@config_options
@api_options
def alias(source: Source, api: ApiClient, alias: str, room: str, tenant: str | None) -> None:
    """Let a name lead to a room, until the next start."""
    _asks(api, "PUT", _alias_path(alias), {"room": room}, tenant)
    click.echo("it leads there until the next start; [aliases] of the configuration are for good")


@rooms.command()
@click.argument("alias")
@_tenant
@config_options
@api_options
def unalias(source: Source, api: ApiClient, alias: str, tenant: str | None) -> None:
    """Take an alias back; one of the configuration is there again at the next start."""
    _asks(api, "DELETE", _alias_path(alias), None, tenant)
    click.echo("it leads nowhere any more")


def _alias_path(alias: str) -> str:
    return f"/aliases/{quote(alias, safe='-._~:')}"
