"""`relay explain`: why somebody was refused, throttled, closed or did not get a message; and what a code means.

Not here: deciding and keeping decisions (relay/decisions), words for codes (relay/explain). The one rule: each line of
the answer says what happened, which setting did it, where that setting stands, and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import click

from relay.cli.api import ApiClient, ApiError, api_options
from relay.cli.source import Source, config_options, fail

if TYPE_CHECKING:
    from relay.explain.entry import Explanation

WORDS: Final = {
    "tls": "TLS handshake failed",
    "rejected": "handshake refused",
    "refused": "request refused",
    "throttled": "not read for a while",
    "dropped": "messages not delivered",
    "kicked": "removed from a room",
    "closed": "closed by the relay",
    "left": "gone by itself",
}
CODES: Final = {"kicked": "forbidden"}
WIDTH: Final = 100
HELD: Final = {
    "rate": "its rate",
    "quota": "a quota it is ahead of",
    "work": "requests that wait for plugins",
    "readers": "slow readers of what it says",
}
"""Why a connection is not read (net/reading)."""

Find: TypeAlias = "Callable[[ApiClient, str, int], dict[str, Any]]"


@click.group()
def explain() -> None:
    """Say why somebody was refused, throttled or closed.

    Which rule, limit, setting or plugin did it, where the setting stands, and what to do.

    \b
    Examples:
      relay explain subject ann
      relay explain conn Xk3vPb2mQ0aY71fz
      relay explain address 192.0.2.7
      relay explain code 4208
    """


def _answers(about: str, argument: str, title: str = "") -> Callable[[Find], click.Command]:
    """Makes a command of what looks up, for whoever is named, the connections there are and so many decisions."""

    def made(find: Find) -> click.Command:
        @explain.command(about, help=find.__doc__)
        @click.argument("who", metavar=argument)
        @click.option(
            "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Decisions to show."
        )
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @config_options
        @api_options
        def command(source: Source, api: ApiClient, who: str, limit: int, as_json: bool) -> None:
            _show(f"{title or about} {who}", find(api, who, limit), as_json)

        return command

    return made


@_answers("conn", "SESSION", title="session")
def explain_conn(api: ApiClient, session: str, limit: int) -> dict[str, Any]:
    """Explain one connection, by the session's name in `hello` and in the log."""
    found = _decisions(api, limit, session=session)
    try:
        found["connections"] = [_get(api, f"/connections/{quote(session, safe='')}")]
    except ApiError as error:
        if error.code != "no_such_session":
            fail(str(error))
        found["connections"] = []
    return found


@_answers("subject", "NAME")
def explain_subject(api: ApiClient, name: str, limit: int) -> dict[str, Any]:
    """Explain what happened to a user: the connections there are, and recent decisions."""
    return _about(api, limit, subject=name)


@_answers("room", "NAME")
def explain_room(api: ApiClient, name: str, limit: int) -> dict[str, Any]:
    """Explain what happened in a room."""
    return _about(api, limit, room=name)


@_answers("address", "IP")
def explain_address(api: ApiClient, ip: str, limit: int) -> dict[str, Any]:
    """Explain what happened to an address, refused and failed handshakes included."""
    return _about(api, limit, address=ip)


@explain.command("code")
@click.argument("code")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_code(code: str, as_json: bool) -> None:
    """Explain a code: of an error, a close frame, a refused handshake or a TLS failure. Asks no relay."""
    from relay.explain.codes import find, near

    found = find(code)
    if found is None:
        hint = near(code)
        fail(
            f"no code {code!r}", f"did you mean {hint}?" if hint else "docs/codes lists all; a plugin has its own words"
        )
    if as_json:
        _print_json(_plain(found))
        return
    for line in code_lines(found):
        click.echo(line)


def _about(api: ApiClient, limit: int, **who: str) -> dict[str, Any]:
    found = _decisions(api, limit, **who)
    found["connections"] = _get(api, "/connections", limit=20, **who)["connections"]
    return found


def _decisions(api: ApiClient, limit: int, **who: str) -> dict[str, Any]:
    found: dict[str, Any] = _get(api, "/decisions", limit=limit, **who)
    return found


def _get(api: ApiClient, path: str, **query: object) -> Any:
    try:
        return api.get(path, **query)
    except ApiError as error:
        if error.status == 404 and error.code == "no_such_session":
            raise
        fail(str(error))


