"""check, config, certs, version: what is wrong is told in full, what is right is summed up."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from relay.config import load
from relay.config.schema import Config
from relay.devcerts import make_dev_certificates
from tests.unit.cli.conftest import Run


def test_a_good_configuration_is_summed_up(folder: Path, run: Run):
    result = run("check")
    assert result.exit_code == 0, result.output
    assert "built-in defaults: good" in result.stdout
    for part in (":8443  https and wss", "127.0.0.1:9090", "localhost", "HS256  kid dev", "chat    lobby chat:*"):
        assert part in result.stdout
    assert re.search(r"until \d{4}-\d\d-\d\d, \d+ days", result.stdout)


def test_every_problem_is_told_with_its_line_and_the_status_is_78(folder: Path, run: Run):
    Path("config.toml").write_text(
        """\
[limits]
message_byte = 1
[server]
listen = ["nowhere"]
[auth]
leeway = "long"
"""
    )
    result = run("check")
    assert result.exit_code == 78
    lines = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["config.toml:2", "limits.message_byte"],
        ["config.toml:4", "server.listen[0]"],
        ["config.toml:6", "auth.leeway"],
    ]
    assert "did you mean `message_bytes`?" in lines[0]
    assert lines[-1] == "3 problems with the configuration"
    assert result.stdout == ""


def test_problems_of_every_part_are_found_in_one_go(folder: Path, run: Run):
    Path("config.toml").write_text(
        """\
