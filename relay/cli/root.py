"""All commands, and what `relay --help` says.

Not here: what a command does. The one rule: nothing heavy is imported here, nor by what is imported here.
"""

from __future__ import annotations

import click

from relay.cli.audit import audit
from relay.cli.certs import certs
from relay.cli.check import check, config
from relay.cli.dev import dev
from relay.cli.explain import explain
from relay.cli.health import health, version
from relay.cli.plugins import plugins
from relay.cli.revoke import revoke
from relay.cli.rooms import rooms
from relay.cli.serve import serve
from relay.cli.talk import pub, sub
from relay.cli.token import token

EPILOG = """\b
Examples:
  relay dev                                try it: certificates, a token and a page to play with
  relay check -c config.toml               all that is wrong with a configuration
  relay serve -c config.toml               serve until SIGTERM
  relay token new --subject ann --all      a token that may do everything
  relay explain subject ann                why ann was refused, throttled or closed, and which setting did it
  relay audit audit.jsonl --subject ann    what ann did and what was refused, as the plugin audit wrote it
  relay revoke --subject ann --issued-before now    log ann out everywhere
  relay sub lobby                          listen to a room, in one terminal ...
  relay pub lobby hello                    ... and talk to it, from another

\b
Environment: RELAY_CONFIG (configuration file), RELAY_TOKEN (token of pub, sub and token check),
RELAY_API_KEY_FILE (file with a key of the API, for explain, revoke and rooms),
RELAY__SECTION__KEY (any setting, as in RELAY__LIMITS__MESSAGE_BYTES=1000000).

`relay COMMAND --help` says more; docs/cli.md says all of it.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """A secure WebSocket relay: rooms, tokens, plugins; urgent messages arrive in bounded time."""


for command in (
    serve,
    dev,
    check,
    config,
    certs,
    token,
    pub,
    sub,
    plugins,
    explain,
    audit,
    revoke,
    rooms,
    health,
    version,
):
    cli.add_command(command)
