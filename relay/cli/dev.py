"""`relay dev`: a relay to try things with, on this machine, with all that is needed made on the way.

Not here: serving (serve, server) and certificates (devcerts). The one rule: what it prints can be pasted as it is, and
works; tests do so.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from relay.cli.certs import how_to_trust, make
from relay.cli.serve import run_server
from relay.cli.source import Source, config_options

if TYPE_CHECKING:
    from relay.config import LoadedConfig
    from relay.devcerts import DevCertificates
    from relay.server import Running

SUBJECT: Final = "dev"
LIFETIME: Final = 12 * 3600.0
EVERY: Final = [":8443"]
FOLDER: Final = "certs"


@dataclass(slots=True, frozen=True)
class Wishes:
    """What the command line asks for."""

    port: int | None
    hosts: tuple[str, ...]
    subject: str


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 lets the system choose.  [default: 8443]")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address under which other devices reach this machine: the certificate gets it, and the relay "
    "listens on all addresses. May be repeated.  [default: this machine only]",
)
@click.option("--subject", default=SUBJECT, show_default=True, help="Who the printed token is for.")
@config_options
def dev(source: Source, port: int | None, hosts: tuple[str, ...], subject: str) -> None:
    """Try the relay, with everything made for you.

    Makes certificates in certs/, where there are none, and a token; serves a page to play with; prints what to paste.
    Not for production: the token may do everything.

    \b
    Examples:
      relay dev
      relay dev --port 9443 --host 192.168.1.20
    """
    wishes = Wishes(port, hosts, subject)
    folder = source.load_or_exit().resolve(FOLDER)
    made = make(folder, hosts)

    def load() -> LoadedConfig:
        return adjusted(source.load(), made, wishes)

    def survey() -> LoadedConfig:
        return adjusted(source.survey_or_exit(), made, wishes)

    run_server(load, survey, lambda running: announce(running, load(), made, wishes))


def adjusted(loaded: LoadedConfig, made: DevCertificates, wishes: Wishes) -> LoadedConfig:
    """The configuration with the playground on, and development certificates and keys where it has none of its own."""
    from msgspec.structs import replace as changed

    from relay.config.schema import Key

    config = loaded.config
    server = changed(config.server, playground=True, listen=_listen(config.server.listen, wishes))
    internal = config.internal
    if not (internal.api_keys or internal.api_keys_file):
        internal = changed(internal, api_keys_file=str(made.api_key.absolute()))
    if wishes.port is not None and internal.listen:  # a second relay on this machine: 9090 is taken
        internal = changed(internal, listen=["127.0.0.1:0"])
    tls, auth = config.tls, config.auth
    if not (loaded.resolve(tls.certificate).is_file() and loaded.resolve(tls.key).is_file()):
        tls = changed(tls, certificate=str(made.certificate.absolute()), key=str(made.key.absolute()))
    if not any(key.algorithm.startswith("HS") for key in auth.keys):
        own = Key(algorithm="HS256", kid="dev", secret_file=str(made.token_secret.absolute()))
        auth = changed(auth, keys=[*auth.keys, own])
    if not {"self", "*"} & set(auth.allowed_origins):
        auth = changed(auth, allowed_origins=[*auth.allowed_origins, "self"])
    return replace(loaded, config=changed(config, server=server, internal=internal, tls=tls, auth=auth))


def _listen(listen: list[str], wishes: Wishes) -> list[str]:
    if wishes.port is None and not wishes.hosts and listen != EVERY:
        return listen
    port = 8443 if wishes.port is None else wishes.port
    return [f":{port}"] if wishes.hosts else [f"127.0.0.1:{port}"]


def announce(running: Running, loaded: LoadedConfig, made: DevCertificates, wishes: Wishes) -> None:
    """Prints where the relay is and what to paste. The ports are bound by now."""
    from relay.cli import signing

    config = loaded.config
    host = wishes.hosts[0] if wishes.hosts else "localhost"
    claims = signing.make_claims(config.auth, wishes.subject, LIFETIME, grants=signing.EVERYTHING)
    place = Place(
        secure=not config.server.insecure_plaintext,
        authority=f"{_bracketed(host)}:{next((port for _, port in running.addresses if port), 0)}",
        token=signing.config_key(loaded).sign(claims),
        ca_file=_near(made.authority),
        new=made.renewed,
        internal=[f"http://{_bracketed(name)}:{port}" for name, port in running.internal_addresses[:1] if port],
        api_key=_near(loaded.resolve(config.internal.api_keys_file)) if config.internal.api_keys_file else "",
    )
    for line in introduction(place):
        click.echo(line)


@dataclass(slots=True, frozen=True)
class Place:
    """Where a relay is, and what one needs to get in. `new`: nobody can have trusted `ca_file` before."""

    secure: bool
    authority: str
    token: str
    ca_file: str
    new: bool
    internal: list[str]
    api_key: str = ""

    @property
    def https(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}"

    @property
    def wss(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}"


def introduction(place: Place) -> list[str]:
    """What `relay dev` prints. Commands stand alone on their lines: not every shell takes a comment behind one."""
    python, relay = _commands()
    ca = shlex.quote(place.ca_file)
    curl = f"curl --cacert {ca}" if place.secure else "curl"
    key = shlex.quote(place.api_key)
    internal = place.internal if place.api_key else []
    client = "" if place.authority == "localhost:8443" else f" --url {place.wss}/ws"
    if place.secure and place.ca_file != str(Path(FOLDER, "ca.pem")):
        client += f" --ca-file {ca}"
    trust = [
        _title("Trust its certificate" + (": it is new" if place.new else "")),
        *how_to_trust(Path(place.ca_file)),
        "",
    ]
    return [
        _title(f"The relay is at {place.https}"),
        *(f"metrics and health: {address}/metrics" for address in place.internal),
        *(
            f"API, with the key in {place.api_key}: {address}/api/v1/info"
            for address in place.internal
            if place.api_key
        ),
        "",
        _title("Playground: open it in two tabs"),
        f"{place.https}/#token={place.token}",
        "",
        *(trust if place.secure else []),
        _title("A token that may do everything, for 12 hours; curl and Python below take it from there"),
        f"export RELAY_TOKEN={place.token}",
        "",
        _title("curl"),
        f'{curl} -H "Authorization: Bearer $RELAY_TOKEN" {place.https}/auth/check',
        f"{curl} {place.https}/",
        *(f'curl -H "Authorization: Bearer $(cat {key})" {address}/api/v1/connections' for address in internal),
        "",
        _title("JavaScript, in the console of the playground page"),
        'token = new URLSearchParams(location.hash.slice(1)).get("token")',
        f'socket = new WebSocket("{place.wss}/rooms/lobby", ["bearer." + token])',
        "socket.onmessage = (event) => console.log(event.data)",
        'socket.onopen = () => socket.send("hello from JavaScript")',
        "",
        _title("Python"),
        f"{python} - <<'END'",
        *program(place).splitlines(),
        "END",
        "",
        _title("What next: listen in another terminal, talk, write a plugin, see every setting"),
        f"{relay} sub lobby{client}",
        f"{relay} pub lobby hello{client}",
        f"{relay} plugins new hello",
        f"{relay} config default",
        "",
        _title("Ctrl-C stops the relay"),
    ]


def program(place: Place) -> str:
    """A whole Python program; the token comes from RELAY_TOKEN."""
    ca = f", ca_file={place.ca_file!r}" if place.secure else ""
    return f"""\
import os, trio
from relay.client import connect

async def main():
    async with connect("{place.wss}/ws", token=os.environ["RELAY_TOKEN"]{ca}) as relay:
        await relay.join("lobby")
        await relay.publish("lobby", "hello from Python", echo=True)
        print(await relay.receive())

trio.run(main)
"""


def _commands() -> tuple[str, str]:
    """How to call Python and the relay from here: by name where that finds them, else by path."""
    python = shlex.quote(_near(Path(sys.executable)))
    return python, "relay" if shutil.which("relay") else f"{python} -m relay"


def _near(path: Path) -> str:
    """A path as seen from the working directory, where it is below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _title(text: str) -> str:
    return click.style(f"# {text}", bold=True)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
