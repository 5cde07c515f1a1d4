"""`relay health`, for the health checks of containers, and `relay version`.

Not here: what is healthy (front/endpoints). The one rule: an answer in time, or exit status 1.
"""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.source import Source, config_options, fail


@click.command()
@click.argument("url", required=False)
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds to wait.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of the authority, for https.",
)
@config_options
def health(source: Source, url: str | None, timeout: float, ca_file: Path | None) -> None:
    """Ask a relay whether it is ready.

    Exit status 0 if it is, 1 if not. Without a URL it asks /readyz at the first address of internal.listen.

    \b
    Examples:
      relay health
      relay health https://localhost:8443/healthz --ca-file certs/ca.pem
    """
    import http.client
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlsplit
    from urllib.request import HTTPSHandler

    from relay.cli.unixhttp import internal_address, opener_to

    by_socket = None
    if url is None:
        found = internal_address(source.load_or_exit())
        if found is None:
            raise click.UsageError("internal.listen is [], so give a URL, as in https://localhost:8443/readyz")
        url, by_socket = found
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{url!r} is not an http:// or https:// URL", param_hint="URL")
    if parts.path in ("", "/"):
        url = f"{parts.scheme}://{parts.netloc}/readyz"
    context = ssl.create_default_context(cafile=ca_file)
    opener = opener_to(by_socket, HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=timeout) as answer:
            click.echo(f"{url}: {answer.status} {answer.read(200).decode(errors='replace').strip()}")
    except HTTPError as error:
        with error:
            fail(f"{url}: {error.code} {error.read(200).decode(errors='replace').strip()}")
    except (URLError, OSError, http.client.HTTPException) as error:
        fail(f"{url}: {getattr(error, 'reason', None) or error}")


@click.command()
def version() -> None:
    """Print the relay's version, and what it stands on."""
    import platform
    import ssl
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from relay import __version__

    click.echo(f"relay {__version__}")
    click.echo(f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {platform.system()} {platform.machine()}")
    found = []
    for name in ("trio", "wsproto", "h11", "trio-websocket", "websockets", "pyjwt", "cryptography", "msgspec"):
        try:
            found.append(f"{name} {installed(name)}")
        except PackageNotFoundError:  # a frozen or vendored copy
            found.append(f"{name} ?")
    click.echo(", ".join(found))
