"""Tokens that are twisted in their header, payload or form, also rightly signed ones: each is refused.

Sources: RFC 8725 sections 2 and 3, RFC 7515 section 4, and what has gone wrong in JWT libraries. Keys are made here.
"""

from __future__ import annotations

import json
import string

import pytest

from tests.security.tokens import GOOD, header, payload, refused
from tests.unit.auth.kit import assemble, claims, sign

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
