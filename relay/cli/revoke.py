"""`relay revoke`: take tokens back, from a running relay.

Not here: what that does (auth/revocation, front/revoking), how the API is found (api). The one rule: what is said is
what the relay answered, and a revocation that a restart would forget is said to be one.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode

import click

from relay.cli.api import ApiClient, ApiError, api_options
from relay.cli.source import Source, config_options, fail

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@click.option("--jti", help="The token of that name.")
@click.option("--subject", help="The tokens of that subject, those that are yet to be issued too.")
@click.option("--issuer", help="Only tokens of that issuer (iss).")
@click.option("--tenant", help="Only tokens of that tenant; '' is the one without a name.")
@click.option(
    "--issued-before",
    metavar="TIME",
    help="Only tokens issued before: now, Unix seconds, or a date such as 2026-11-24 or 2026-11-24T15:04:05+01:00.",
)
@click.option(
    "--for", "lasting", metavar="DURATION",
    help="Forget it after: 90s, 15m, 12h, 7d.  [default: when none of the tokens can be alive: auth.max_lifetime]",
)  # fmt: skip
@click.option("--undo", is_flag=True, help="Take back the revocation with exactly these conditions.")
@click.option("--list", "listed", is_flag=True, help="Show the revocations in force; conditions narrow it.")
@click.option("--json", "as_json", is_flag=True, help="Print the relay's answer as it is.")
@config_options
@api_options
def revoke(
    source: Source,
    api: ApiClient,
    jti: str | None,
    subject: str | None,
    issuer: str | None,
    tenant: str | None,
    issued_before: str | None,
    lasting: str | None,
    undo: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Revoke tokens of a running relay.

    Live sessions end at once (4401), and no such token is accepted any more. A token has to meet all conditions given.
    Without auth.revocation_file a restart of the relay forgets it. --subject alone means everybody of that name, in
    every tenant and from every issuer: add --tenant or --issuer to mean one.

    \b
    Examples:
      relay revoke --jti 5f0c9a12                      one token
      relay revoke --subject ann --issued-before now   log Ann out everywhere; newer tokens are good
      relay revoke --subject mallory --for 7d          nothing of Mallory's for a week
      relay revoke --subject ann --tenant acme         acme's Ann, and nobody else's
      relay revoke --issued-before 2026-11-24          every token from before that day
      relay revoke --list
      relay revoke --undo --jti 5f0c9a12
    """
    texts = {"jti": jti, "subject": subject, "issuer": issuer, "tenant": tenant}
    asked: dict[str, Any] = {name: value for name, value in texts.items() if value is not None}
    if listed:
        if undo or lasting or issued_before:
            raise click.UsageError("--list goes with --jti, --subject, --issuer and --tenant only")
        _show(_ask(lambda: api.get("/revocations", limit=1000, **asked)), as_json, _print_list)
        return
    if issued_before is not None:
        asked["issued_before"] = _time(issued_before)
    if not asked:
        raise click.UsageError("which tokens? Give --jti, --subject, --issuer, --tenant or --issued-before; or --list")
    if undo:
        if lasting:
            raise click.UsageError("--for does not go with --undo")
        _show(_ask(lambda: api.ask("DELETE", f"/revocations?{urlencode(asked)}")), as_json, _print_undone)
        return
    if lasting is not None:
        from relay.cli.signing import seconds_of

        try:
            asked["for"] = seconds_of(lasting)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--for") from None
    _show(_ask(lambda: api.ask("POST", "/revocations", asked)), as_json, _print_revoked)


def _time(text: str) -> float:
    """Unix seconds, of what people write. Now is the next whole one: the iat of most tokens has no fraction, and a
    whole second can be written again, to take the revocation back.
    """
    if text == "now":
        return float(math.ceil(time.time()))
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        what = f"{text!r} is not a time: now, Unix seconds, or a date such as 2026-11-24T15:04:05+01:00"
        raise click.BadParameter(what, param_hint="--issued-before") from None
    return moment.timestamp()  # without a zone: the time here


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except ApiError as error:
        _refused(error)


def _refused(error: ApiError) -> NoReturn:
    fail(str(error))


def _show(answer: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        show(answer)


def _print_revoked(answer: Any) -> None:
    closed = answer["closed"]
    sessions = "1 session" if closed == 1 else f"{closed} sessions"
    click.echo(f"revoked: {_entry(answer['revoked'])}; {sessions} closed")
    _warn(answer, "a restart of the relay will forget it")


def _print_undone(answer: Any) -> None:
    click.echo(f"taken back: {_entry(answer['undone'])}")
    _warn(answer, "it may come back with a restart")


def _warn(answer: Any, what: str) -> None:
    if not answer["kept"]:
        click.secho(f"warning: {what}: {answer['problem']}", fg="yellow", err=True)


def _print_list(answer: Any) -> None:
    for entry in answer["revocations"]:
        click.echo(_entry(entry))
    shown, count = len(answer["revocations"]), answer["count"]
    click.echo(
        f"{shown} of {count} revocations" if shown < count else f"{count} of at most {answer['most']} revocations"
    )


def _entry(entry: dict[str, Any]) -> str:
    from relay.ops.logs import visible

    words = [f"{name} {visible(entry[name])!s}" for name in ("jti", "subject", "issuer") if name in entry]
    if "tenant" in entry:
        words.append(f"tenant {visible(entry['tenant']) or 'without a name'}")
    if "issued_before" in entry:
        words.append(f"issued before {_exact(entry['issued_before'])}")
    until = entry.get("until")
    return f"{', '.join(words)}, {'for good' if until is None else f'until {_moment(until)}'}"


def _exact(seconds: float) -> str:
    """As --issued-before understands it again."""
    return _moment(seconds) if seconds == int(seconds) else repr(seconds)


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
