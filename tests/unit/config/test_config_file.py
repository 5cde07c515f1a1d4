"""The file: what it may say, and that everything wrong with it is reported, in the right line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.config import Config, load
from relay.config.schema import (
    Channel,
    PluginTable,
    Quota,
    default_channels,
    default_plugins,
    default_quotas,
    issuers_of,
)
from relay.errors import ConfigError, ConfigProblem
from tests.unit.config.conftest import Fails, Loads

SECRET = "s3cr3t-" * 10


def test_without_a_file_there_are_the_defaults() -> None:
    loaded = load(None, environ={})
    assert loaded.config == Config()
    assert loaded.where("limits.fragments") == "default"
    assert loaded.base == Path.cwd()


def test_an_empty_file_gives_the_defaults(loads: Loads) -> None:
    assert loads("").config == Config()


def test_a_setting_of_the_file_is_taken_and_its_line_is_known(loads: Loads) -> None:
    loaded = loads("""
        # a comment
        [limits]
        fragments = 16
        messages_per_second = 5
        [[auth.keys]]
        algorithm = "HS256"
        secret_file = "token"
    """)
    assert loaded.config.limits.fragments == 16
    assert loaded.config.limits.messages_per_second == 5.0
    assert loaded.where("limits.fragments") == "config.toml:3"
    assert loaded.where("limits") == "config.toml:2"
    assert loaded.where("auth.keys[0].secret_file") == "config.toml:7"
    assert loaded.where("limits.head_bytes") == "default"


def test_paths_are_relative_to_the_file_wherever_the_process_goes(loads: Loads, tmp_path: Path) -> None:
    loaded = loads("")
    assert loaded.base == tmp_path
    assert loaded.resolve("certs/a.pem") == tmp_path / "certs" / "a.pem"
    assert loaded.resolve("/etc/a.pem") == Path("/etc/a.pem")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[limits]\r\nfragments = 2\r\n")
    loaded = load(path, environ={})
    assert loaded.where("limits.fragments") == f"{path}:2"


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
    "origin", ["self", "*", "null", "https://app.example", "http://localhost:3000", "https://*.a.example"]
)
def test_origins_as_people_write_them_are_taken(loads: Loads, origin: str) -> None:
    assert loads(f"auth.allowed_origins = ['{origin}']").config.auth.allowed_origins == [origin]


def test_keys_may_come_from_a_key_set_alone(loads: Loads) -> None:
    assert loads("auth.keys = []\nauth.jwks.url = 'https://id.example/keys'").config.auth.keys == []


def test_a_channel_table_changes_what_it_names_and_adds_what_is_new(loads: Loads) -> None:
    channels = loads("""
        [channels.bulk]
        capacity = 2048
        [channels.voice]
        priority = "urgent"
        [plugins.x]
        rooms = "x"
        channel = "voice"
    """).config.channels
    assert channels == {
        **default_channels(),
        "bulk": Channel(weight=1, capacity=2048, overflow="pause"),
        "voice": Channel(priority="urgent"),
    }


def test_a_file_with_a_plugin_table_has_those_plugins_only(loads: Loads) -> None:
    loaded = loads("""
        [plugins.zoo]
        rooms = ["zoo:*", "cage"]
        history = 3
        greeting = "hello"
        nested = { depth = 2 }
        [plugins.art]
        rooms = "art"
    """)
    assert list(loaded.plugin_tables.items()) == [
        ("zoo", (PluginTable(rooms=["zoo:*", "cage"], history=3), {"greeting": "hello", "nested": {"depth": 2}})),
        ("art", (PluginTable(rooms="art"), {})),
    ]


def test_a_file_without_plugin_tables_has_the_default_ones(loads: Loads) -> None:
    assert list(loads("[plugins]").plugin_tables) == list(default_plugins())


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


def test_deep_settings_of_a_plugin_are_kept_as_they_are(loads: Loads) -> None:
    depth = 100
    loaded = loads(f"[plugins.x]\nrooms = 'x'\ndeep = {'[' * depth}{']' * depth}")
    value, found = loaded.plugin_tables["x"][1]["deep"], 1
    while value:
        value, found = value[0], found + 1
    assert found == depth


KEYS = """server limits auth keys tls sni channels plugins chat bulk rooms listen jwks url algorithm secret fragments
priority channel slow_down control default_grants a.b"""
keys = st.sampled_from(["", *KEYS.split()])
plain = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["HS256", "strict", ":1", "https://x", "x:*", "control"]),
)
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def write(value: Any) -> str:
    """Any tree as an inline TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write(key)} = {write(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return repr(value)


def load_text(directory: Path, text: str) -> None:
    path = directory / "config.toml"
    path.write_bytes(text.encode())
    problems: list[ConfigProblem] = []
    try:
        load(path, environ={})
    except ConfigError as error:
        problems = error.problems
    assert all(problem.where.startswith(str(path)) for problem in problems)


@given(st.dictionaries(keys, trees, max_size=5))
@example({"limits": {"slow_down": 10**400}})
@example({"plugins": {"": {"rooms": ["x"], "channel": 5}}})
@example({"auth": {"keys": [{"algorithm": "HS256", "secret": []}], "jwks": 5}})
def test_no_document_raises_anything_but_config_error(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    text = "\n".join(f"{write(key)} = {write(value)}" for key, value in document.items())
    load_text(tmp_path_factory.getbasetemp(), text)


@given(st.text() | st.text("[]{}=.\"'\n #ab1\\,"))
def test_no_text_raises_anything_but_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    load_text(tmp_path_factory.getbasetemp(), text)


@pytest.mark.parametrize(
    "wrong",
    [
        "public_key = 'x'",
        "algorithm = 5",
        "kid = 5",
        "nonsense = 1",
        "algorithm = 'HS256",
        "algorithm = 'RS256'",
        "algorithm = 'HS384'",
        f"algorithm = '{SECRET}'",
        f"public_key = '{SECRET}'",
        f"kid = ['{SECRET}']",
        f"kid = '{SECRET}",
        f"kid = {SECRET}",
        f"kid = '{SECRET}' '{SECRET}'",
        f"secret = '{SECRET}'",
    ],
)
def test_no_error_shows_a_secret(loads: Loads, wrong: str) -> None:
    good = "" if wrong.startswith("algorithm") else "algorithm = 'HS256'\n"
    with pytest.raises(ConfigError) as caught:
        loads(f"[[auth.keys]]\nsecret = '{SECRET[:45]}'\n{good}{wrong}")
    assert "s3cr3t" not in f"{caught.value} {caught.value!r} {caught.value.problems!r}"


def test_no_repr_shows_a_secret(loads: Loads) -> None:
    loaded = loads(f"""
        [[auth.keys]]
        algorithm = "HS256"
        secret = "{SECRET}"
        [plugins.x]
        rooms = "x"
        password = "{SECRET}"
    """)
    assert loaded.config.auth.keys[0].secret == SECRET
    shown = f"{loaded!r} {loaded} {loaded.config!r} {loaded.config.auth!r} {loaded.config.__rich_repr__()}"
    assert "s3cr3t" not in shown
    assert "secret='...'" in shown


ISSUER = """
[auth.issuers.acme]
issuer = "https://acme.example"
{}
[[auth.issuers.acme.keys]]
algorithm = "HS256"
secret = "0123456789abcdef0123456789abcdef"
"""


def test_who_names_issuers_does_not_get_the_development_key_beside_them(loads: Loads) -> None:
    auth = loads(ISSUER.format("")).config.auth
    assert auth.keys == []
    assert list(issuers_of(auth)) == ["acme"]
    both = loads("[[auth.keys]]\nalgorithm = 'HS256'\nsecret_file = 'x'\n" + ISSUER.format("subject_prefix = 'acme:'"))
    assert list(issuers_of(both.config.auth)) == ["", "acme"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("room_prefix = 'acme'", "room_prefix: must end in ':' and hold no '*', '{' or white space (as in 'acme:')"),
        ("room_prefix = 'a*:'", "room_prefix: must end in ':' and hold no '*', '{' or white space (as in 'acme:')"),
        ("subject_prefix = '{sub}:'", "subject_prefix: must end in ':' and hold no '*', '{' or white space"),
        ("audiance = 'x'", "audiance: no such setting (did you mean `audience`?)"),
    ],
)
def test_an_issuer_s_table_is_checked(fails: Fails, line: str, problem: str) -> None:
    [found] = fails(ISSUER.format(line))
    assert f"config.toml:3: auth.issuers.acme.{problem}" in found


def test_two_issuers_cannot_have_one_name(fails: Fails) -> None:
    second = ISSUER.format("subject_prefix = 'b:'").replace("issuers.acme", "issuers.globex")
    [found] = fails(ISSUER.format("") + second)
    assert "auth.issuers.globex.issuer: is that of auth.issuers.acme too" in found


def test_two_issuers_say_whether_they_know_the_same_people(loads: Loads, fails: Fails) -> None:
    second = ISSUER.replace("issuers.acme", "issuers.globex").replace("https://acme", "https://globex")
    [found] = fails(ISSUER.format("") + second.format(""))
    assert "auth.issuers.globex.subject_prefix: its subjects would be those of auth.issuers.acme" in found
    loads(ISSUER.format("") + second.format("subject_prefix = 'globex:'"))
    loads(ISSUER.format("") + second.format("shares_subjects = true"))


def test_an_issuer_needs_a_key_and_a_name(fails: Fails) -> None:
    assert [line.partition(": ")[2] for line in fails("[auth.issuers.acme]\nissuer = ''\n")] == [
        "auth.issuers.acme.keys: no key to check its tokens with (add a keys table or set jwks)",
        "auth.issuers.acme.issuer: is empty: no token could name it",
    ]
    [found] = fails(ISSUER.format("").replace("issuers.acme", "issuers.'a b'"))
    assert 'auth.issuers."a b": is no name (letters, digits, - and _)' in found


def test_a_table_of_a_quota_that_always_exists_changes_it_and_another_name_adds_one(loads: Loads) -> None:
    quotas = loads("""
        [quotas.joins]
        rate = 5
        [quotas.crowd]
        counts = "messages_in"
        per = "room"
        rate = 100
    """).config.quotas
    assert quotas["joins"] == Quota(counts="joins", per="connection", rate=5.0, burst=500.0)
    assert quotas["calls"] == default_quotas()["calls"]
    assert quotas["crowd"].at_limit == "refuse"