# What is printed.


def _show(title: str, found: dict[str, Any], as_json: bool) -> None:
    from relay.explain.codes import ALL

    if as_json:
        codes = {CODES.get(one["kind"], one["code"]) for one in found["decisions"]}
        found["explanations"] = {code: _plain(ALL[code]) for code in sorted(codes & ALL.keys())}
        _print_json(found)
        return
    for line in lines_of(title, found):
        click.echo(line)


def lines_of(title: str, found: dict[str, Any]) -> Iterable[str]:
    """The answer for people: who is connected now, then decisions, the latest first."""
    from relay.ops.logs import visible

    connections, decisions = found["connections"], found["decisions"]
    yield click.style(f"{visible(title)}: {_count(len(connections), 'connection')} now", bold=True)
    for one in connections:
        yield "  " + visible(_connection(one))
    yield ""
    if not decisions:
        kept = found.get("kept", 0)
        yield (
            f"no recent decision (of the last {kept} kept)" if kept else "internal.recent_decisions is 0: none are kept"
        )
        return
    more = f", {found['count'] - len(decisions)} older ones left out (-n)" if found["truncated"] else ""
    yield click.style(f"{_count(found['count'], 'recent decision')}, the latest first{more}", bold=True)
    told: set[str] = set()
    for one in decisions:
        yield from map(visible, _decision(one, found["settings"], told))


def _connection(one: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["opened_at"]))
    rooms = ", ".join(one["rooms"][:5]) + (" …" if len(one["rooms"]) > 5 else "") or "no room"
    reasons = " and ".join(HELD.get(reason, reason) for reason in one["not_read_because"])
    return (
        f"{one['session']}  {one['subject']} from {one['address']} since {since}, in {rooms}; "
        f"{one['outbox_bytes']} bytes wait for it"
        + (f"; NOT READ because of {reasons}" if reasons else "")
        + (f"; CLOSING: {one['closing']}" if one["closing"] else "")
    )


def _decision(one: dict[str, Any], settings: dict[str, Any], told: set[str]) -> Iterable[str]:
    from relay.explain.codes import ALL

    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["last"]))
    who = " ".join(
        word
        for word in (
            one.get("subject", ""),
            f"from {one['address']}" if "address" in one else "",
            f"session {one['session']}" if "session" in one else "",
            f"in {one['room']}" if "room" in one else "",
        )
        if word
    )
    often = f"  ({one['count']} times since {time.strftime('%H:%M:%S', time.localtime(one['at']))})"
    yield f"{stamp}  {WORDS.get(one['kind'], one['kind'])}: {one['code']}" + (often if one["count"] > 1 else "")
    yield f"  who      {who}"
    if "detail" in one:
        yield f"  why      {one['detail']}"
    if "plugin" in one:
        yield f"  plugin   {one['plugin']} (settings in [plugins.{one['plugin']}])"
    if "setting" in one:
        yield f"  setting  {_setting(one['setting'], settings.get(one['setting'], {}))}"
    code = CODES.get(one["kind"], one["code"])
    explained = ALL.get(code)
    if explained is not None and code not in told:
        told.add(code)
        yield from _wrapped("  to do    ", explained.operator)
        yield f"  more     relay explain code {code}"


def _setting(key: str, known: dict[str, Any]) -> str:
    import json

    value = f" = {json.dumps(known['value'], ensure_ascii=False)}" if "value" in known else ""
    where = known.get("where", "")
    return f"{key}{value}" + (f"  ({'its default' if where == 'default' else where})" if where else "")


def code_lines(one: Explanation) -> Iterable[str]:
    """A code, as its page says it."""
    from relay.explain.entry import WHERE

    yield click.style(one.code, bold=True) + (f"  HTTP status {one.status}" if one.status is not None else "")
    yield from _wrapped("  where     ", "; ".join(WHERE[where] for where in one.where))
    yield from _wrapped("  meaning   ", one.meaning)
    yield from _wrapped("  cause     ", one.cause)
    yield from _wrapped("  client    ", one.client)
    yield from _wrapped("  operator  ", one.operator)
    if one.settings:
        yield from _wrapped("  settings  ", ", ".join(one.settings))
    yield f"  page      docs/codes/{one.code}.md"


def _wrapped(label: str, text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _plain(one: Explanation) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one)


def _print_json(found: object) -> None:
    import json

    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
