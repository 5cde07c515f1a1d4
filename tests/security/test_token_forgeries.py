"""Forged, twisted and malformed tokens: each is refused with a 401 of ours, none is accepted, nothing else is raised.

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

from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import TOKEN_CODES
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.errors import Rejected
from tests.unit.auth.kit import ALGORITHMS, EC_KEYS, ED_KEY, NOW, RSA_KEY, SECRET, assemble, b64, claims, public, sign

KEYS = KeySet(VerificationKey.make(f"key-{name}", name, public(name)) for name in ALGORITHMS)
ASYMMETRIC = [name for name in ALGORITHMS if not name.startswith("HS")]
HEADER = {"typ": "JWT", "alg": "HS256"}
GOOD = sign(claims())


def verifier() -> Verifier:
    return Verifier(KEYS, schema.Auth())


def refused(token: str | bytes) -> str:
    """The code of the refusal. Fails on anything else."""
    with pytest.raises(Rejected) as caught:
        verifier().verify(token, NOW)
    found = caught.value
    assert found.status == 401
    assert found.code in TOKEN_CODES
    text = token if isinstance(token, str) else token.decode("latin-1")
    said = found.reason + "".join(value for _, value in found.headers)
    assert not any(part and len(part) >= 16 and part in said for part in text.split("."))
    return found.code


def header(**fields: Any) -> bytes:
    return json.dumps({**HEADER, **fields}).encode()


def payload(**fields: Any) -> bytes:
    return json.dumps(claims(**fields)).encode()


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


# The header


@pytest.mark.parametrize(
    "crit", [["exp"], ["b64"], [], None, "exp", ["x"], [7], ["b64", "exp"], {"exp": True}, [["exp"]], False]
)
def test_a_critical_extension_is_refused_whatever_it_is(crit: object) -> None:
    assert refused(assemble(header(crit=crit, b64=True, x=1), payload())) == "token_unsupported"
    assert refused(assemble(header(crit=crit), payload())) == "token_unsupported"


@pytest.mark.parametrize("value", [True, False, None, 0, "false"])
def test_an_unencoded_payload_is_refused(value: object) -> None:
    assert refused(assemble(header(b64=value), payload())) == "token_unsupported"


@pytest.mark.parametrize(
    "kind",
    ["JWE", "JWS", "secevent+jwt", "dpop+jwt", "logout+jwt", "id_token", "at+JWS", "", None, 7, [], ["JWT"], "JWT "],
)
def test_a_token_made_for_something_else_is_refused(kind: object) -> None:
    assert refused(assemble(header(typ=kind), payload())) == "token_wrong_type"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"HS256"',
        b"7",
        b'["alg","HS256"]',
        b'{"alg":"HS256"',
        b'{"alg":"HS256",}',
        b"{'alg':'HS256'}",
        b'{"alg":"HS256"}{"alg":"none"}',
        b'{"alg":"HS256"} x',
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","alg":"none"}',
        b'{"alg":"HS256","kid":"a","kid":"key-HS256"}',
        b'{"alg":"HS256","x":{"a":1,"a":2}}',
        b'{"alg":"HS256","x":NaN}',
        b'{"alg":"HS256","x":-Infinity}',
        b'\xef\xbb\xbf{"alg":"HS256"}',
        b'{"alg":"HS256","x":"\xff"}',
        '{"alg":"HS256"}'.encode("utf-16"),
        '{"alg":"HS256"}'.encode("utf-16-le"),
        '{"alg":"HS256"}'.encode("utf-32"),
        b'{"alg":"HS256","x":' + b"[" * 5000,
        b'{"alg":"HS256","x":' + b"[" * 2500 + b"]" * 2500 + b"}",
        b'{"alg":"HS256","x":' + b"9" * 5000 + b"}",
    ],
)
def test_a_header_that_two_parsers_could_read_differently_is_malformed(head: bytes) -> None:
    assert refused(assemble(head, payload())) == "token_malformed"


# The payload, rightly signed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"ann"',
        b"{",
        payload()[:-1],
        payload() + b"}",
        payload() + payload(),
        payload()[:-1] + b',"sub":"bob"}',
        payload()[:-1] + b',"exp":9}',
        payload()[:-1] + b',"x":{"a":1,"a":1}}',
        payload()[:-1] + b',"x":NaN}',
        payload()[:-1] + b',"exp2":Infinity}',
        payload()[:-1] + b',"x":"\xed\xa0\x80"}',
        payload().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + payload(),
        payload()[:-1] + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        payload()[:-1] + b',"x":' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}",
        payload()[:-1] + b',"x":' + b"9" * 5000 + b"}",
        GOOD.encode(),
    ],
)
def test_a_payload_that_is_no_plain_object_is_malformed_even_when_signed(body: bytes) -> None:
    assert refused(assemble(header(), body)) == "token_malformed"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_time_that_is_no_number_is_malformed(number: bytes) -> None:
    body = b'{"sub":"ann","exp":' + number + b"}"
    assert refused(assemble(header(), body)) == "token_malformed"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (b"1e400", "token_bad_claim"),
        (b"1" + b"0" * 4000, "token_bad_claim"),
        (b"-1" + b"0" * 4000, "token_bad_claim"),
        (b'"9999999999"', "token_bad_claim"),
        (b"true", "token_bad_claim"),
        (b"null", "token_bad_claim"),
        (b"[9999999999]", "token_bad_claim"),
        (b"-1", "token_expired"),
        (b"0", "token_expired"),
        (b"-0.0", "token_expired"),
        (b"1e-300", "token_expired"),
    ],
)
def test_an_expiry_of_a_strange_kind_never_lets_anybody_in(number: bytes, code: str) -> None:
    assert refused(assemble(header(), b'{"sub":"ann","exp":' + number + b"}")) == code


@pytest.mark.parametrize("subject", [b'"\\ud800"', b'"a\\u0000"', b'"\\udfff\\ud800"', b'"\\u202e"', b'"a\\r\\nb"'])
def test_a_subject_that_no_log_could_bear_is_refused(subject: bytes) -> None:
    assert refused(assemble(header(), b'{"exp":9999999999,"sub":' + subject + b"}")) == "token_bad_subject"


# The form


@pytest.mark.parametrize(
    "token",
    [
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        GOOD[:-1] + "=",
        GOOD + "=",
        GOOD + "==",
        GOOD + ".",
        "." + GOOD,
        GOOD + "\n",
        " " + GOOD,
        GOOD + " ",
        GOOD + "\x00",
        "Bearer " + GOOD,
        f'"{GOOD}"',
        GOOD.replace(".", ".."),
        GOOD.replace(".", ". "),
        GOOD.replace(".", "\uff0e"),
        GOOD + "é",
        "\ud800." + GOOD,
        GOOD.encode("utf-16"),
        GOOD.encode() + b"\xff",
        "!!.!!.!!",
        json.dumps({"protected": GOOD.split(".")[0], "payload": GOOD.split(".")[1], "signature": GOOD.split(".")[2]}),
    ],
)
def test_what_is_not_in_compact_form_is_malformed(token: str | bytes) -> None:
    assert refused(token) == "token_malformed"


@pytest.mark.parametrize("size", [8193, 100_000, 10_000_000])
def test_what_is_too_large_is_not_even_looked_at(size: int) -> None:
    assert refused("A" * size) == "token_too_large"
    assert refused("." * size) == "token_too_large"
    assert refused("é" * size) == "token_too_large"


def test_a_truncated_token_is_refused_wherever_it_was_cut() -> None:
    for end in range(len(GOOD)):
        refused(GOOD[:end])


def test_a_signature_with_other_bits_in_its_last_character_is_refused() -> None:
    """32 bytes leave two bits over in base64url; a second spelling of a token would evade a list of revoked ones."""
    last = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    for character in last:
        if character != GOOD[-1]:
            assert refused(GOOD[:-1] + character) == "token_bad_signature"


def test_parts_of_good_tokens_do_not_make_another() -> None:
    other = sign(claims(sub="root"), "HS256", kid="key-HS256")
    first, second = GOOD.split("."), other.split(".")
    for pick in range(1, 7):
        mixed = ".".join(pair[pick >> place & 1] for place, pair in enumerate(zip(first, second, strict=True)))
        assert refused(mixed) == "token_bad_signature"


# Anything at all

alphabet = st.sampled_from(string.ascii_letters + string.digits + "-_.=+/ \n\x00é\ud800")


@settings(max_examples=300)
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


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(HEADER_NAMES), json_values, max_size=4), st.sampled_from(list(STRANGERS)))
def test_no_header_gets_a_stranger_in(fields: dict[str, Any], algorithm: str) -> None:
    refused(assemble(header(**{"alg": algorithm, **fields}), payload(), algorithm, STRANGERS[algorithm]))


CLAIM_NAMES = ["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "relay"]


@settings(max_examples=300)
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


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=100) | st.lists(st.binary(max_size=40), min_size=3, max_size=3))
def test_garbage_is_refused(garbage: bytes | str | list[bytes]) -> None:
    refused(".".join(map(b64, garbage)) if isinstance(garbage, list) else garbage)
