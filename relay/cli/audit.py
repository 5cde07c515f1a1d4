"""`relay audit`: look at what the plugin `audit` has written, and whether somebody has changed it.

Not here: reading the chain (ops/chain), writing it (plugins/audit). The one rule: what is shown was checked: whatever
the filters leave out, all of the chain is read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.source import fail

NAMED: Final = (
    "kind", "method", "code", "setting", "plugin", "detail", "channel", "key", "to", "bytes", "data", "count", "lines",
)  # fmt: skip
"""What is shown of a line behind its place and its person, by these names."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", "verify_only", is_flag=True, help="Only say whether the chain is whole.")
@click.option("--subject", help="Only lines about that subject.")
@click.option("--session", help="Only lines about that session.")
@click.option("--address", help="Only lines about that address.")
@click.option("--room", help="Only lines about that room; 'chat:*' is all rooms whose names begin so.")
@click.option("--code", help="Only decisions and ends with that code.")
@click.option(
    "--what", multiple=True, metavar="WHAT",
    help="Only lines of that sort: connect, join, message, call, leave, disconnect, decision, gap. May be repeated.",
)  # fmt: skip
@click.option(
    "--since", metavar="TIME", help="Only lines since: 2h ago as 2h, Unix seconds, or a date such as 2026-11-24T15:04."
)
@click.option("--until", metavar="TIME", help="Only lines until then.")
@click.option("--alone", is_flag=True, help="Only this file, without those that were put aside of it.")
@click.option("--expect", metavar="HASH", help="The hash of a line, kept elsewhere: it must be in the chain.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they stand in the file.")
def audit(
    file: Path,
    verify_only: bool,
    subject: str | None,
    session: str | None,
    address: str | None,
    room: str | None,
    code: str | None,
    what: tuple[str, ...],
    since: str | None,
    until: str | None,
    alone: bool,
    expect: str | None,
    as_json: bool,
) -> None:
    """Show and verify what the plugin `audit` has written.

    FILE is read with all that was put aside of it. Its lines are a chain: one that was changed, taken out or put in
    is found, said, and the exit status is 1. Whoever can write the file can write all of it anew: keep the last
    line's hash elsewhere, and give it to --expect.

    \b
    Examples:
      relay audit audit.jsonl --subject ann --since 2h
      relay audit audit.jsonl --what decision --code rate_limited
      relay audit audit.jsonl --verify --expect 9f2c…
    """
    from relay.ops.chain import Chain, parts_of
    from relay.ops.logs import visible

    texts = {"subject": subject, "session": session, "address": address, "code": code}
    wanted = _filter({name: value for name, value in texts.items() if value is not None}, room, what, since, until)
    chain = Chain([file] if alone else parts_of(file), expect.lower() if expect else "")
    shown = 0
    try:
        for raw, line in chain:
            if not verify_only and wanted(line):
                shown += 1
                click.echo(raw.decode(errors="replace") if as_json else visible(text_of(line)))
    except OSError as problem:
        fail(f"{problem.filename or file}: {problem.strerror or problem}")
    _judge(chain, shown, verify_only, expect)


def _judge(chain: Any, shown: int, verify_only: bool, expect: str | None) -> None:
    """Says on standard error whether it is all there; ends with 1 if not."""
    lines = f"{chain.lines} lines" + ("" if verify_only else f", {shown} shown")
    if chain.missing:
        click.secho(f"{chain.missing} lines were never written: the disk was slow or full", fg="yellow", err=True)
    if chain.half:
        click.secho("the last line is not whole: it is being written, or a crash has left it", fg="yellow", err=True)
    for problem in chain.broken:
        click.secho(problem, fg="red", err=True)
    if chain.broken:
        fail(f"{lines}; the chain is broken in {len(chain.broken)} places")
    if expect and not chain.found:
        fail(f"{lines}; no line has the hash {expect}", "it was all written anew, or what had it was put away")
    click.echo(f"{lines}; the chain is whole, and ends with {chain.last or 'nothing'}", err=True)


def _filter(
    texts: dict[str, str], room: str | None, sorts: tuple[str, ...], since: str | None, until: str | None
) -> Callable[[dict[str, Any]], bool]:
    """Whether a line is wanted. Raises click.BadParameter for a time that is none."""
    first = -math.inf if since is None else _time(since, "--since")
    last = math.inf if until is None else _time(until, "--until")
    prefix = room[:-1] if room is not None and room.endswith("*") else None

    def wanted(line: dict[str, Any]) -> bool:
        at = line.get("at")
        if not (isinstance(at, int | float) and first <= at <= last) and (since is not None or until is not None):
            return False
        if sorts and line.get("what") not in sorts:
            return False
        name = str(line.get("room", ""))
        if room is not None and not (name == room if prefix is None else name.startswith(prefix) and name):
            return False
        return all(str(line.get(key, "")) == value for key, value in texts.items())

    return wanted


def _time(text: str, option: str) -> float:
    """Unix seconds, of what people write; a duration is so long ago."""
    from relay.cli.signing import seconds_of

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return time.time() - seconds_of(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()  # without a zone: the time here
    except ValueError:
        what = f"{text!r} is not a time: 2h, Unix seconds, or a date such as 2026-11-24T15:04:05+01:00"
        raise click.BadParameter(what, param_hint=option) from None


def text_of(line: dict[str, Any]) -> str:
    """One line, for people."""
    at = line.get("at", 0.0)
    try:
        stamp = f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    except (TypeError, ValueError, OverflowError, OSError):
        stamp = str(at)
    who = " ".join(
        word
        for word in (
            str(line.get("subject", "")),
            f"from {line['address']}" if line.get("address") else "",
            f"session {line['session']}" if line.get("session") else "",
            f"in {line['room']}" if line.get("room") else "",
        )
        if word
    )
    more = " ".join(f"{name}={line[name]}" for name in NAMED if name in line)
    return f"{stamp}  {line.get('what', '?'):<10}  {who}" + (f"  {more}" if more else "")
