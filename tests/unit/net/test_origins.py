"""Which pages may connect. Every row is a trick or a spelling that was once somebody's vulnerability."""

from __future__ import annotations

import pytest

from relay.errors import ConfigError
from relay.net.origins import OriginPolicy

LISTED = [
    "https://app.example",
    "https://dev.example:8443",
    "http://plain.example",
    "https://*.wild.example",
    "https://*.port.example:444",
    "bare.example",
    "*.barewild.example",
    "https://xn--bcher-kva.example",
    "https://[2001:DB8::0:1]",
    "chrome-extension://abcdefghijklmnop",
    "capacitor://localhost",
]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        # as listed, in other spellings
        ("https://app.example", True),
        ("https://APP.Example", True),
        ("HTTPS://app.example", True),
        ("https://app.example:443", True),
        ("https://dev.example:8443", True),
        ("http://plain.example", True),
        ("http://plain.example:80", True),
        ("https://bare.example", True),
        ("https://xn--bcher-kva.example", True),
        ("https://[2001:db8::1]", True),
        ("https://[2001:db8:0:0:0:0:0:1]:443", True),
        ("chrome-extension://abcdefghijklmnop", True),
        ("capacitor://localhost", True),
        # another scheme or port is another origin
        ("http://app.example", False),
        ("wss://app.example", False),
        ("https://app.example:8443", False),
        ("https://app.example:80", False),
        ("https://dev.example", False),
        ("https://plain.example", False),
        ("http://bare.example", False),
        ("http://plain.example:443", False),
        ("capacitor://localhost:443", False),
        # prefix, suffix, and what else a comparison of text would take
        ("https://app.example.evil.test", False),
        ("https://evil-app.example", False),
        ("https://evilapp.example", False),
        ("https://app.exampl", False),
        ("https://app.example.", False),
        ("https://app-example", False),
        ("https://appXexample", False),
        ("https://app.example@evil.test", False),
        ("https://evil.test@app.example", False),
        ("https://evil.test/https://app.example", False),
        ("https://evil.test#app.example", False),
        ("https://evil.test?https://app.example", False),
        ("https://app.example:443@evil.test", False),
        ("https://app.example:", False),
        ("https://app.example:0443", False),
        ("https://app.example:99999", False),
        ("https://app.example/", False),
        ("https://app.example ", False),
        (" https://app.example", False),
        ("https://app.example\n", False),
        ("https://app.example, https://evil.test", False),
        ("https://app.example\\.evil.test", False),
        ("https://b\xfccher.example", False),
        ("https://app.examp\u0142e", False),
        ("https://[2001:db8::1", False),
        ("https://[::ffff:1.2.3.4.5]", False),
        # subdomains, and only those
        ("https://a.wild.example", True),
        ("https://a.b.WILD.example", True),
        ("https://wild.example", False),
        ("https://.wild.example", False),
        ("https://a..wild.example", False),
        ("https://evilwild.example", False),
        ("https://a.wild.example.evil.test", False),
        ("https://a.wild.example:444", False),
        ("http://a.wild.example", False),
        ("https://a.port.example:444", True),
        ("https://a.port.example", False),
        ("http://a.port.example:444", False),
        ("https://a.barewild.example", True),
        ("http://a.barewild.example", False),
        ("https://*.wild.example", False),
        # nobody
        ("null", False),
        ("NULL", False),
        ("", False),
        ("self", False),
        ("*", False),
        ("app.example", False),
        ("file://", False),
        ("data:", False),
    ],
)
def test_only_listed_origins_are_allowed(origin: str, allowed: bool) -> None:
    assert OriginPolicy(LISTED).allows(origin, "relay.example", True) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "tls", "allowed"),
    [
        ("https://relay.example", "relay.example", True, True),
        ("https://relay.example", "RELAY.example:443", True, True),
        ("https://relay.example:8443", "relay.example:8443", True, True),
        ("https://localhost:8443", "localhost:8443", True, True),
        ("https://[::1]:8443", "[0:0:0:0:0:0:0:1]:8443", True, True),
        ("https://127.0.0.1", "127.0.0.1", True, True),
        ("http://relay.example", "relay.example", True, False),
        ("http://relay.example:443", "relay.example:443", True, False),
        ("https://relay.example", "relay.example:8443", True, False),
        ("https://relay.example:8443", "relay.example", True, False),
        ("https://evil.test", "relay.example", True, False),
        ("https://relay.example.evil.test", "relay.example", True, False),
        ("https://relay.example", None, True, False),
        ("https://relay.example", "", True, False),
        ("https://relay.example", "relay.example, relay.example", True, False),
        ("chrome-extension://relay.example", "relay.example", True, False),
        ("null", "null", True, False),
        # without TLS here: plain, or a proxy in front that speaks it
        ("http://relay.example", "relay.example", False, True),
        ("http://localhost:8080", "localhost:8080", False, True),
        ("https://relay.example", "relay.example", False, True),
        ("https://evil.test", "relay.example", False, False),
        ("http://localhost:8080", "localhost:8081", False, False),
        ("http://relay.example", "relay.example:443", False, False),
    ],
)
def test_self_is_the_address_the_client_asked_for(origin: str, host: str | None, tls: bool, allowed: bool) -> None:
    assert OriginPolicy(["self"]).allows(origin, host, tls) is allowed


