"""Tokens forged by their signature, algorithm or key, and any change to a good one: each is refused with a 401 of ours,
none is accepted, nothing else is raised.

Sources: RFC 8725 sections 2 and 3, RFC 7515 section 4, and what has gone wrong in JWT libraries. Keys are made here.
"""

from __future__ import annotations

import base64
import json
import string
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from relay.errors import Rejected
from tests.security.tokens import GOOD, header, payload, refused, verifier
from tests.sizes import examples
from tests.unit.auth.kit import ALGORITHMS, EC_KEYS, ED_KEY, NOW, RSA_KEY, SECRET, assemble, b64, claims, sign

ASYMMETRIC = [name for name in ALGORITHMS if not name.startswith("HS")]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_set_would_accept_a_right_token_of_each_algorithm(algorithm: str) -> None:
    """Else all that follows would prove nothing."""
    assert verifier().verify(sign(claims(), algorithm), NOW).subject == "ann"
    assert verifier().verify(sign(claims(), algorithm, kid=f"key-{algorithm}"), NOW).subject == "ann"


# No signature


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "none ", " none", "", "null", "no\u017fe"])
@pytest.mark.parametrize("signature", ["", "AA", GOOD.rsplit(".", 1)[1]])
def test_an_unsigned_token_is_refused_however_it_is_spelt(name: str, signature: str) -> None:
    unsigned = f"{b64(header(alg=name))}.{b64(payload())}.{signature}"
    assert refused(unsigned) == ("token_wrong_algorithm" if signature else "token_malformed")


@pytest.mark.parametrize("value", [None, 0, False, True, [], ["HS256"], {}, {"alg": "HS256"}])
def test_an_algorithm_that_is_no_text_is_malformed(value: object) -> None:
    assert refused(assemble(header(alg=value), payload())) == "token_malformed"


def test_a_header_without_an_algorithm_is_malformed() -> None:
    assert refused(assemble(b'{"typ":"JWT"}', payload())) == "token_malformed"


# The algorithm of one key with another


