"""The pages in docs/codes, made from the entries: one for each code, and their index.

Not here: any fact about a code. The one rule: what is committed is what this makes; a test compares them.

    python -m relay.explain.pages docs/codes        writes them
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from relay.explain.codes import ALL
from relay.explain.entry import WHERE, Explanation

INTRO: Final = """\
# Codes

*Made from `relay/explain/` by `relay.explain.pages`; a test compares them.*

Every refusal, throttle, drop and close has a code that stays the same over versions. `relay explain code CODE` shows
the same text; `relay explain conn|subject|room|address` shows which of them met somebody lately, with the setting
behind it.
"""
TABLES: Final = {"channels": "channelsname", "auth.issuers": "authissuersname"}
"""Keys that are tables of their own: the anchors of their headings."""
TITLES: Final = {
    "close": "Close codes",
    "request": "Refused requests",
    "handshake": "Refused handshakes",
    "tls": "TLS failures",
    "throttled": "Reading put off",
    "dropped": "Messages not delivered",
    "api": "The API",
}


def pages() -> dict[str, str]:
    """Name of each file, and its text."""
    return {"README.md": _index(), **{f"{code}.md": page(one) for code, one in ALL.items()}}


def page(one: Explanation) -> str:
    appears = "; ".join(WHERE[where] for where in one.where)
    status = f", HTTP status {one.status}" if one.status is not None else ""
    lines = [
        f"# `{one.code}`",
        f"*Where: {appears}{status}.*",
        one.meaning,
        f"**Usual cause.** {one.cause}",
        f"**What the client does.** {one.client}",
        f"**What the operator does.** {one.operator}",
    ]
    if one.settings:
        lines.append("**Settings.** " + ", ".join(map(_setting, one.settings)))
    return "\n\n".join(lines) + "\n"


def _setting(key: str) -> str:
    return f"[`{key}`](../configuration.md#{TABLES.get(key, key)})"


def _index() -> str:
    lines = [INTRO]
    for where, title in TITLES.items():
        lines += [f"## {title}\n", "| code | meaning |", "|---|---|"]
        lines += [f"| [`{one.code}`]({one.code}.md) | {one.meaning} |" for one in ALL.values() if where in one.where]
        lines.append("")
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Writes all pages, and removes those of codes that are gone."""
    wanted = pages()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
