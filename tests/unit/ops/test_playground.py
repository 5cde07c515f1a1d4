"""The playground: what is served is complete, and may load and run nothing but itself."""

from __future__ import annotations

import re

from relay.net.http import Response
from relay.ops.playground import FILES, playground_pages

PAGES = playground_pages()
HTML = PAGES["/"][0].decode()
SCRIPT = PAGES["/playground.js"][0].decode()


def test_every_file_the_page_asks_for_is_served():
    wanted = set(re.findall(r'(?:src|href)="(?!data:)([^"]+)"', HTML))
    assert wanted == set(FILES) - {"/"}


def test_the_policy_allows_the_page_itself_and_nothing_else():
    for _, kind, headers in PAGES.values():
        policy = dict(headers)["Content-Security-Policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert {name for name, value in rules.items() if value == "'self'"} == {
            "script-src",
            "style-src",
            "connect-src",
        }
        assert "unsafe" not in policy
        assert kind.endswith("charset=utf-8")


def test_the_page_keeps_to_its_policy():
    assert not re.search(r"\son\w+=", HTML)
    assert not re.search(r"\sstyle=", HTML)
    assert "<style" not in HTML
    assert re.findall(r"<script[^>]*>", HTML) == ['<script src="/playground.js" defer>']
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", ".style."):
        assert way not in SCRIPT, way


def test_nothing_comes_from_elsewhere():
    for content, _, _ in PAGES.values():
        addresses = set(re.findall(r"https?://[^\s'\"`)]+", content.decode()))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def test_every_element_the_script_uses_is_on_the_page():
    ids = set(re.findall(r'\bid="(\w+)"', HTML))
    (named,) = re.findall(r"fromEntries\(\s*\[(.*?)\]\.map", SCRIPT, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', named)) <= ids
    used = set(re.findall(r"\bui\.(\w+)", SCRIPT))
    assert used <= set(re.findall(r'"(\w+)"', named))


def test_every_field_has_a_label():
    fields = re.findall(r'<(?:input|select) id="(\w+)"', HTML)
    assert fields
    for field in fields:
        assert f'<label for="{field}"' in HTML


def test_its_close_codes_are_the_relay_s():
    from relay.errors import CloseCode

    (table,) = re.findall(r"const CODES = \{(.*?)\};", SCRIPT, re.DOTALL)
    codes = {int(code) for code in re.findall(r"(\d{4}):", table)}
    assert codes <= {int(code) for code in CloseCode} | {1006}
    assert {int(code) for code in CloseCode if code > 4000} <= codes


def test_the_headers_can_be_sent():
    for content, kind, headers in PAGES.values():
        assert Response(200, content, kind, headers).status == 200