def public_forms() -> list[bytes]:
    """What an attacker may know of our asymmetric keys, as a server might have passed it to an HMAC."""
    found = []
    for key in (RSA_KEY, ED_KEY, *EC_KEYS.values()):
        public_key = key.public_key()
        pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        found += [pem, pem.strip(), pem.replace(b"\n", b"\r\n"), pem.decode().encode("utf-16")]
        found.append(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        found.append(public_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    found.append(json.dumps(RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)).encode())
    return [*found, b"", b"\x00"]


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(algorithm: str) -> None:
    for form in public_forms():
        forged = assemble(header(alg=algorithm), payload(), algorithm, form)
        assert refused(forged) == "token_bad_signature"
        for kid in ASYMMETRIC:
            forged = assemble(header(alg=algorithm, kid=f"key-{kid}"), payload(), algorithm, form)
            assert refused(forged) == "token_wrong_algorithm"


@pytest.mark.parametrize("said", ALGORITHMS)
@pytest.mark.parametrize("used", ALGORITHMS)
def test_a_signature_of_one_algorithm_is_none_of_another(used: str, said: str) -> None:
    """Our own keys, rightly used, under a wrong name. Ed25519 has two right ones."""
    token = assemble(header(alg=said), payload(), used)
    same = used == said or {used, said} == {"EdDSA", "Ed25519"}
    if same:
        assert verifier().verify(token, NOW).subject == "ann"
    else:
        assert refused(token) == "token_bad_signature"


STRANGERS: dict[str, Any] = {
    "HS256": b"z" * 32,
    "HS512": b"z" * 64,
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("algorithm", STRANGERS)
def test_a_stranger_s_key_signs_nothing(algorithm: str) -> None:
    assert refused(assemble(header(alg=algorithm), payload(), algorithm, STRANGERS[algorithm])) == "token_bad_signature"


def jwk_of(algorithm: str) -> dict[str, Any]:
    key = STRANGERS[algorithm]
    if isinstance(key, bytes):
        return {"kty": "oct", "k": b64(key)}
    to_jwk = {"R": RSAAlgorithm.to_jwk, "P": RSAAlgorithm.to_jwk, "ES": ECAlgorithm.to_jwk, "Ed": OKPAlgorithm.to_jwk}
    method = to_jwk.get(algorithm[0]) or to_jwk[algorithm[:2]]
    found: dict[str, Any] = method(key.public_key(), as_dict=True)
    return found


@pytest.mark.parametrize("algorithm", STRANGERS)
def test_a_key_that_the_token_brings_along_is_not_used(algorithm: str) -> None:
    brought = {
        "jwk": jwk_of(algorithm),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/cert.pem",
        "x5c": [base64.b64encode(b"certificate").decode()],
        "x5t": "AAAA",
    }
    for name, value in [*brought.items(), ("all", None)]:
        fields = brought if name == "all" else {name: value}
        forged = assemble(header(alg=algorithm, **fields), payload(), algorithm, STRANGERS[algorithm])
        assert refused(forged) == "token_bad_signature"


def test_a_key_in_the_header_does_no_harm_either() -> None:
    assert verifier().verify(sign(claims(), jwk=jwk_of("RS256"), jku="https://evil.example"), NOW).subject == "ann"


@pytest.mark.parametrize("signature", [b"\x00", b"\x00" * 64, b"\x00" * 96, b"\x00" * 132, b"\xff" * 64, b"\x00" * 256])
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_signature_of_zeros_is_none(algorithm: str, signature: bytes) -> None:
    """An ECDSA signature with r = s = 0 was once valid for everything (CVE-2022-21449)."""
    assert refused(f"{b64(header(alg=algorithm))}.{b64(payload())}.{b64(signature)}") == "token_bad_signature"


# The kid


@pytest.mark.parametrize(
    "kid",
    [
        "",
        "../../../../dev/null",
        "/dev/null",
        "/proc/self/environ",
        "file:///etc/passwd",
        "https://evil.example/keys",
        "' UNION SELECT 'secret' --",
        "key-HS256' OR '1'='1",
        "key-HS256\x00",
        "key-HS256 ",
        "KEY-HS256",
        "key-hs256",
        "*",
        "| sleep 5",
        "${jndi:ldap://evil.example}",
        "{{7*7}}",
        "\ud800",
        "x" * 4000,
        "__class__",
        "0",
    ],
)
def test_a_kid_is_a_name_and_nothing_else(kid: str) -> None:
    for secret in (SECRET, b"", b"\x00"):
        forged = assemble(header(kid=kid), payload(), "HS256", secret)
        assert refused(forged) == "token_unknown_key"


@pytest.mark.parametrize("kid", [None, 0, 1, True, [], ["key-HS256"], {}, {"key-HS256": 1}])
def test_a_kid_that_is_no_text_is_malformed(kid: object) -> None:
    assert refused(assemble(header(kid=kid), payload())) == "token_malformed"


def test_a_kid_does_not_reach_the_key_of_another() -> None:
    assert refused(sign(claims(), "HS256", kid="key-HS384")) == "token_wrong_algorithm"
    assert refused(sign(claims(), "RS256", kid="key-PS256")) == "token_wrong_algorithm"


# Anything at all


alphabet = st.sampled_from(string.ascii_letters + string.digits + "-_.=+/ \n\x00é\ud800")


@settings(max_examples=examples(300, 25_000))
@given(st.sampled_from(ALGORITHMS), st.data())
def test_no_change_to_a_good_token_is_accepted(algorithm: str, data: st.DataObject) -> None:
    token = sign(claims(), algorithm)
    at = data.draw(st.integers(0, len(token)))
    upto = data.draw(st.integers(at, min(len(token), at + 4)))
    changed = token[:at] + data.draw(st.text(alphabet, max_size=4)) + token[upto:]
    if changed != token and changed:
        refused(changed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(ALGORITHMS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
HEADER_NAMES = ["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "cty", "zip", "enc"]


@settings(max_examples=examples(300, 25_000))
@given(st.dictionaries(st.sampled_from(HEADER_NAMES), json_values, max_size=4), st.sampled_from(list(STRANGERS)))
def test_no_header_gets_a_stranger_in(fields: dict[str, Any], algorithm: str) -> None:
    refused(assemble(header(**{"alg": algorithm, **fields}), payload(), algorithm, STRANGERS[algorithm]))


CLAIM_NAMES = ["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "relay"]


@settings(max_examples=examples(300, 25_000))
@given(st.dictionaries(st.sampled_from(CLAIM_NAMES), json_values, min_size=1, max_size=4))
def test_claims_of_any_kind_are_either_sound_or_refused(changes: dict[str, Any]) -> None:
    """Rightly signed, so that all the checks of claims are reached."""
    one, token = verifier(), sign(claims(**changes))
    try:
        found = one.verify(token, NOW)
    except Rejected:
        refused(token)
        return
    assert isinstance(found.subject, str)
    assert found.subject
    assert not any(character < " " for character in found.subject)
    assert found.expires + 10.0 > NOW
    assert "aud" not in changes
    assert not found.grants.may_use_channel("control")


@settings(max_examples=examples(200, 25_000))
@given(st.binary(max_size=300) | st.text(max_size=100) | st.lists(st.binary(max_size=40), min_size=3, max_size=3))
def test_garbage_is_refused(garbage: bytes | str | list[bytes]) -> None:
    refused(".".join(map(b64, garbage)) if isinstance(garbage, list) else garbage)
