"""token new and token check: what is made is accepted, and what is refused says why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.signing import seconds_of
from tests.unit.cli.conftest import Run


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_a_new_token_is_the_only_thing_on_standard_output_and_is_accepted(folder: Path, run: Run):
    made = run("token", "new", "--subject", "ann", "--all")
    assert made.exit_code == 0
    assert made.stdout.count("\n") == 1
    assert made.stderr == ""
    checked = run("token", "check", "-", input=made.stdout)
    assert checked.exit_code == 0, checked.output
    assert "signed by  the HS256 key dev" in checked.stdout
    assert checked.stdout.endswith("accepted\n")


def test_grants_and_claims_are_as_asked_for(folder: Path, run: Run):
    made = run(
        *("token", "new", "--subject", "ann", "--join", "chat:*", "--join", "feed:*", "--publish", "chat:{sub}"),
        *("--presence", "chat:*", "--history", "feed:*", "--call", "game:*", "--channel", "urgent"),
        *("--join-at-start", "user:{sub}", "--ttl", "12h", "--claim", "jti=x1", "--claim", "level=3"),
    )
    claims = claims_of(made.stdout.strip())
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 12 * 3600
    assert abs(claims["iat"] - time.time()) < 60
    assert (claims["jti"], claims["level"]) == ("x1", 3)
    assert claims["relay"] == {
        "join": ["chat:*", "feed:*"],
        "publish": ["chat:{sub}"],
        "presence": ["chat:*"],
        "history": ["feed:*"],
        "call": ["game:*"],
        "channels": ["urgent"],
        "join_at_start": ["user:{sub}"],
    }


def test_the_token_follows_the_configuration(folder: Path, run: Run):
    Path("config.toml").write_text(
        """\
