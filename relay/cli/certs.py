"""`relay certs`: certificates for development, and how to have them trusted.

Not here: making them (devcerts). The one rule: nothing of the machine's trust is changed; the commands that would are
printed.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from relay.devcerts import DevCertificates


@click.group(invoke_without_command=True)
@click.pass_context
def certs(context: click.Context) -> None:
    """Make certificates for development.

    \b
    Example:
      relay certs dev --host relay.test --host 192.168.1.20
    """
    if context.invoked_subcommand is None:
        context.invoke(certs_dev, folder=Path("certs"), host=(), client=())


@certs.command("dev")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("certs"),
    show_default=True,
    help="Where to put them.",
)
@click.option(
    "--host",
    multiple=True,
    help="A further name or address the certificate is for, beside localhost and this machine's name. May be repeated.",
)
@click.option(
    "--client",
    multiple=True,
    metavar="NAME",
    help="Also make a client certificate (mTLS) for this host name, URI or e-mail address. May be repeated.",
)
def certs_dev(folder: Path, host: tuple[str, ...], client: tuple[str, ...]) -> None:
    """Make an authority, a server certificate, a token secret and a key for the API, where they are missing or about
    to expire.

    The authority may sign for this machine's names only, and its private key is thrown away at once. Clients get
    authorities of their own, in client-ca.pem.
    """
    made = make(folder, host)
    about = {
        made.authority: "the authority to trust",
        made.certificate: f"for {', '.join(made.hosts)}; until {made.expires:%Y-%m-%d}",
        made.key: "its private key",
        made.token_secret: "the secret that signs development tokens",
        made.api_key: "a key of the API (internal.api_keys_file)",
    }
    width = max(len(str(path)) for path in about)
    for path, text in about.items():
        click.echo(f"{path!s:<{width}}  {text}")
    click.echo("new certificates: trust the authority anew" if made.renewed else "nothing had to be made anew")
    click.echo()
    for line in how_to_trust(made.authority):
        click.echo(line)
    for name in client:
        click.echo()
        for line in make_for_client(folder, name):
            click.echo(line)


def make_for_client(folder: Path, name: str) -> list[str]:
    """Makes a client certificate; lines that say how to use it. Exits with 1 or 2 where that cannot be done."""
    from relay.cli.source import fail
    from relay.devclients import make_client

    try:
        made = make_client(folder, name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--client") from None
    except OSError as error:
        fail(f"cannot write to {folder}: {error.strerror or error}")
    return [
        f"{made.certificate}  the client certificate of {name}; until {made.expires:%Y-%m-%d}",
        f"{made.key}  its private key",
        f"{made.authorities}  the authorities of all clients; in the configuration:",
        "  [tls]",
        '  client_certificates = "optional"',
        f'  client_ca = ["{made.authorities}"]',
    ]


def make(folder: Path, hosts: tuple[str, ...]) -> DevCertificates:
    """Makes what is missing; exits with 1 or 2 where that cannot be done."""
    from relay.cli.source import fail
    from relay.devcerts import make_dev_certificates

    try:
        return make_dev_certificates(folder, hosts or None)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--host") from None
    except OSError as error:
        fail(f"cannot write to {folder}: {error.strerror or error}")


def how_to_trust(authority: Path) -> list[str]:
    """Lines that say how to have browsers and the system trust the authority, for this kind of system."""
    file = shlex.quote(str(authority))
    if sys.platform == "darwin":
        keychain = "~/Library/Keychains/login.keychain-db"
        return [
            "To trust it, for Safari, Chrome and curl:",
            f"  security add-trusted-cert -r trustRoot -k {keychain} {file}",
            "Firefox: Settings > Certificates > View Certificates > Authorities > Import.",
        ]
    return [
        "To trust it in Chromium and Chrome (package libnss3-tools), in this order:",
        "  mkdir -p ~/.pki/nssdb",
        f"  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n relay-dev -i {file}",
        f"Or in the whole system: sudo cp {file} /usr/local/share/ca-certificates/relay-dev.crt",
        "  && sudo update-ca-certificates",
        "Firefox: Settings > Certificates > View Certificates > Authorities > Import.",
    ]