@pytest.mark.parametrize("allowed", [[], ["self"], ["https://app.example"], ["*"]])
def test_a_client_without_an_origin_is_no_browser(allowed: list[str]) -> None:
    assert OriginPolicy(allowed).allows(None, "relay.example", True)


def test_an_empty_list_allows_no_page() -> None:
    assert not OriginPolicy([]).allows("https://relay.example", "relay.example", True)


@pytest.mark.parametrize("origin", ["https://any.test", "null", "", "garbage"])
def test_a_star_allows_any_page(origin: str) -> None:
    assert OriginPolicy(["*"]).allows(origin, "relay.example", True)


@pytest.mark.parametrize("origin", ["https://\xe4", "https://a\r\nX: y", "https://a\x00", "https://a\tb"])
def test_even_a_star_does_not_allow_what_no_browser_sends(origin: str) -> None:
    assert not OriginPolicy(["*"]).allows(origin, "relay.example", True)


def test_null_is_allowed_only_by_name() -> None:
    assert OriginPolicy(["null"]).allows("null", "relay.example", True)
    assert not OriginPolicy(["null"]).allows("https://a.test", "relay.example", True)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "https://",
        "https://a/",
        "https://b\xfccher.example",
        "https://*",
        "*.",
        "https://a.*.b",
        "https://*.[::1]",
        "a b",
        "https://a:x",
    ],
)
def test_an_entry_that_could_never_match_is_an_error_with_its_place(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OriginPolicy(["self", entry])
    assert [problem.key for problem in caught.value.problems] == ["auth.allowed_origins[1]"]


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "nonsense", ""])
def test_a_star_names_nobody(origin: str | None) -> None:
    policy = OriginPolicy(["*", "null", "https://app.example"])
    assert not policy.names(origin, "relay.example", True)
    assert policy.names("https://app.example", "relay.example", True)


def test_the_relays_own_pages_are_named_by_self() -> None:
    assert OriginPolicy(["self"]).names("https://relay.example", "relay.example", True)
    assert not OriginPolicy(["*"]).names("https://relay.example", "relay.example", True)


@pytest.mark.parametrize("tls", [True, False])
def test_a_scheme_without_a_port_of_its_own_is_never_ones_own_origin(tls: bool) -> None:
    policy = OriginPolicy(["self"])
    assert not policy.allows("chrome-extension://abcdef", "abcdef", tls)
    assert not policy.allows("ftp://relay.example", "relay.example", tls)