[tls]
key = "no-such.pem"
[auth]
keys = [{ algorithm = "HS256", secret_file = "no-such-secret" }]
[auth.default_grants]
join = ["a*b"]
[plugins.chatt]
rooms = "x:*"
[plugins.echo]
rooms = ["::", "a*b"]
"""
    )
    result = run("check")
    assert result.exit_code == 78
    keys = [line.split(": ")[1] for line in result.stderr.splitlines()[:-1]]
    assert len(keys) == len(set(keys)) + keys.count("plugins.echo.rooms") - 1
    assert set(keys) == {
        "tls.key",
        "auth.keys[0].secret_file",
        "auth.default_grants",
        "plugins.chatt",
        "plugins.echo.rooms",
    }
    assert keys.count("plugins.echo.rooms") == 2
    assert "config.toml:2: tls.key" in result.stderr
    assert "did you mean `chat`?" in result.stderr


TEN_MISTAKES = """\
[server]
listen = ["127.0.0.1:8443"]
[internal]
listen = ["127.0.0.1:8443"]
[tls]
certificate = 7
key = "garbage.pem"
[auth]
allowed_origins = ["https://*.*.example"]
[[auth.keys]]
algoritm = "RS256"
public_key_file = "garbage.pem"
[[auth.keys]]
algorithm = "HS256"
secret_file = "no-such-secret"
[auth.default_grants]
join = ["a*b"]
[outbox]
congestion = "no-such-control"
[plugins.chatt]
rooms = "x:*"
[plugins.echo]
rooms = "echo:*"
channel = "urgnt"
"""


def test_ten_mistakes_of_all_kinds_are_ten_lines_in_the_order_of_the_file(folder: Path, run: Run):
    """None is told twice, and none is told that only follows from another: not the certificate that the key cannot
    belong to, not what an unknown algorithm would need.
    """
    Path("config.toml").write_text(TEN_MISTAKES)
    Path("garbage.pem").write_text("garbage")
    result = run("check")
    assert result.exit_code == 78
    lines = [line.split(": ")[:2] for line in result.stderr.splitlines()]
    assert lines[:-1] == [
        ["config.toml:4", "internal.listen[0]"],
        ["config.toml:6", "tls.certificate"],
        ["config.toml:7", "tls.key"],
        ["config.toml:9", "auth.allowed_origins[0]"],
        ["config.toml:11", "auth.keys[0].algoritm"],
        ["config.toml:15", "auth.keys[1].secret_file"],
        ["config.toml:16", "auth.default_grants"],
        ["config.toml:19", "outbox.congestion"],
        ["config.toml:20", "plugins.chatt"],
        ["config.toml:24", "plugins.echo.channel"],
    ]
    assert lines[-1] == ["10 problems with the configuration"]


def test_serve_tells_the_same_list(folder: Path, run: Run):
    Path("config.toml").write_text(TEN_MISTAKES)
    Path("garbage.pem").write_text("garbage")
    assert run("serve").stderr == run("check").stderr


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("[tsl]\ncertificate = 'x.pem'", ["tsl"]),
        ("[tls]\ncertifcate = 'x.pem'", ["tls.certifcate"]),
        ("[auth]\nkeys = 'secret'", ["auth.keys"]),
        ("[auth]\nkeys = ['secret']", ["auth.keys[0]"]),
        (
            "[[auth.keys]]\nalgorithm = 'HS265'\nsecret_file = 'none'",
            ["auth.keys[0].algorithm", "auth.keys[0].secret_file"],
        ),
        ("[[auth.keys]]\nalgorithm = 'HS256'\nsecret_fiel = 'none'", ["auth.keys[0].secret_fiel"]),
        ("[[tls.sni]]\ncertificate = 5\nkey = 'none'", ["tls.sni[0].certificate", "tls.sni[0].key"]),
        ("[plugins.chat]\nroms = 'lobby'", ["plugins.chat.rooms"]),
        ("[plugins.mine]\nrooms = 'lobby'\nuse = 5\nturbo = 1", ["plugins.mine.use"]),
        ("[supervision]\ndirectory = 5\n[plugins.mine]\nrooms = 'lobby'", ["supervision.directory"]),
        ("[channels]\nnews = 5\n[plugins.chat]\nrooms = 'lobby'\nchannel = 'news'", ["channels.news"]),
        ("[plugins.chat]\nrooms = ['lobby', 5]\nhistroy = 5", ["plugins.chat.rooms[1]", "plugins.chat.histroy"]),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_told(folder: Path, run: Run, text: str, keys: list[str]):
    Path("config.toml").write_text(text)
    result = run("check")
    assert (result.exit_code, [line.split(": ")[1] for line in result.stderr.splitlines()[:-1]]) == (78, keys)


def test_what_is_risky_is_warned_of_and_passes(folder: Path, run: Run):
    result = run(
        *("check", "--set", "server.playground=true", "--set", "internal.listen=0.0.0.0:9090"),
        *("--set", "auth.allowed_origins=*", "--set", "auth.token_in_query=true"),
    )
    assert result.exit_code == 0, result.output
    for part in ("server.playground", "internal.listen: 0.0.0.0:9090", "auth.allowed_origins", "auth.token_in_query"):
        assert f"warning: {part}" in result.stderr


def test_a_certificate_about_to_expire_is_warned_of(bare: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    from datetime import UTC, datetime, timedelta

    make_dev_certificates(bare / "certs", now=datetime.now(UTC) - timedelta(days=820))
    result = run("check")
    assert result.exit_code == 0, result.output
    assert "warning: certs/server.pem expires on" in result.stderr


def test_without_tls_there_is_no_certificate_to_check(bare: Path, run: Run):
    Path("certs").mkdir()
    Path("certs/token-secret").write_text("x" * 40)
    result = run("check", "--set", "server.insecure_plaintext=true")
    assert result.exit_code == 0, result.output
    assert "warning: server.insecure_plaintext" in result.stderr
    assert "http and ws" in result.stdout


def test_the_file_comes_from_the_option_or_the_environment_or_lies_here(folder: Path, run: Run):
    for name in ("config.toml", "env.toml", "option.toml"):
        Path(name).write_text("[server]\n")
    environment = {"RELAY_CONFIG": "env.toml"}
    assert "option.toml: good" in run("check", "-c", "option.toml", env=environment).stdout
    assert "env.toml: good" in run("check", env=environment).stdout
    assert "config.toml: good" in run("check").stdout


def test_a_file_that_is_not_there_is_a_problem_with_the_configuration(folder: Path, run: Run):
    result = run("check", "-c", "no.toml")
    assert result.exit_code == 78
    assert "no.toml: TOML: cannot be read: No such file" in result.stderr


@pytest.mark.parametrize("command", [["serve", "--check-config"], ["check"], ["plugins", "list"], ["health"]])
def test_every_command_that_reads_a_configuration_refuses_a_bad_one(folder: Path, run: Run, command: list[str]):
    result = run(*command, "--set", "limits.nonsense=1")
    assert result.exit_code == 78
    assert "--set: limits.nonsense: no such setting" in result.stderr


def test_a_setting_without_a_value_is_a_mistake_of_the_command_line(folder: Path, run: Run):
    result = run("check", "--set", "limits.fragments")
    assert result.exit_code == 2
    assert "is not KEY=VALUE" in result.stderr


def test_serve_check_config_is_check(folder: Path, run: Run):
    assert run("serve", "--check-config").stdout == run("check").stdout


def test_the_default_configuration_is_the_default(folder: Path, run: Run):
    text = run("config", "default").stdout
    tomllib.loads(text)
    Path("config.toml").write_text(text)
    assert load(Path("config.toml"), environ={}).config == Config()


def test_the_schema_is_json(run: Run):
    schema = json.loads(run("config", "schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "max_connections" in json.dumps(schema)


@pytest.mark.parametrize("command", [["certs"], ["certs", "dev"]])
def test_certificates_are_made_once(bare: Path, run: Run, command: list[str]):
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "trust the authority anew" in first.stdout
    before = Path("certs/ca.pem").read_bytes()
    assert "nothing had to be made anew" in run(*command).stdout
    assert Path("certs/ca.pem").read_bytes() == before


def test_certificates_are_for_the_hosts_that_are_named(bare: Path, run: Run):
    result = run("certs", "dev", "--folder", "here", "--host", "relay.test", "--host", "192.168.1.20")
    assert "relay.test" in result.stdout
    assert "192.168.1.20" in result.stdout
    assert Path("here/token-secret").is_file()


def test_a_host_that_is_none_is_a_mistake_of_the_command_line(bare: Path, run: Run):
    result = run("certs", "dev", "--host", "no host")
    assert result.exit_code == 2
    assert "neither a host name nor an address" in result.stderr


def test_a_folder_that_cannot_be_written_is_told(bare: Path, run: Run):
    Path("file").write_text("")
    result = run("certs", "dev", "--folder", "file/certs")
    assert result.exit_code == 1
    assert "cannot write to file/certs" in result.stderr


def test_a_mistyped_command_is_answered_with_the_nearest(run: Run):
    result = run("serv")
    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.stderr


def test_the_version_names_what_the_relay_stands_on(run: Run):
    from relay import __version__

    result = run("version")
    assert result.stdout.startswith(f"relay {__version__}\n")
    for part in ("Python 3.", "OpenSSL", "trio ", "wsproto "):
        assert part in result.stdout


def test_every_bad_line_of_the_revocation_file_is_told(folder: Path, run: Run):
    Path("revoked.jsonl").write_text('{"jti": "x1"}\njti:x2\n{"sub": "ann"}\n')
    Path("config.toml").write_text('[auth]\nrevocation_file = "revoked.jsonl"\n')
    result = run("check")
    assert result.exit_code == 78
    first, second, _ = result.stderr.splitlines()
    assert first.startswith("config.toml:2: auth.revocation_file: ")
    assert "revoked.jsonl:2: " in first
    assert second.endswith("revoked.jsonl:3: Object contains unknown field `sub`")
