"""What a configuration says about who may connect, compiled: one verifier, key cache and fetcher for each issuer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import trio

from relay.auth.refusals import UnknownKey
from relay.config.loader import load
from relay.errors import ConfigError
from relay.front.state import Rules
from relay.process.reload import KeyRefresh
from tests.unit.auth.kit import claims, sign

ISSUERS = """
[auth.issuers.acme]
issuer = "https://acme.example"
jwks.url = "https://acme.example/keys"
[auth.issuers.globex]
issuer = "https://globex.example"
subject_prefix = "globex:"
jwks.url = "https://globex.example/keys"
"""


def rules(folder: Path, text: str = ISSUERS) -> Rules:
    path = folder / "config.toml"
    path.write_text(text)
    return Rules(load(path, environ={}))


def token_of(issuer: str) -> str:
    return sign(claims(iss=f"https://{issuer}.example", exp=int(time.time()) + 60), "RS256", kid="1")


class Fetcher:
    """In the place of a JwksFetcher."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.running = 0

    async def wait_for_kid(self, kid: str | None) -> bool:
        self.asked.append(kid)
        await trio.sleep(1)
        return False

    async def keep_fresh(self) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1


def test_each_issuer_has_a_key_cache_of_its_own(tmp_path: Path) -> None:
    found = rules(tmp_path)
    assert list(found.jwks) == ["acme", "globex"]
    assert found.jwks["acme"] is not found.jwks["globex"]
    found.jwks["acme"].begin(0.0)
    found.jwks["acme"].fail("no answer")
    assert not found.jwks["acme"].ask_early(1.0)
    assert found.jwks["globex"].ask_early(1.0), "the back-off of one issuer holds up another"


async def test_a_token_with_an_unknown_key_asks_its_own_issuer_only(tmp_path: Path, autojump_clock: object) -> None:
    found = rules(tmp_path)
    acme, globex = Fetcher(), Fetcher()
    found.fetchers = {"acme": acme, "globex": globex}  # type: ignore[dict-item]
    with pytest.raises(UnknownKey):
        await found.identify(token_of("globex"), 5.0)
    assert (acme.asked, globex.asked) == ([], ["1"])


async def test_a_fetch_is_waited_for_no_longer_than_authentication_may_take(
    tmp_path: Path, autojump_clock: object
) -> None:
    found = rules(tmp_path)
    found.fetchers = {"acme": Fetcher()}  # type: ignore[dict-item]
    before = trio.current_time()
    with pytest.raises(UnknownKey):
        await found.identify(token_of("acme"), 0.25)
    assert trio.current_time() - before == 0.25


async def test_all_issuers_keys_are_fetched_and_after_a_reload_by_others(
    tmp_path: Path, autojump_clock: object
) -> None:
    old, new = rules(tmp_path), rules(tmp_path)
    before, after = [Fetcher(), Fetcher()], [Fetcher()]
    old.fetchers = dict(zip(("acme", "globex"), before, strict=True))  # type: ignore[arg-type]
    new.fetchers = {"acme": after[0]}  # type: ignore[dict-item]
    refresh = KeyRefresh()
    async with trio.open_nursery() as nursery:
        refresh.begin(nursery, old)
        await trio.sleep(1)
        assert [one.running for one in before] == [1, 1]
        refresh.again(new)
        await trio.sleep(1)
        assert [one.running for one in before + after] == [0, 0, 1]
        nursery.cancel_scope.cancel()


def test_what_is_wrong_with_any_issuer_is_told_of_all(tmp_path: Path) -> None:
    text = ISSUERS.replace("url = ", "file = ").replace("https://acme.example/keys", "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"keys": []}))
    with pytest.raises(ConfigError) as caught:
        rules(tmp_path, text.replace("https://globex.example/keys", "b.json"))
    assert [problem.key for problem in caught.value.problems] == [
        "auth.issuers.acme.jwks.file",
        "auth.issuers.globex.jwks.file",
    ]
