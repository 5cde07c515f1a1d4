"""Reading key sets, and deciding when to fetch them: no socket, no clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from relay.auth.jwks import MAX_KEYS, JwksCache, KeyDocument, keys_from_config, parse_jwks
from relay.auth.keys import KeySet, VerificationKey
from relay.config import schema
from relay.errors import ConfigError

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
EC = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
ED25519 = ed25519.Ed25519PrivateKey.generate()

RSA_JWK = {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "r"}
EC_JWK = {**ECAlgorithm.to_jwk(EC["ES256"].public_key(), as_dict=True), "kid": "e"}
ED_JWK = {**OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True), "kid": "d"}
SECRET_JWK = {"kty": "oct", "k": "A" * 43, "alg": "HS256", "kid": "s"}
RSA_JWK.pop("key_ops")


def parse(*keys: object, secrets: bool = False) -> KeyDocument:
    return parse_jwks(json.dumps({"keys": keys}).encode(), max_bytes=100_000, secrets=secrets)


def test_a_key_without_alg_gets_the_one_its_type_implies() -> None:
    curves = [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) for key in EC.values()]
    found = parse(RSA_JWK, *curves, ED_JWK)
    assert [key.algorithm for key in found.keys.keys] == ["RS256", "ES256", "ES384", "ES512", "EdDSA"]
    assert found.skipped == {}


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_a_key_keeps_the_alg_it_names(algorithm: str) -> None:
    (key,) = parse({**RSA_JWK, "alg": algorithm, "use": "sig", "key_ops": ["verify"]}).keys.keys
    assert (key.kid, key.algorithm) == ("r", algorithm)


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        (7, "malformed"),
        ({}, "kty"),
        ({**RSA_JWK, "kty": "XYZ"}, "kty"),
        ({**RSA_JWK, "kty": ["RSA"]}, "kty"),
        ({**RSA_JWK, "use": "enc"}, "use"),
        ({**RSA_JWK, "key_ops": ["encrypt"]}, "key_ops"),
        ({**RSA_JWK, "key_ops": "verify"}, "key_ops"),
        ({**RSA_JWK, "alg": "RSA-OAEP"}, "alg"),
        ({**RSA_JWK, "alg": "HS256"}, "alg"),
        ({**RSA_JWK, "alg": "none"}, "alg"),
        ({**RSA_JWK, "alg": 5}, "malformed"),
        ({**EC_JWK, "alg": "ES384"}, "alg"),
        ({**RSA_JWK, "kid": 5}, "malformed"),
        ({**RSA_JWK, "n": 5}, "malformed"),
        ({**RSA_JWK, "n": "!!"}, "malformed"),
        ({**RSA_JWK, "n": ""}, "malformed"),
        ({**RSA_JWK, "e": "AA"}, "malformed"),
        ({"kty": "RSA", "n": RSA_JWK["n"]}, "malformed"),
        (RSAAlgorithm.to_jwk(WEAK_RSA.public_key(), as_dict=True), "weak"),
        (RSAAlgorithm.to_jwk(RSA, as_dict=True) | {"key_ops": ["verify"]}, "private"),
        (ECAlgorithm.to_jwk(EC["ES256"], as_dict=True), "private"),
        ({**EC_JWK, "x": EC_JWK["y"]}, "malformed"),
        ({**EC_JWK, "crv": "P-384"}, "malformed"),
        ({**EC_JWK, "crv": "secp256k1"}, "crv"),
        (OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True), "crv"),
        ({**ED_JWK, "crv": "X25519"}, "crv"),
        ({**ED_JWK, "x": "AAAA"}, "malformed"),
        (SECRET_JWK, "oct"),
    ],
)
def test_what_is_not_for_verifying_is_passed_over_and_counted(jwk: object, why: str) -> None:
    found = parse(jwk, ED_JWK)
    assert len(found.keys) == 1
    assert found.skipped == {why: 1}


def test_a_secret_is_taken_from_a_file_when_it_is_strong_and_names_its_algorithm() -> None:
    assert len(parse(SECRET_JWK, secrets=True).keys) == 1
    weak, unnamed = {**SECRET_JWK, "k": "A" * 42}, {"kty": "oct", "k": "A" * 43}
    assert parse(weak, unnamed, ED_JWK, secrets=True).skipped == {"weak": 1, "alg": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "not an object with a list"),
        (b'{"keys": {}}', "not an object with a list"),
        (b'{"keys": []}', "it is empty"),
        (json.dumps({"keys": [SECRET_JWK, SECRET_JWK, 1]}).encode(), r"no usable key \(1 malformed, 2 oct\)"),
        (json.dumps({"keys": [1] * (MAX_KEYS + 1)}).encode(), "101 keys"),
        (b" " * 100_001, "100001 bytes"),
    ],
)
def test_a_set_without_a_usable_key_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_jwks(data, max_bytes=100_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    base=st.sampled_from([RSA_JWK, EC_JWK, ED_JWK, SECRET_JWK]),
    changes=st.dictionaries(
        st.sampled_from(["kty", "crv", "n", "e", "x", "y", "k", "d", "alg", "use", "key_ops", "kid"]),
        json_values | st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "P-521", "Ed25519", "sig", "AQAB"]),
        max_size=3,
    ),
)
def test_no_key_set_makes_the_parser_fail_in_an_unexpected_way(base: dict[str, Any], changes: dict[str, Any]) -> None:
    found = parse({**base, **changes}, ED_JWK)
    assert 1 <= len(found.keys) <= 2
    assert all(isinstance(key, VerificationKey) and key.algorithm != "none" for key in found.keys.keys)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="key set"):
        parse_jwks(data, max_bytes=1000)


# The keys known at start


def test_keys_come_from_tables_and_from_the_file_of_a_set() -> None:
    files = {"set.json": json.dumps({"keys": [RSA_JWK, SECRET_JWK]}).encode(), "secret": b"x" * 32}
    auth = schema.Auth(
        keys=[schema.Key(algorithm="HS256", kid="dev", secret_file="secret")], jwks=schema.JWKS(file="set.json")
    )
    keys = keys_from_config(auth, files.__getitem__)
    assert [key.kid for key in keys.keys] == ["dev", "r", "s"]


def test_all_problems_with_keys_are_reported_at_once() -> None:
    def read(path: str) -> bytes:
        if path == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return b"{}"

    auth = schema.Auth(
        keys=[schema.Key(algorithm="HS256"), schema.Key(algorithm="HS256", secret_file="gone")],
        jwks=schema.JWKS(file="set.json", url="http://keys.example"),
    )
    with pytest.raises(ConfigError) as caught:
        keys_from_config(auth, read)
    found = [problem.key for problem in caught.value.problems]
    assert found == ["auth.keys[0]", "auth.keys[1].secret_file", "auth.jwks.file", "auth.jwks.url"]


def test_a_missing_key_set_file_is_named() -> None:
    def read(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    auth = schema.Auth(keys=[], jwks=schema.JWKS(file="gone"))
    with pytest.raises(ConfigError, match=r"auth\.jwks\.file: cannot read gone: No such file"):
        keys_from_config(auth, read)


def test_no_key_at_all_is_a_config_error_unless_a_url_may_bring_some() -> None:
    with pytest.raises(ConfigError, match="no key to verify tokens with"):
        keys_from_config(schema.Auth(keys=[]), lambda path: b"")
    auth = schema.Auth(keys=[], jwks=schema.JWKS(url="https://keys.example"))
    assert len(keys_from_config(auth, lambda path: b"")) == 0


# When to fetch

SETTINGS = schema.JWKS(url="https://keys.example", refresh=300.0, cooldown=30.0)
DOCUMENT = KeyDocument(parse(RSA_JWK).keys)
OTHER = KeyDocument(parse(EC_JWK).keys)


def cache(jitter: float = 0.0, base: KeySet | None = None) -> JwksCache:
    return JwksCache(SETTINGS, base, jitter=lambda: jitter)


def test_the_first_fetch_is_due_at_once_and_the_next_after_the_interval() -> None:
    keys = cache()
    assert keys.due(1000.0) == 0.0
    keys.begin(1000.0)
    assert keys.succeed(DOCUMENT, 1002.0)
    assert keys.due(1002.0) == 298.0
    assert keys.due(1300.0) == 0.0
    assert keys.knows("r")
    assert keys.knows(None)


def test_jitter_makes_a_refresh_earlier_by_a_tenth_at_most() -> None:
    keys = cache(jitter=1.0)
    keys.begin(0.0)
    keys.succeed(DOCUMENT, 0.0)
    assert keys.due(0.0) == pytest.approx(270.0)


def test_failures_back_off_up_to_the_interval_and_keep_the_keys() -> None:
    keys = cache()
    keys.begin(0.0)
    keys.succeed(DOCUMENT, 0.0)
    pauses, now = [], 300.0
    for _ in range(6):
        keys.begin(now)
        keys.fail("status 500")
        pauses.append(keys.due(now))
        now += keys.due(now)
    assert pauses == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    assert keys.knows("r")
    found = keys.statistics()
    assert (found.failures, found.failures_in_a_row, found.last_error, found.fetched_at) == (6, 6, "status 500", 0.0)
    keys.begin(now)
    keys.succeed(DOCUMENT, now)
    assert keys.due(now) == 300.0
    assert keys.statistics().failures_in_a_row == 0


def test_the_keys_are_the_same_object_until_they_change() -> None:
    base = KeySet([VerificationKey.make("dev", "HS256", b"x" * 32)])
    keys = cache(base=base)
    assert keys.keys is base
    keys.begin(0.0)
    keys.succeed(DOCUMENT, 0.0)
    first = keys.keys
    keys.begin(300.0)
    assert not keys.succeed(KeyDocument(parse(RSA_JWK).keys), 300.0)
    assert keys.keys is first
    keys.begin(600.0)
    assert keys.succeed(OTHER, 600.0)
    assert keys.knows("dev")
    assert keys.knows("e")
    assert not keys.knows("r")


def test_an_unknown_kid_brings_the_next_fetch_forward_to_the_end_of_the_cooldown() -> None:
    keys = cache()
    keys.begin(0.0)
    keys.succeed(DOCUMENT, 0.0)
    assert not keys.ask_early(10.0)
    assert keys.due(10.0) == 20.0
    assert keys.ask_early(30.0)
    assert keys.due(30.0) == 0.0


def test_an_unknown_kid_joins_a_fetch_that_runs() -> None:
    keys = cache()
    keys.begin(0.0)
    assert keys.statistics().fetching
    assert keys.ask_early(1.0)


def test_an_unknown_kid_does_not_break_the_back_off() -> None:
    keys = cache()
    for now in (0.0, 30.0, 90.0):
        keys.begin(now)
        keys.fail("status 500")
    assert not keys.ask_early(125.0)
    assert keys.due(125.0) == 85.0


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.sampled_from(["ask", "ok", "fail"])), max_size=60))
def test_two_fetches_never_begin_within_the_cooldown(steps: list[tuple[float, str]]) -> None:
    keys = JwksCache(SETTINGS)
    now, begun = 0.0, -1000.0
    for pause, what in steps:
        now += pause
        if what == "ask":
            keys.ask_early(now)
        if keys.due(now) == 0.0:
            assert now - begun >= 30.0 - 1e-6  # what floats round
            begun = now
            keys.begin(now)
            if what == "fail":
                keys.fail("no")
            else:
                keys.succeed(DOCUMENT, now)
        assert keys.due(now) <= 300.0 + 1e-6


def test_a_reload_goes_on_with_the_keys_of_the_same_url_only() -> None:
    before = cache()
    before.begin(0.0)
    before.succeed(DOCUMENT, 0.0)
    base = KeySet([VerificationKey.make("dev", "HS256", b"x" * 32)])
    after = JwksCache(schema.JWKS(url=SETTINGS.url, refresh=60.0), base)
    after.inherit(before)
    assert after.knows("r")
    assert after.knows("dev")
    assert after.knows(None)
    assert after.due(0.0) == 0.0
    elsewhere = JwksCache(schema.JWKS(url="https://other.example"))
    elsewhere.inherit(before)
    assert not elsewhere.knows("r")
    assert not elsewhere.knows(None)


def test_settings_of_zero_do_not_make_a_loop_that_never_rests() -> None:
    keys = JwksCache(schema.JWKS(url="https://keys.example", refresh=0.0, cooldown=0.0), jitter=lambda: 0.9)
    keys.begin(5.0)
    keys.succeed(DOCUMENT, 5.0)
    assert keys.due(5.0) == 1.0
    keys.begin(6.0)
    keys.fail("no")
    assert keys.due(6.0) >= 1.0


def test_public_bytes_and_jwk_of_one_key_are_equal() -> None:
    """A key that moves from a file to a URL is no change."""
    made = VerificationKey.make("d", "EdDSA", ED25519.public_key())
    assert parse(ED_JWK).keys == KeySet([made])
    raw = ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    again = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    assert made == VerificationKey.make("d", "Ed25519", again)
