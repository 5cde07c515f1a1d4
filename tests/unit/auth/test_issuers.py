"""Several issuers: each token is checked by the keys and rules of the issuer it names, and by no other's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from relay.auth.issuers import Issuers
from relay.auth.keys import KeySet, VerificationKey
from relay.auth.refusals import UnknownKey
from relay.auth.tokens import Verifier
from relay.config import schema
from relay.errors import ConfigError, Rejected
from tests.unit.auth.kit import NOW, RSA_KEY, Keys, assemble, claims, keys, sign

ACME, GLOBEX = "https://login.acme.example", "https://globex.example"
GRANTS = "auth.issuers.globex.claims.grants"
OTHER_SECRET = b"another secret, as long as it takes, and nobody's but this one's"


def issuer(iss: str, **changes: Any) -> schema.Issuer:
    return schema.Issuer(issuer=iss, **changes)


def issuers(default: bool = False, acme: dict[str, Any] | None = None, globex: dict[str, Any] | None = None) -> Issuers:
    """acme signs with an HMAC secret, globex with RSA, `auth` itself with another secret: all with the kid 1."""
    auth = schema.Auth(
        keys=[schema.Key(algorithm="HS256", secret=OTHER_SECRET.decode())] if default else [],
        audience="",
        issuers={"acme": issuer(ACME, **(acme or {})), "globex": issuer(GLOBEX, **(globex or {}))},
    )
    verifiers = {
        "acme": Verifier(keys("HS256", kid="1"), auth.issuers["acme"], "acme"),
        "globex": Verifier(keys("RS256", kid="1"), auth.issuers["globex"], "globex"),
    }
    if default:
        ours = KeySet([VerificationKey.make("1", "HS256", OTHER_SECRET)])
        verifiers[""] = Verifier(ours, auth, taken=schema.taken_subjects(auth, {})[""])
    return Issuers(auth, verifiers)


def refusal(found: Issuers, token: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        found.verify(token, NOW)
    assert caught.value.status == 401
    return caught.value


def test_a_token_is_checked_by_the_keys_of_the_issuer_it_names() -> None:
    ann = issuers().verify(sign(claims(iss=ACME), "HS256", kid="1"), NOW)
    bob = issuers().verify(sign(claims(iss=GLOBEX, sub="bob"), "RS256", kid="1"), NOW)
    assert (ann.subject, ann.issuer, ann.trusted) == ("ann", ACME, "acme")
    assert (bob.subject, bob.issuer, bob.trusted) == ("bob", GLOBEX, "globex")


@pytest.mark.parametrize("kid", ["1", ...])
def test_no_issuer_can_sign_for_another_whatever_kid_it_names(kid: Any) -> None:
    header = {} if kid is ... else {"kid": kid}
    forged = sign(claims(iss=GLOBEX), "HS256", **header), sign(claims(iss=ACME), "RS256", **header)
    for token in forged:
        assert refusal(issuers(), token).code in ("token_wrong_algorithm", "token_unknown_key")


def test_a_public_key_of_one_issuer_is_no_secret_of_another() -> None:
    """RFC 8725 section 2.1: the public key, which everybody has, as an HMAC secret."""
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for iss in (ACME, GLOBEX):
        header = json.dumps({"typ": "JWT", "alg": "HS256", "kid": "1"}).encode()
        token = assemble(header, json.dumps(claims(iss=iss)).encode(), "HS256", key=pem.strip())
        assert refusal(issuers(), token).code in ("token_wrong_algorithm", "token_bad_signature")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS512", "RS256", "ES256"])
def test_an_algorithm_that_is_no_key_s_of_the_named_issuer_is_refused(algorithm: str) -> None:
    token = sign(claims(iss=ACME), "HS256", alg=algorithm, kid="1")
    assert refusal(issuers(), token).code == "token_wrong_algorithm"


@pytest.mark.parametrize("iss", ["https://nobody.example", ACME + "/", ACME.upper(), "", None, 7, [ACME], {}, ...])
def test_an_issuer_that_is_not_configured_has_no_keys(iss: object) -> None:
    found = refusal(issuers(), sign(claims(iss=iss), "HS256", kid="1"))
    assert (found.code, found.setting) == ("token_wrong_issuer", "auth.issuers")


def test_the_issuer_without_a_name_takes_what_no_other_does_and_signs_for_none_of_them() -> None:
    found = issuers(default=True)
    header = json.dumps({"typ": "JWT", "alg": "HS256", "kid": "1"}).encode()

    def ours(**changes: Any) -> str:
        return assemble(header, json.dumps(claims(**changes)).encode(), "HS256", key=OTHER_SECRET)

    assert found.verify(ours(), NOW).trusted == ""
    assert found.verify(ours(iss="https://elsewhere.example"), NOW).trusted == ""
    assert refusal(found, ours(iss=ACME)).code == "token_bad_signature"
    assert refusal(found, sign(claims(), "HS256", kid="1")).code == "token_bad_signature"


def test_a_name_that_comes_twice_chooses_nobody() -> None:
    body = json.dumps(claims(iss=ACME)).encode()[:-1] + b',"iss":"' + GLOBEX.encode() + b'"}'
    assert refusal(issuers(), sign(body, "HS256", kid="1")).code == "token_malformed"


def test_what_is_cached_for_one_issuer_is_known_to_no_other() -> None:
    found = issuers()
    token = sign(claims(iss=ACME), "HS256", kid="1")
    found.verify(token, NOW)
    with pytest.raises(Rejected):
        found.verifiers["globex"].verify(token, NOW)


def test_new_keys_of_one_issuer_leave_the_others_cache_alone() -> None:
    ring = Keys(keys("HS256", kid="1"))
    auth = schema.Auth(keys=[], issuers={"acme": issuer(ACME), "globex": issuer(GLOBEX)})
    acme = Verifier(ring, auth.issuers["acme"], "acme", cache_tokens=10)
    globex = Verifier(keys("RS256", kid="1"), auth.issuers["globex"], "globex", cache_tokens=10)
    found = Issuers(auth, {"acme": acme, "globex": globex})
    tokens = sign(claims(iss=ACME), "HS256"), sign(claims(iss=GLOBEX), "RS256")
    for token in tokens:
        found.verify(token, NOW)
    ring.now = keys("HS384", kid="1")
    with pytest.raises(Rejected):
        found.verify(tokens[0], NOW)
    assert (acme.cached(), globex.cached()) == (0, 1)


def test_an_unknown_key_says_whose_it_would_be() -> None:
    with pytest.raises(UnknownKey) as caught:
        issuers().verify(sign(claims(iss=GLOBEX), "RS256", kid="2"), NOW)
    assert (caught.value.issuer, caught.value.kid) == ("globex", "2")


def test_before_the_signature_is_right_a_refusal_names_no_issuer_s_table() -> None:
    for token in (sign(claims(iss=GLOBEX), "RS256", kid="2"), sign(claims(iss=GLOBEX), "HS256", kid="1")):
        assert refusal(issuers(), token).setting == "auth.issuers"


def test_each_issuer_has_rules_of_its_own_and_a_refusal_names_them() -> None:
    found = issuers(
        acme={"audience": "relay", "leeway": 0.0, "claims": schema.Claims(subject="user")},
        globex={"max_lifetime": 60.0},
    )
    assert found.verify(sign(claims(iss=ACME, aud="relay", user="ann"), kid="1"), NOW).subject == "ann"
    cases = [
        (sign(claims(iss=ACME, user="ann"), kid="1"), "token_wrong_audience", "auth.issuers.acme.audience"),
        (sign(claims(iss=ACME, aud="relay"), kid="1"), "token_no_subject", "auth.issuers.acme.claims.subject"),
        (sign(claims(iss=ACME, exp=int(NOW) - 1)), "token_expired", "auth.issuers.acme.leeway"),
        (sign(claims(iss=GLOBEX), "RS256"), "token_too_long_lived", "auth.issuers.globex.max_lifetime"),
        (sign(claims(iss=GLOBEX, exp=NOW + 9, relay=7), "RS256"), "token_bad_grants", GRANTS),
    ]  # fmt: skip
    for token, code, setting in cases:
        assert (refusal(found, token).code, refusal(found, token).setting) == (code, setting)


# Rooms.


def confined(**grants: list[str]) -> Any:
    found = issuers(acme={"room_prefix": "acme:"})
    return found.verify(sign(claims(iss=ACME, relay=grants)), NOW).grants


@pytest.mark.parametrize(
    "pattern", ["*", "acme:*", "{sub}:*", "*:lobby", "acm*", "globex:*", "globex:lobby", "acme:lobby"]
)
def test_no_grant_reaches_beyond_the_prefix_of_its_issuer(pattern: str) -> None:
    found = confined(join=[pattern], publish=[pattern], presence=[pattern], history=[pattern], call=[pattern])
    for may in (found.may_join, found.may_publish, found.may_see, found.may_read_history, found.may_call):
        for room in ("globex:lobby", "acme", "acmes:lobby", "lobby", "ann:x", "Acme:lobby", "x:acme:lobby"):
            assert not may(room)


def test_within_the_prefix_grants_say_what_they_say() -> None:
    found = confined(join=["*"], publish=["acme:chat:*"], join_at_start=["acme:start"])
    assert found.may_join("acme:lobby")
    assert found.may_publish("acme:chat:a")
    assert not found.may_publish("acme:lobby")
    assert found.join_at_start == ("acme:start",)


def test_a_room_to_start_in_must_lie_within_the_prefix() -> None:
    with pytest.raises(Rejected, match="not under the prefix"):
        confined(join_at_start=["globex:start"])


def test_default_grants_that_leave_the_prefix_are_found_at_the_start() -> None:
    settings = issuer(ACME, room_prefix="acme:", default_grants=schema.Grants(join_at_start=["lobby"]))
    with pytest.raises(ConfigError, match=r"auth\.issuers\.acme\.default_grants"):
        Verifier(keys("HS256"), settings, "acme")


@given(
    st.text(st.sampled_from("ab:*{}"), min_size=1, max_size=12),
    st.text(st.sampled_from("ab:"), max_size=8),
    st.sampled_from(["ann", "a:b", "*", "b:"]),
)
def test_whatever_the_pattern_and_the_subject_a_room_outside_is_never_granted(
    pattern: str, room: str, subject: str
) -> None:
    found = issuers(acme={"room_prefix": "a:"})
    try:
        grants = found.verify(sign(claims(iss=ACME, sub=subject, relay={"join": [pattern]})), NOW).grants
    except Rejected:
        return
    assert not grants.may_join(room) or room.startswith("a:")


# Subjects.


def test_subjects_get_their_prefix_and_grants_see_it() -> None:
    found = issuers(acme={"subject_prefix": "acme:"})
    ann = found.verify(sign(claims(iss=ACME, relay={"join": ["user:{sub}"]})), NOW)
    assert ann.subject == "acme:ann"
    assert ann.grants.may_join("user:acme:ann")
    assert not ann.grants.may_join("user:ann")


def test_a_subject_cannot_pretend_to_be_one_of_another_issuer() -> None:
    found = issuers(default=True, acme={"subject_prefix": "acme:"})
    header = json.dumps({"typ": "JWT", "alg": "HS256"}).encode()
    token = assemble(header, json.dumps(claims(sub="acme:ann")).encode(), "HS256", key=OTHER_SECRET)
    assert refusal(found, token).code == "token_bad_subject"


def test_a_prefix_counts_against_the_longest_subject() -> None:
    found = issuers(acme={"subject_prefix": "acme:"})
    assert refusal(found, sign(claims(iss=ACME, sub="x" * 251))).code == "token_bad_subject"
    assert len(found.verify(sign(claims(iss=ACME, sub="x" * 250)), NOW).subject) == 255
