"""What a verifier asks of a token, claim by claim, and what it remembers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from relay.auth.refusals import TOKEN_CODES, UnknownKey
from relay.auth.tokens import MAX_TOKEN_BYTES, Identity, Verifier
from relay.config import schema
from relay.errors import CloseCode, ConfigError, Rejected
from tests.unit.auth.kit import ALGORITHMS, NOW, Keys, auth, claims, keys, sign


def verifier(**changes: Any) -> Verifier:
    return Verifier(keys("HS256"), auth(**changes))


def verify(token: str | bytes, now: float = NOW, **settings: Any) -> Identity:
    return verifier(**settings).verify(token, now)


def refusal(token: str | bytes, now: float = NOW, **settings: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        verify(token, now, **settings)
    found = caught.value
    assert found.status == 401
    assert found.code in TOKEN_CODES
    return found


def code(token: str | bytes, now: float = NOW, **settings: Any) -> str:
    return refusal(token, now, **settings).code


def test_a_good_token_says_who_what_and_until_when() -> None:
    token = sign(claims(jti="7", iss="https://login.example"))
    for form in (token, token.encode()):
        ann = verify(form)
        assert (ann.subject, ann.expires, ann.jti, ann.issuer) == ("ann", NOW + 600, "7", "https://login.example")
        assert ann.grants.may_join("chat:a")
        assert ann.digest == hashlib.sha256(token.encode()).digest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_understood_with_and_without_a_kid(algorithm: str) -> None:
    named = Verifier(keys(algorithm, kid="k1"), auth())
    assert named.verify(sign(claims(), algorithm, kid="k1"), NOW).subject == "ann"
    assert named.verify(sign(claims(), algorithm), NOW).subject == "ann"


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519_are_one_algorithm(algorithm: str, name: str) -> None:
    assert Verifier(keys(algorithm), auth()).verify(sign(claims(), name), NOW).subject == "ann"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_usual_types_are_accepted(kind: str) -> None:
    assert verify(sign(claims(), typ=kind)).subject == "ann"


# Time


def test_a_token_without_exp_is_refused() -> None:
    assert code(sign(claims(exp=...))) == "token_no_expiry"


def test_a_token_ends_at_exp_and_not_before_the_leeway_is_over() -> None:
    token = sign(claims(exp=NOW))
    assert verify(token, NOW + 9.9).expires == NOW
    assert code(token, NOW + 10.0) == "token_expired"
    assert refusal(token, NOW, leeway=0.0).setting == "auth.leeway"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused_beyond_the_leeway(claim: str) -> None:
    assert verify(sign(claims(**{claim: NOW + 10.0}))).subject == "ann"
    assert code(sign(claims(**{claim: NOW + 10.5}))) == "token_not_yet_valid"


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", [True, False, None, "1790000600", [], {}, 10**4000, -(10**4000), 1e300, 10**12], ids=str
)
def test_a_time_that_is_none_is_refused(claim: str, value: object) -> None:
    assert code(sign(claims(**{claim: value}))) == "token_bad_claim"


@pytest.mark.parametrize("exp", [0, -1, -1e9, 0.5])
def test_a_time_long_past_is_past(exp: float) -> None:
    assert code(sign(claims(exp=exp))) == "token_expired"


def test_a_fraction_of_a_second_is_a_time() -> None:
    assert verify(sign(claims(exp=NOW + 0.25))).expires == NOW + 0.25


def test_a_lifetime_may_be_bounded() -> None:
    token = sign(claims(exp=NOW + 600))
    assert verify(token, max_lifetime=600.0).subject == "ann"
    assert verify(token, NOW - 10, max_lifetime=600.0).subject == "ann"
    found = refusal(token, NOW - 11, max_lifetime=600.0)
    assert (found.code, found.setting) == ("token_too_long_lived", "auth.max_lifetime")


def test_a_token_that_was_made_for_too_long_does_not_become_good_by_waiting() -> None:
    token = sign(claims(iat=NOW - 86400, exp=NOW + 60))
    assert refusal(token, max_lifetime=3600.0).code == "token_too_long_lived"
    assert verify(sign(claims(iat=NOW - 3540, exp=NOW + 60)), max_lifetime=3600.0).issued == NOW - 3540
    assert verify(sign(claims(iat=NOW + 5, exp=NOW + 3600)), max_lifetime=3600.0).subject == "ann"


# Issuer and audience


@pytest.mark.parametrize(
    "issuer", [..., None, "https://other.example", ["https://login.example"], "HTTPS://login.example"]
)
def test_a_required_issuer_has_to_be_there_exactly(issuer: object) -> None:
    found = refusal(sign(claims(iss=issuer)), issuer="https://login.example")
    assert (found.code, found.setting) == ("token_wrong_issuer", "auth.issuer")


def test_the_required_issuer_is_accepted() -> None:
    assert verify(sign(claims(iss="me")), issuer="me").issuer == "me"


@pytest.mark.parametrize("audience", ["relay", ["other", "relay"]])
def test_the_required_audience_is_accepted(audience: object) -> None:
    assert verify(sign(claims(aud=audience)), audience="relay").subject == "ann"


@pytest.mark.parametrize("audience", [..., None, "other", "relay2", [], ["other"], [["relay"]], {"relay": 1}, 7, True])
def test_a_required_audience_has_to_be_among_those_named(audience: object) -> None:
    found = refusal(sign(claims(aud=audience)), audience="relay")
    assert (found.code, found.setting) == ("token_wrong_audience", "auth.audience")


@pytest.mark.parametrize("audience", ["relay", [], None])
def test_a_token_for_an_audience_is_refused_where_none_is_configured(audience: object) -> None:
    assert code(sign(claims(aud=audience))) == "token_wrong_audience"


# Subject and other texts


@pytest.mark.parametrize("subject", [..., None, ""])
def test_a_token_without_a_subject_is_refused(subject: object) -> None:
    assert code(sign(claims(sub=subject))) == "token_no_subject"


@pytest.mark.parametrize(
    "subject",
    [7, True, [], {}, "a\nb", "a\x00", "\x7f", "a\x85", "a\u2028", "a\u202eb", "a\ud800", "x" * 256, "é" * 128],
)
def test_a_subject_that_would_harm_a_log_is_refused(subject: object) -> None:
    assert code(sign(claims(sub=subject))) == "token_bad_subject"


@pytest.mark.parametrize("subject", ["a", "Ann Lee", "auth0|123", "urn:user:5", "日本", "x" * 255, "*", "{sub}"])
def test_other_subjects_are_texts_as_they_are(subject: str) -> None:
    assert verify(sign(claims(sub=subject, relay={}))).subject == subject


def test_the_subject_may_be_in_another_claim() -> None:
    names = schema.Claims(subject="email", grants="https://app.example/relay")
    token = sign(claims(sub="7", email="ann@example", **{"https://app.example/relay": {"join": ["a"]}}))
    ann = verify(token, claims=names)
    assert ann.subject == "ann@example"
    assert ann.grants.may_join("a")
    assert not ann.grants.may_join("chat:a")
    assert code(sign(claims()), claims=names) == "token_no_subject"


@pytest.mark.parametrize("claim", ["jti", "iss"])
@pytest.mark.parametrize("value", [7, [], {}, "a\nb", "a\ud800", "x" * 256])
def test_a_claim_that_is_kept_is_a_clean_text(claim: str, value: object) -> None:
    assert code(sign(claims(**{claim: value}))) == "token_bad_claim"


# Grants


def test_a_token_without_grants_gets_the_default_ones() -> None:
    table = schema.Grants(join=["room:{sub}"])
    ann = verify(sign(claims(relay=...)), default_grants=table)
    assert ann.grants.may_join("room:ann")
    assert not ann.grants.may_join("chat:a")


def test_a_token_with_grants_gets_those_alone() -> None:
    ann = verify(sign(claims(relay={})), default_grants=schema.Grants(join=["*"]))
    assert not ann.grants.may_join("chat:a")


@pytest.mark.parametrize("grants", [None, [], "join", {"join": "chat:*"}, {"sudo": ["*"]}])
def test_grants_that_cannot_be_understood_are_refused(grants: object) -> None:
    found = refusal(sign(claims(relay=grants)))
    assert (found.code, found.setting) == ("token_bad_grants", "auth.claims.grants")


def test_default_grants_that_cannot_be_understood_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"auth\.default_grants: join has a pattern"):
        verifier(default_grants=schema.Grants(join=["a*b"]))


def test_a_subject_that_fails_the_default_grants_is_told_which_setting_it_was() -> None:
    found = refusal(sign(claims(sub="Ann Lee", relay=...)), default_grants=schema.Grants(join_at_start=["user:{sub}"]))
    assert (found.code, found.setting) == ("token_bad_grants", "auth.default_grants")


# Keys


def test_a_kid_that_is_not_known_is_said_so_that_keys_may_be_fetched() -> None:
    with pytest.raises(UnknownKey) as caught:
        Verifier(keys("HS256", kid="old"), auth()).verify(sign(claims(), kid="new"), NOW)
    assert caught.value.kid == "new"
    assert (caught.value.code, caught.value.setting) == ("token_unknown_key", "auth.keys")
    assert "new" not in caught.value.reason


def test_a_token_without_a_kid_before_the_first_fetch_may_wait_for_it_too() -> None:
    settings = auth(jwks=schema.JWKS(url="https://keys.example"))
    with pytest.raises(UnknownKey) as caught:
        Verifier(keys(), settings).verify(sign(claims()), NOW)
    assert caught.value.kid is None
    assert caught.value.setting == "auth.jwks"


@pytest.mark.parametrize("algorithm", ["none", "HS1", "ES256K", "RS512"])
def test_fetching_keys_does_not_help_a_known_kid_of_another_algorithm(algorithm: str) -> None:
    with pytest.raises(Rejected) as caught:
        Verifier(keys("HS256", kid="k"), auth()).verify(sign(claims(), alg=algorithm, kid="k"), NOW)
    assert not isinstance(caught.value, UnknownKey)
    assert caught.value.code == "token_wrong_algorithm"


def test_all_keys_of_the_algorithm_are_tried_without_a_kid() -> None:
    other = keys("HS256").keys[0].make("other", "HS256", b"z" * 32)
    mine = keys("HS256", kid="mine").keys[0]
    ring = type(keys())([other, mine])
    assert Verifier(ring, auth()).verify(sign(claims()), NOW).subject == "ann"
    with pytest.raises(Rejected, match="signature is wrong"):
        Verifier(ring, auth()).verify(sign(claims(), kid="other"), NOW)


# The cache


def test_a_verified_token_is_remembered_and_still_ends_in_time() -> None:
    one = verifier()
    token = sign(claims(exp=NOW + 5))
    first = one.verify(token, NOW)
    assert one.verify(token, NOW + 14.9) is first
    with pytest.raises(Rejected, match="token_expired"):
        one.verify(token, NOW + 15.0)
    assert one.cached() == 0


def test_a_remembered_token_is_not_valid_before_its_time_when_the_clock_goes_back() -> None:
    one = verifier()
    token = sign(claims(nbf=NOW))
    one.verify(token, NOW)
    with pytest.raises(Rejected, match="token_not_yet_valid"):
        one.verify(token, NOW - 11)
    assert one.verify(token, NOW).subject == "ann"


def test_the_least_recently_used_token_is_forgotten_first() -> None:
    one = verifier(cache_tokens=2)
    a, b, c = (sign(claims(sub=subject)) for subject in "abc")
    first = one.verify(a, NOW)
    second = one.verify(b, NOW)
    assert one.verify(a, NOW) is first
    one.verify(c, NOW)
    assert one.cached() == 2
    assert one.verify(a, NOW) is first
    assert one.verify(b, NOW) is not second


def test_nothing_is_remembered_where_the_cache_is_off() -> None:
    one = verifier(cache_tokens=0)
    token = sign(claims())
    assert one.verify(token, NOW) is not one.verify(token, NOW)
    assert one.cached() == 0


def test_a_refused_token_is_not_remembered() -> None:
    one = verifier()
    for token in ("garbage", sign(claims(exp=1)), sign(claims())[:-4] + "AAAA"):
        with pytest.raises(Rejected):
            one.verify(token, NOW)
    assert one.cached() == 0


def test_a_key_taken_away_takes_its_tokens_with_it() -> None:
    ring = Keys(keys("HS256", "HS384"))
    one = Verifier(ring, auth())
    token = sign(claims())
    assert one.verify(token, NOW) is one.verify(token, NOW)
    ring.now = keys("HS384")
    with pytest.raises(Rejected):
        one.verify(token, NOW)
    ring.now = keys("HS256")
    assert one.verify(token, NOW).subject == "ann"


# What is said


def test_no_token_is_answered_with_a_bare_challenge() -> None:
    for nothing in ("", b""):
        found = refusal(nothing)
        assert found.code == "token_missing"
        assert found.headers == (("WWW-Authenticate", 'Bearer realm="relay"'),)
        assert found.close_code == CloseCode.UNAUTHORIZED


def test_a_bad_token_is_answered_with_the_error_and_its_description() -> None:
    found = refusal(sign(claims(exp=1)))
    challenge = 'Bearer realm="relay", error="invalid_token", error_description="the token has expired"'
    assert found.headers == (("WWW-Authenticate", challenge),)


def test_a_token_of_8_kib_is_read_and_one_of_a_byte_more_is_not() -> None:
    empty = len(sign(json.dumps(claims(pad="")).encode()))
    padding = (MAX_TOKEN_BYTES - empty) * 3 // 4
    assert verify(sign(claims(pad="x" * (padding - 4)))).subject == "ann"
    assert code(sign(claims(pad="x" * (padding + 8)))) == "token_too_large"


def test_every_setting_named_in_a_refusal_exists() -> None:
    for setting in filter(None, (setting for _, setting in TOKEN_CODES.values())):
        table: Any = schema.Config()
        for part in setting.split("."):
            table = getattr(table, part)


def test_the_docs_explain_every_code() -> None:
    text = (Path(__file__).parents[3] / "docs" / "tokens.md").read_text()
    for name, (reason, setting) in TOKEN_CODES.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}`")), "")
        assert reason in row, name
        assert setting is None or f"`{setting}`" in row, name


def of_tenants(*tenants: str, taken: tuple[str, ...] = ()) -> Verifier:
    return Verifier(keys("HS256"), auth(), tenants=tenants, taken=taken)


def test_of_several_tenants_the_claim_says_which_and_nothing_else_will_do() -> None:
    one = of_tenants("acme", "globex")
    name = auth().claims.tenant
    assert one.verify(sign(claims(**{name: "globex"})), NOW).tenant == "globex"
    for wrong in ("", "other", "ACME", 5, ["acme"], None, ...):
        with pytest.raises(Rejected) as caught:
            one.verify(sign(claims(**{name: wrong})), NOW)
        assert caught.value.code == "token_wrong_tenant"


def test_an_issuer_of_one_tenant_need_not_name_it() -> None:
    assert of_tenants("acme").verify(sign(claims()), NOW).tenant == "acme"


def test_a_subject_that_begins_as_those_of_another_issuer_is_refused() -> None:
    one = of_tenants("", taken=("partner:",))
    assert one.verify(sign(claims(sub="partners")), NOW).subject == "partners"
    with pytest.raises(Rejected) as caught:
        one.verify(sign(claims(sub="partner:ann")), NOW)
    assert caught.value.code == "token_bad_subject"


@pytest.mark.parametrize("audience", ["", [""], ["", "x"], []])
def test_a_token_for_nobody_in_particular_is_not_for_a_relay_without_a_name(audience: object) -> None:
    assert refusal(sign(claims(aud=audience))).code == "token_wrong_audience"
