"""`relay pub` and `relay sub`: a terminal as a client.

Not here: the client (relay.client). The one rule: what others said is shown with its control characters made visible,
so that no message can write to the terminal.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from relay.cli.source import Source, config_options, fail

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from relay.client import Client

URL: Final = "wss://localhost:8443/ws"
AUTHORITY: Final = Path("certs/ca.pem")
SECRET: Final = Path("certs/token-secret")

Function = TypeVar("Function", bound=Callable[..., Any])
Connect = Callable[[], "AbstractAsyncContextManager[Client]"]


def client_options(function: Function) -> Function:
    """Adds how to reach a relay; the command gets `connect`."""

    @click.option("--url", default=URL, show_default=True, help="Where the relay is: its /ws.")
    @click.option("--token", envvar="RELAY_TOKEN", show_envvar=True, help="The token.")
    @click.option(
        "--token-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="File that holds the token."
    )
    @click.option(
        "--ca-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="PEM file of the authority to trust.  [default: certs/ca.pem, for this machine]",
    )
    @config_options
    @wraps(function)
    def wrapped(
        *args: Any,
        source: Source,
        url: str,
        token: str | None,
        token_file: Path | None,
        ca_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        if token_file is not None:
            token = token_file.read_text().strip()
        if token is None:
            token = _development_token(source) if local else None
        if token is None:
            raise click.UsageError("which token? --token, --token-file or RELAY_TOKEN; `relay dev` prints one")
        if ca_file is None and local and AUTHORITY.is_file() and url.startswith("wss:"):
            ca_file = AUTHORITY

        def connect() -> AbstractAsyncContextManager[Client]:
            from relay.client import connect

            return connect(url, token=token, ca_file=ca_file)

        return function(*args, connect=connect, **kwargs)

    return wrapped  # type: ignore[return-value]


def _development_token(source: Source) -> str | None:
    """A token made on the fly, where the secret of a development relay lies. Only ever sent to this machine."""
    if not SECRET.is_file():
        return None
    from relay.cli import signing
    from relay.errors import ConfigError

    try:
        loaded = source.load()
        key = signing.config_key(loaded)
    except ConfigError:
        return None
    return key.sign(signing.make_claims(loaded.config.auth, "dev", 3600, grants=signing.EVERYTHING))


@click.command()
@click.argument("room")
@click.argument("data", metavar="[DATA|-]", required=False)
@click.option("--json", "as_json", is_flag=True, help="DATA, or each line, is a JSON document; else it is text.")
@click.option("--channel", help="The channel it travels in, as urgent or bulk.")
@click.option("--key", help="A newer message of the same key may take its place for slow receivers.")
@click.option("--to", help="The only subject in the room that shall hear it.")
@click.option(
    "--confirm",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --to: wait until it has arrived there; status 1 if it has not within so many seconds.",
)
@client_options
def pub(
    connect: Connect,
    room: str,
    data: str | None,
    as_json: bool,
    channel: str | None,
    key: str | None,
    to: str | None,
    confirm: float | None,
) -> None:
    """Publish in a room.

    Without DATA, or with -, each line of standard input is published. Where the certs/ of a development relay lie, no
    token is needed.

    \b
    Examples:
      relay pub lobby hello
      relay pub lobby --json '{"move": "e4"}' --channel urgent
      tail -f app.log | relay pub feed:log
      relay pub direct:bob 'your taxi is here' --to bob --confirm 5
    """
    if confirm is not None and to is None:
        raise click.UsageError("--confirm is for a message --to one subject")

    async def run() -> None:
        import trio

        async with connect() as relay:

            async def say(text: str) -> None:
                value = _parsed(text, as_json)
                if to is None or confirm is None:
                    await relay.publish(room, value, channel=channel, key=key, to=to)
                else:
                    await relay.deliver(room, value, to=to, timeout=confirm, channel=channel, key=key)

            if data is not None and data != "-":
                await say(data)
                return
            # Abandoned by Ctrl-C: a thread that waits for a terminal cannot be woken.
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                await say(line.rstrip("\r\n"))

    if data is None and sys.stdin.isatty():
        click.echo("publishing each line; Ctrl-D ends", err=True)
    if data is not None and data != "-":
        _parsed(data, as_json)  # a mistake is told before connecting
    _run(run)


def _parsed(text: str, as_json: bool) -> Any:
    if not as_json:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"not JSON: {text[:100]!r}: {error}") from None


@click.command()
@click.argument("rooms", metavar="ROOM...", nargs=-1, required=True)
@click.option("--last", default=0, metavar="N", type=click.IntRange(min=0), help="Begin with the last N messages.")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--delta", is_flag=True, help="Have the relay send only what has changed of a value, where a room can.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
@client_options
def sub(connect: Connect, rooms: tuple[str, ...], last: int, count: int | None, delta: bool, as_json: bool) -> None:
    """Listen to rooms, or to all rooms of a pattern, until Ctrl-C.

    \b
    Examples:
      relay sub lobby --last 10
      relay sub 'chat:a' 'chat:b' --json | jq .data
      relay sub 'sensors:*:temp'
      relay sub state:game --delta --json | jq -c '[.key, .patch]'
    """

    async def run() -> None:
        from relay.client import Message

        async with connect() as relay:
            left = count
            many = len(rooms) > 1 or "*" in rooms[0]
            pending: list[Any] = []
            for room in rooms:
                pending += (await relay.join(room, last=last, delta=delta and "*" not in room)).messages
            click.echo(f"listening to {' '.join(rooms)}; Ctrl-C ends", err=True)
            while left is None or left > 0:
                event = pending.pop(0) if pending else await relay.receive()
                click.echo(_as_json(event) if as_json else _as_text(event, many))
                if left is not None and isinstance(event, Message):
                    left -= 1

    _run(run)


def _as_json(event: Any) -> str:
    """One line of printable ASCII."""
    import msgspec

    return json.dumps(msgspec.to_builtins(event), ensure_ascii=True)


def _as_text(event: Any, many: bool) -> str:
    from relay.client import Bye, Expiring, Gap, Joined, Left, Message, Refusal, Renamed
    from relay.ops.logs import visible

    match event:
        case Message(room=room, sender=sender, data=data):
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=repr)
            line = f"{sender or 'relay'}: {text}"
            return visible(f"{room} {line}" if many else line)
        case Joined(room=room, subject=subject):
            return visible(f"* {subject} came to {room}")
        case Left(room=room, subject=subject, reason=reason):
            return visible(f"* {subject} left {room}" + (f": {reason}" if reason else ""))
        case Renamed(room=room, to=to):
            return visible(f"* {room} is called {to} now")
        case Gap(room=room, first=first, last=last, reason=reason):
            return visible(f"* lost in {room}: {first} to {last} ({reason})")
        case Expiring(seconds=seconds):
            return f"* the token ends in {seconds:.0f} s"
        case Bye(code=code, reason=reason):
            return visible(f"* the relay says bye: {code} {reason}")
        case Refusal(code=code, message=message):
            return visible(f"* refused: {message or code}")
    return visible(str(event))


def _run(program: Callable[[], Awaitable[None]]) -> None:
    """Runs a client; whatever the relay or the network says no with becomes one line and exit status 1."""
    import trio

    from relay.client import ClientError, Refused
    from relay.ops.logs import visible

    try:
        with contextlib.suppress(KeyboardInterrupt):
            trio.run(program)
    except Refused as refused:
        fail(visible(f"refused: {refused}" + (f" [{refused.setting}]" if refused.setting else "")))
    except ClientError as error:
        fail(visible(str(error)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
