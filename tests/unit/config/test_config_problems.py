"""Everything that is wrong with a file is reported, in plain words and in the right line."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import load
from relay.errors import ConfigError
from tests.unit.config.conftest import Fails


def test_all_problems_are_reported_at_once_in_the_order_of_their_lines(fails: Fails) -> None:
    assert fails("""
        [server]
        listn = [":1"]
        backlog = "many"
        [limits]
        fragments = 0
        colour = 1
        [logging]
        level = "warn"
        [outbox]
        urgent_share = 1
        [channels.control]
        priority = "fair"
        [auth]
        leeway = 301
        allowed_origins = ["self", 5]
        [[auth.keys]]
        algorithm = "HS256"
        secret_file = "a"
        public_key_file = "b"
        [[auth.keys]]
        algorithm = "RS256"
        secret_file = "a"
        [[auth.keys]]
        kid = "x"
        [auth.jwks]
        url = "http://id.example/keys"
        [plugins.chat]
        channel = "urgnt"
    """) == [
        "config.toml:2: server.listn: no such setting (did you mean `listen`?)",
        "config.toml:3: server.backlog: expected an integer, got a string",
        "config.toml:5: limits.fragments: must be at least 1, is 0",
        "config.toml:6: limits.colour: no such setting",
        "config.toml:8: logging.level: expected one of debug, error, info, warning (did you mean `warning`?)",
        "config.toml:10: outbox.urgent_share: must be less than 1, is 1",
        "config.toml:12: channels.control.priority: must be strict: answers, pings and `bye` travel in it",
        "config.toml:14: auth.leeway: must be at most 300, is 301",
        "config.toml:15: auth.allowed_origins[1]: expected a string, got an integer",
        "config.toml:16: auth.keys[0]: has secret_file and public_key_file (exactly one of secret and secret_file)",
        "config.toml:22: auth.keys[1].secret_file: RS256 is a public-key algorithm and cannot go with secret_file "
        "(set public_key or public_key_file)",
        "config.toml:23: auth.keys[2].algorithm: is missing",
        "config.toml:26: auth.jwks.url: must be an https URL (who can change the keys on their way can sign any token)",
        "config.toml:27: plugins.chat.rooms: is missing (or `filters`, for a plugin in front of other plugins' rooms)",
        "config.toml:28: plugins.chat.channel: no such channel (did you mean `urgent`?)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("limits = 5", ":1: limits: expected a table, got an integer"),
        ("[[limits]]", ":1: limits: expected a table, got a list"),
        ("channels = 5", ":1: channels: expected a table, got an integer"),
        ("plugins = []", ":1: plugins: expected a table, got a list"),
        ("[channels]\nbulk = 1", ":2: channels.bulk: expected a table, got an integer"),
        ("[plugins]\nchat = true", ":2: plugins.chat: expected a table, got a boolean"),
        ("[auth]\nkeys = [5]", ":2: auth.keys[0]: expected a table, got an integer"),
        ("server.listen = ':1'", ":1: server.listen: expected a list, got a string"),
        ("server.playground = 1", ":1: server.playground: expected true or false, got an integer"),
        ("limits.fragments = 1.0", ":1: limits.fragments: expected an integer, got a float"),
        ("limits.fragments = true", ":1: limits.fragments: expected an integer, got a boolean"),
        (
            "limits.deny_addresses = ['10.0.0.0/8', '192.0.2.1/24']",
            ":1: limits.deny_addresses[1]: has bits set behind its prefix: 192.0.2.0/24 is the network it is in",
        ),
        (
            "limits.allow_addresses = ['everybody']",
            ":1: limits.allow_addresses[0]: neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/32",
        ),
        (
            "proxy.trusted = ['unix', 'proxy.example']",
            ":1: proxy.trusted[1]: neither an IP address nor a network such as 192.0.2.0/24 or 2001:db8::/32 "
            "('unix' is whoever comes through a Unix socket)",
        ),
        (
            "proxy.protocol = 'v2'",
            ":1: proxy.trusted: is empty: nobody's word about a client's address would be believed",
        ),
        ("limits.allow_addresses = ['::1', '::1']", ":1: limits.allow_addresses: names the same one twice"),
        ("[quotas.x]\ncounts = 'joins'\nper = 'subject'", ":1: quotas.x.rate: is missing"),
        (
            "[quotas.x]\nper = 'subjet'\nrate = 1\ncounts = 'joins'",
            ":2: quotas.x.per: expected one of address, connection, plugin, room, subject, tenant "
            "(did you mean `subject`?)",
        ),
        (
            "[quotas.x]\ncounts = 'bytes_out'\nper = 'room'\nrate = 1e6",
            ":3: quotas.x.per: bytes_out cannot be counted per room "
            "(bound what goes in: a room's members are each sent what is published in it)",
        ),
        (
            "[quotas.x]\ncounts = 'messages_out'\nper = 'subject'\nrate = 1\nat_limit = 'slow'",
            ":5: quotas.x.at_limit: messages_out cannot be slowed down (bytes_out can; or refuse, or close)",
        ),
        (
            "[quotas.x]\ncounts = 'bytes_out'\nper = 'subject'\nrate = 1\nat_limit = 'slow'\nrooms = ['a']",
            ":6: quotas.x.rooms: what is written more slowly is a whole connection (leave it out, or refuse, or close)",
        ),
        (
            "[quotas.x]\ncounts = 'bytes_in'\nper = 'room'\nrate = 1000\nburst = 2000",
            ":5: quotas.x.burst: a message of 65536 bytes (limits.message_bytes) would never get through "
            "(at least 65536)",
        ),
        (
            "[quotas.x]\ncounts = 'calls'\nper = 'plugin'\nrate = 1\nplugins = ['caht']",
            ":5: quotas.x.plugins[0]: no such plugin (did you mean `chat`?)",
        ),
        (
            "[quotas.x]\ncounts = 'calls'\nper = 'tenant'\nrate = 1\ntenants = ['']\n[quotas.y]\ncounts = 'calls'\n"
            "per = 'tenant'\nrate = 1\ntenants = ['amce']\n[tenants.acme]\nhosts = ['acme.example']",
            ":10: quotas.y.tenants[0]: no such table [tenants.NAME] (did you mean `acme`?)",
        ),
        ("[quotas.joins]\nrates = 5", ":2: quotas.joins.rates: no such setting"),
        ("limits.slow_down = true", ":1: limits.slow_down: expected a number, got a boolean"),
        ("limits.slow_down = nan", ":1: limits.slow_down: must be finite"),
        ("limits.slow_down = inf", ":1: limits.slow_down: must be finite"),
        ("limits.slow_down = -1", ":1: limits.slow_down: must be at least 0, is -1"),
        ("limits.fragments = 9223372036854775808", ":1: limits.fragments: does not fit into 64 bits"),
        ("auth.issuer = 2001-01-01", ":1: auth.issuer: expected a string, got a date or time"),
        ("tls.minimum_version = 1.2", ":1: tls.minimum_version: expected one of 1.2, 1.3"),
        ("[plugins.x]\nrooms = 5", ":2: plugins.x.rooms: expected a string or a list of strings, got an integer"),
        ("[plugins.x]\nrooms = ['a', 5]", ":2: plugins.x.rooms[1]: expected a string, got an integer"),
        ("[plugins.x]\nrooms = ['']", ":2: plugins.x.rooms: needs at least one pattern, and none may be empty"),
        ("[plugins.x]\nrooms = 'x'\nhistory = -1", ":3: plugins.x.history: must be at least 0, is -1"),
        ("[limit]", ":1: limit: no such setting (did you mean `limits`?)"),
        ("message_bytes = 1", ":1: message_bytes: no such setting (did you mean `limits.message_bytes`?)"),
        ("[server]\nfragments = 1", ":2: server.fragments: no such setting (did you mean `limits.fragments`?)"),
        ("[[tls.sni]]\ncertificate = 'a'", ":1: tls.sni[0].key: is missing"),
    ],
)
def test_what_does_not_fit_is_said_in_plain_words(fails: Fails, text: str, problem: str) -> None:
    assert fails(text) == ["config.toml" + problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server.listen = []", ":1: server.listen: needs at least one address (':8443' is every address)"),
        (
            "server.listen = [':1', '8443']",
            ":1: server.listen[1]: no port: write HOST:PORT, or :PORT for every address",
        ),
        ("internal.listen = ['::1:5']", ":1: internal.listen[0]: an IPv6 address must stand in brackets: [::1]:8443"),
        ("server.listen = [':1', ':1']", ":1: server.listen: names the same one twice"),
        (
            "server.listen = ['unix:80']",
            ":1: server.listen[0]: what follows unix: must be the path of a file, with a slash in it: "
            "unix:/run/relay/public.sock",
        ),
        (
            f"server.listen = ['unix:/{'x' * 120}']",
            ":1: server.listen[0]: the path of a Unix socket has at most 107 bytes",
        ),
        (
            "internal.unix_mode = 'rw'",
            ":1: internal.unix_mode: is no mode of a file (three octal digits, as in '0660': its owner and its group)",
        ),
        (
            "server.listen = ['unix:/a']\ninternal.listen = ['unix:/a']",
            ":2: internal.listen[0]: is an address of server.listen too (give it a path of its own)",
        ),
        (
            "auth.keys = []",
            ":1: auth.keys: no key to check tokens with: nobody could connect "
            "(add an [[auth.keys]] table or set auth.jwks)",
        ),
        (
            "[[auth.keys]]\nalgorithm = 'HS256'",
            ":1: auth.keys[0]: has no key (exactly one of secret and secret_file)",
        ),
        (
            "[[auth.keys]]\nalgorithm = 'HS512'\nsecret = 'short'",
            ":3: auth.keys[0].secret: the secret is too short: HS512 needs at least 64 bytes (RFC 7518 section 3.2)",
        ),
        (
            "[[auth.keys]]\nalgorithm = 'HS256'\npublic_key_file = 'a'",
            ":3: auth.keys[0].public_key_file: HS256 is an HMAC algorithm and cannot go with public_key_file "
            "(set secret or secret_file)",
        ),
        (
            "[[auth.keys]]\nalgorithm = 'EdDSA'\npublic_key = '-----BEGIN {} KEY-----'".format("PRIVATE"),
            ":3: auth.keys[0].public_key: is a private key (the relay only checks tokens: give it the public one)",
        ),
        (
            "[[auth.keys]]\nalgorithm = 'EdDSA'\npublic_key = 'issuer.pem'",
            ":3: auth.keys[0].public_key: is not PEM text (for the path of a file use public_key_file)",
        ),
        (
            "auth.allowed_origins = ['https://app.example/']",
            ":1: auth.allowed_origins[0]: not an origin "
            "(like https://app.example, without a path or a slash at the end)",
        ),
        (
            "[plugins.x]\nrooms = 'x'\nchannel = 'Bulk'",
            ":3: plugins.x.channel: no such channel (did you mean `bulk`?)",
        ),
        (
            "[plugins.x]\nrooms = 'x'\nchannel = 'x'",
            ":3: plugins.x.channel: no such channel (there are control, urgent, default, state, bulk)",
        ),
        (
            "[plugins.x]\nrooms = 'x'\nchannel = 'control'",
            ":3: plugins.x.channel: control is the relay's own channel (`urgent` goes before the others)",
        ),
        (
            "auth.default_grants.channels = ['default', 'stat']",
            ":1: auth.default_grants.channels[1]: no such channel (did you mean `state`?)",
        ),
    ],
)
def test_settings_that_cannot_be_together_are_refused(fails: Fails, text: str, problem: str) -> None:
    assert fails(text) == ["config.toml" + problem]


@pytest.mark.parametrize(
    "url", ["https://", "https:///keys", "id.example/keys", "https://[::1/", "https://a b/", "file:///x"]
)
def test_a_key_set_comes_by_https_only(fails: Fails, url: str) -> None:
    [problem] = fails(f"auth.jwks.url = '{url}'")
    assert "auth.jwks.url: must be an https URL" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\nb = ", ':2: TOML: Invalid value (text needs quotes: key = "value")'),
        ("a = 1\nb = hello\n", ':2: TOML: Invalid value (text needs quotes: key = "value")'),
        ("[limits]\nfragments = 1\nfragments = 2", ":3: TOML: Cannot overwrite a value (this key is there twice)"),
        ("[a]\n[a]", ":2: TOML: Cannot declare ('a',) twice (this table is there twice)"),
        ("a = '''\n\n", ":3: TOML: Expected \"'''\""),
        ("a = " + "[" * 5000, ": TOML: is nested too deeply"),
        ("a = " + "1" * 5000, ": TOML: a number has too many digits"),
    ],
)
def test_a_syntax_error_has_its_line(fails: Fails, text: str, problem: str) -> None:
    assert fails(text) == ["config.toml" + problem]


def test_a_file_that_is_not_utf_8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# one\n# two\nx = '\xff'\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert str(caught.value) == f"{path}:3: TOML: is not UTF-8"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: TOML: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, environ={})
