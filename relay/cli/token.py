"""`relay token`: make a token, and explain one.

Not here: signing (signing) and the rules (auth). The one rule: standard output of `new` holds the token and nothing
else, so that it can be piped; all words about it go to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.source import Source, config_options, fail, refuse_config

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.config.schema import Trusted

GRANTS = ("join", "publish", "presence", "history", "call")


@click.group()
def token() -> None:
    """Make a token, or explain why one is refused.

    \b
    Examples:
      relay token new --subject ann --join 'chat:*' --publish 'chat:*' --ttl 12h
      relay token check eyJhbGciOi...
    """


def _grant_options(function: Any) -> Any:
    what = {
        "join": "Rooms it may join",
        "publish": "Rooms it may publish in",
        "presence": "Rooms whose members it may see; default: as --join",
        "history": "Rooms whose history it may read; default: as --join",
        "call": "Rooms whose plugin it may call; default: as --publish",
    }
    for name in reversed(GRANTS):
        text = f"{what[name]}, a pattern such as 'chat:*'. May be repeated."
        function = click.option(f"--{name}", multiple=True, metavar="PATTERN", help=text)(function)
    return function


@token.command("new")
@click.option("--subject", required=True, help="Who it is for.")
@_grant_options
@click.option("--issuer", default="", metavar="NAME", help="Of which [auth.issuers.NAME] it is; default: [auth].")
@click.option("--tenant", default="", metavar="NAME", help="For which [tenants.NAME] it is; default: its issuer's.")
@click.option("--channel", "channels", multiple=True, help="A channel it may name; default: all. May be repeated.")
@click.option("--join-at-start", multiple=True, metavar="ROOM", help="A room it is put into when it connects.")
@click.option("--all", "everything", is_flag=True, help="It may join every room and do everything there.")
@click.option("--ttl", default="1h", show_default=True, help="How long it lives: 90s, 15m, 12h, 7d.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="A further claim; JSON, or else text.")
@click.option(
    "--private-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PEM",
    help="Sign with this key instead of the first HMAC key of the configuration.",
)
@click.option("--algorithm", help="With --private-key: the algorithm, where the key leaves a choice.")
@click.option("--kid", default="", help="With --private-key: the key id put into the token.")
@config_options
def token_new(
    source: Source,
    subject: str,
    issuer: str,
    tenant: str,
    channels: tuple[str, ...],
    join_at_start: tuple[str, ...],
    everything: bool,
    ttl: str,
    claims: tuple[str, ...],
    private_key: Path | None,
    algorithm: str | None,
    kid: str,
    **patterns: tuple[str, ...],
) -> None:
    """Print a new token.

    Without any grant the token gets auth.default_grants. `{sub}` in a pattern stands for the subject.

    \b
    Examples:
      relay token new --subject ann --all --ttl 7d
      relay token new --subject ann --join 'chat:*' --publish 'chat:*' --join-at-start 'user:{sub}'
      relay token new --subject svc --all --private-key issuer.pem --kid 2026-1
      relay token new --subject ann --all --tenant acme
    """
    from relay.cli import signing
    from relay.errors import ConfigError

    if private_key is None and (algorithm or kid):
        raise click.UsageError("--algorithm and --kid go with --private-key")
    grants: dict[str, list[str]] = dict(signing.EVERYTHING) if everything else {}
    lists = {**patterns, "channels": channels, "join_at_start": join_at_start}
    grants |= {name: list(values) for name, values in lists.items() if values}
    try:
        lifetime = signing.seconds_of(ttl)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ttl") from None
    loaded = source.load_or_exit()
    issuer, claimed = tenant_named(loaded, issuer, tenant)
    auth = issuer_named(loaded, issuer)
    try:
        key = signing.private_key(private_key, algorithm, kid) if private_key else signing.config_key(loaded, issuer)
    except ConfigError as error:
        refuse_config(error.problems)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint="--private-key") from None
    made = signing.make_claims(auth, subject, lifetime, grants=grants or None, more=claimed | dict(map(_claim, claims)))
    text = key.sign(made)
    click.echo(text)
    _warn(source, text)


def issuer_named(loaded: LoadedConfig, name: str) -> Trusted:
    """The issuer of that name, "" is [auth] itself. Exits for one that is not there."""
    auth = loaded.config.auth
    if not name:
        return auth
    if name not in auth.issuers:
        known = ", ".join(auth.issuers) or "none"
        raise click.BadParameter(f"no table [auth.issuers.{name}]; there are: {known}", param_hint="--issuer")
    return auth.issuers[name]


def tenant_named(loaded: LoadedConfig, issuer: str, tenant: str) -> tuple[str, dict[str, Any]]:
    """The issuer to sign as for a tenant, and the claim that names it where that is needed. Exits for a wrong name."""
    from relay.config.schema import tenants_of

    if not tenant:
        return issuer, {}
    config = loaded.config
    if tenant not in config.tenants:
        known = ", ".join(config.tenants) or "none"
        raise click.BadParameter(f"no table [tenants.{tenant}]; there are: {known}", param_hint="--tenant")
    signers = [name for name, names in tenants_of(config.auth, config.tenants).items() if tenant in names]
    if not issuer and issuer not in signers and signers:
        issuer = signers[0]
    if issuer not in signers:
        what = f"its tokens are those of {', '.join(signers) or '[auth]'}, not of {issuer or '[auth]'}"
        raise click.BadParameter(what, param_hint="--tenant")
    shared = len(tenants_of(config.auth, config.tenants)[issuer]) > 1
    return issuer, {issuer_named(loaded, issuer).claims.tenant: tenant} if shared else {}


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _warn(source: Source, text: str) -> None:
    """Says at once what would be found out at the first connection."""
    from relay.cli.inspect_token import explain
    from relay.errors import ConfigError

    try:
        found = explain(source.load(), text)
    except ConfigError as error:
        click.secho(f"warning: not checked, because the configuration is wrong: {error}", fg="yellow", err=True)
        return
    if found.refused is not None:
        click.secho(f"warning: the relay would refuse it: {found.refused}", fg="yellow", err=True)
    elif found.grants is not None and not found.grants.get("join") and not found.grants.get("join_at_start"):
        click.secho("warning: it may join no room: give --join PATTERN, or --all", fg="yellow", err=True)


@token.command("check")
@click.argument("text", metavar="[TOKEN|-]", required=False, envvar="RELAY_TOKEN")
@click.option("--room", "rooms", multiple=True, help="Also say what it may do in this room. May be repeated.")
@config_options
def token_check(source: Source, text: str | None, rooms: tuple[str, ...]) -> None:
    """Explain a token: its claims, the key that verifies it, what it may do, or exactly why it is refused.

    `-` reads it from standard input; without it, RELAY_TOKEN is taken. Exit status 1 when it is refused.

    \b
    Examples:
      relay token check eyJhbGciOi... --room chat:42
      relay token new --subject ann --all | relay token check -
    """
    from relay.cli.inspect_token import explain
    from relay.errors import ConfigError

    if text == "-" or text is None:
        if text is None and sys.stdin.isatty():
            raise click.UsageError("which token? Give one, or - and pipe it in")
        text = sys.stdin.read()
    loaded = source.load_or_exit()
    try:
        found = explain(loaded, text.strip(), rooms)
    except ConfigError as error:
        refuse_config(error.problems)
    for line in found.lines:
        click.echo(line)
    if found.refused is not None:
        fail(f"refused: {found.refused}")
    click.secho("accepted", fg="green")
