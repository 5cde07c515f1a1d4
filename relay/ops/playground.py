"""The playground: one page to try the relay in a browser, without a build step and without anything from elsewhere.

Not here: when it is served (front/endpoints, `server.playground`). The one rule: the page may run its own script and
talk to its own origin, nothing else; a strict Content-Security-Policy says so to the browser.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

FILES: Final = {
    "/": ("playground.html", "text/html; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
}

HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), microphone=(), geolocation=()"),
    ("Cache-Control", "no-cache"),
)


def playground_pages() -> dict[str, tuple[bytes, str, list[tuple[str, str]]]]:
    """What to serve: path to (content, content type, headers). Reads the files, so call it once."""
    folder = files("relay.ops") / "static"
    return {path: ((folder / name).read_bytes(), kind, list(HEADERS)) for path, (name, kind) in FILES.items()}