[auth]
issuer = "https://issuer.example"
audience = "relay"
max_lifetime = 600
[auth.claims]
subject = "user"
grants = "may"
"""
    )
    made = run("token", "new", "--subject", "ann", "--all", "--ttl", "7d")
    assert made.stderr == ""
    claims = claims_of(made.stdout.strip())
    assert (claims["iss"], claims["aud"], claims["user"]) == ("https://issuer.example", "relay", "ann")
    assert claims["exp"] - claims["iat"] == 600
    assert claims["may"] == {"join": ["*"], "publish": ["*"]}
    assert run("token", "check", made.stdout.strip()).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ([], "it may join no room"),
        (["--join", "a*b"], "the relay would refuse it: token_bad_grants"),
        (["--all", "--claim", "exp=1"], "the relay would refuse it: token_expired"),
        (["--all", "--claim", "aud=other"], "the relay would refuse it: token_wrong_audience"),
    ],
)
def test_what_would_be_found_out_later_is_said_at_once(folder: Path, run: Run, arguments: list[str], warning: str):
    made = run("token", "new", "--subject", "ann", *arguments)
    assert made.exit_code == 0
    assert warning in made.stderr


def test_default_grants_are_grants(folder: Path, run: Run):
    grants = ("--set", "auth.default_grants.join=lobby")
    made = run("token", "new", "--subject", "ann", *grants)
    assert made.stderr == ""
    checked = run("token", "check", made.stdout.strip(), "--room", "lobby", *grants)
    assert "may        (by auth.default_grants)" in checked.stdout
    assert "in lobby: join\n" in checked.stdout


def pem(key: Any, password: bytes | None = None) -> bytes:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    return data


KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_private_key_signs_with_the_algorithm_of_its_kind(folder: Path, run: Run, algorithm: str):
    key = KEYS[algorithm]
    Path("issuer.pem").write_bytes(pem(key))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path("public.pem").write_bytes(public)
    Path("config.toml").write_text(
        f'[[auth.keys]]\nalgorithm = "{algorithm}"\nkid = "k1"\npublic_key_file = "public.pem"\n'
    )
    made = run("token", "new", "--subject", "ann", "--all", "--private-key", "issuer.pem", "--kid", "k1")
    assert made.exit_code == 0, made.output
    assert made.stderr == ""
    checked = run("token", "check", made.stdout.strip())
    assert f"signed by  the {algorithm} key k1" in checked.stdout


def test_both_names_of_ed25519_can_be_asked_for(folder: Path, run: Run):
    Path("issuer.pem").write_bytes(pem(KEYS["EdDSA"]))
    made = run(
        *("token", "new", "--subject", "ann", "--private-key", "issuer.pem", "--algorithm", "Ed25519"),
    )
    assert jwt.get_unverified_header(made.stdout.strip())["alg"] == "Ed25519"
    assert "token_unknown_key" in made.stderr or "token_wrong_algorithm" in made.stderr


@pytest.mark.parametrize(
    ("data", "options", "what"),
    [
        (b"no key", [], "not a private key in PEM"),
        (pem(KEYS["ES256"], b"secret"), [], "the key is encrypted"),
        (pem(ec.generate_private_key(ec.SECP256K1())), [], "tokens are signed with"),
        (pem(KEYS["ES256"]), ["--algorithm", "RS256"], "RS256 does not fit this key; ES256 does"),
    ],
)
def test_a_private_key_that_cannot_sign_is_refused(folder: Path, run: Run, data: bytes, options: list[str], what: str):
    Path("issuer.pem").write_bytes(data)
    result = run("token", "new", "--subject", "ann", "--private-key", "issuer.pem", *options)
    assert result.exit_code == 2
    assert what in result.stderr


def test_without_an_hmac_key_one_is_told_whose_key_to_use(folder: Path, run: Run):
    public = KEYS["ES256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path("public.pem").write_bytes(public)
    Path("config.toml").write_text('[[auth.keys]]\nalgorithm = "ES256"\npublic_key_file = "public.pem"\n')
    result = run("token", "new", "--subject", "ann", "--all")
    assert result.exit_code == 78
    assert "--private-key PEM" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--subject", "ann", "--ttl", "soon"],
        ["--subject", "ann", "--claim", "nothing"],
        ["--subject", "ann", "--kid", "k"],
        ["--subject", "ann", "--private-key", "no-such.pem"],
    ],
)
def test_what_makes_no_sense_is_a_mistake_of_the_command_line(folder: Path, run: Run, arguments: list[str]):
    assert run("token", "new", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": "ann", "exp": 1}, "token_expired"),
        ({"sub": "ann"}, "token_no_expiry"),
        ({"exp": 4_000_000_000}, "token_no_subject"),
        ({"sub": "ann", "exp": 4_000_000_000, "nbf": 3_999_999_999}, "token_not_yet_valid"),
        ({"sub": "ann", "exp": 4_000_000_000, "relay": 7}, "token_bad_grants"),
    ],
)
def test_a_refused_token_names_code_and_reason_and_the_status_is_1(
    folder: Path, run: Run, claims: dict[str, Any], code: str
):
    secret = Path("certs/token-secret").read_bytes().strip()
    result = run("token", "check", jwt.encode(claims, secret, "HS256", headers={"kid": "dev"}))
    assert result.exit_code == 1
    assert f"refused: {code}: " in result.stderr
    assert "accepted" not in result.stdout


def test_a_token_of_somebody_else_is_shown_but_refused(folder: Path, run: Run):
    token = jwt.encode({"sub": "x\x1b[2J", "exp": 4e9}, "s" * 40, "HS256", headers={"kid": "dev"})
    result = run("token", "check", token)
    assert result.exit_code == 1
    assert "token_bad_signature" in result.stderr
    assert "\x1b" not in result.stdout
    assert "UTC" in result.stdout


def test_the_environment_may_hold_the_token(folder: Path, run: Run):
    made = run("token", "new", "--subject", "ann", "--all").stdout.strip()
    assert run("token", "check", env={"RELAY_TOKEN": made}).exit_code == 0


@given(st.text())
def test_no_text_breaks_the_explanation(text: str):
    from relay.cli.inspect_token import _decoded, _parts

    _parts(text)
    assert _decoded(text) is None or isinstance(_decoded(text), dict)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43200), ("7d", 604800), ("1.5h", 5400), (" 2H ", 7200)],
)
def test_durations_are_as_people_write_them(text: str, seconds: float):
    assert seconds_of(text) == seconds


@given(st.text())
def test_a_duration_is_positive_or_refused(text: str):
    try:
        seconds = seconds_of(text)
    except ValueError:
        seconds = None
    assert seconds is None or seconds > 0


ISSUERS = """
[auth.issuers.acme]
issuer = "https://acme.example"
audience = "relay"
room_prefix = "acme:"
subject_prefix = "acme:"
[[auth.issuers.acme.keys]]
algorithm = "HS256"
secret = "0123456789abcdef0123456789abcdef"
"""


def test_a_token_can_be_that_of_a_named_issuer(folder: Path, run: Run):
    (folder / "config.toml").write_text(ISSUERS)
    made = run("token", "new", "--subject", "ann", "--all", "--issuer", "acme")
    assert made.exit_code == 0, made.output
    claims = claims_of(made.stdout.strip())
    assert (claims["iss"], claims["aud"]) == ("https://acme.example", "relay")
    checked = run("token", "check", "-", "--room", "acme:lobby", "--room", "lobby", input=made.stdout)
    assert checked.exit_code == 0, checked.output
    for line in (
        "issuer     acme  [auth.issuers.acme]",
        "signed by  the HS256 key without a kid",
        "subject    acme:ann",
        "nothing but in rooms acme:*  [auth.issuers.acme.room_prefix]",
        "in acme:lobby: join, publish, presence, history, call",
        "in lobby: nothing",
    ):
        assert line in checked.stdout


def test_without_a_key_of_its_own_the_issuer_has_to_be_named(folder: Path, run: Run):
    (folder / "config.toml").write_text(ISSUERS)
    made = run("token", "new", "--subject", "ann", "--all")
    assert made.exit_code == 78
    assert "name one of the others with --issuer: acme" in made.stderr
    unknown = run("token", "new", "--subject", "ann", "--all", "--issuer", "globex")
    assert unknown.exit_code == 2
    assert "there are: acme" in unknown.stderr


def test_the_summary_lists_the_keys_of_each_issuer(folder: Path, run: Run):
    (folder / "config.toml").write_text(ISSUERS)
    checked = run("check")
    assert checked.exit_code == 0, checked.output
    assert "of acme (iss https://acme.example, rooms acme:*):" in checked.stdout


def test_a_token_that_the_file_revokes_is_refused_here_too(folder: Path, run: Run):
    made = run("token", "new", "--subject", "ann", "--all", "--claim", "jti=x1").stdout.strip()
    Path("revoked.jsonl").write_text('{"jti": "x1"}\n')
    result = run("token", "check", made, "--set", "auth.revocation_file=revoked.jsonl")
    assert result.exit_code == 1
    assert "refused: token_revoked: the token was revoked [auth.revocation_file]" in result.stderr
