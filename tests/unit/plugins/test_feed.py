"""Few publish, many read."""

from __future__ import annotations

import pytest

from plugins.feed import Feed
from relay.errors import ConfigError, Refused
from relay.plugin.testing import PluginTester


async def test_readers_hear_a_publisher() -> None:
    async with PluginTester(Feed, settings={"publishers": ["newsroom"]}) as tester:
        news = await tester.join("feed:a", "newsroom")
        readers = [await tester.join("feed:a", f"reader{number}", may_publish=False) for number in range(3)]
        await news.publish({"headline": "rain"})
        assert [reader.received for reader in readers] == [[{"headline": "rain"}]] * 3


async def test_only_publishers_publish() -> None:
    async with PluginTester(Feed, name="news", settings={"publishers": ["newsroom"]}) as tester:
        ann = await tester.join("feed:a", "ann")
        with pytest.raises(Refused) as caught:
            await ann.publish("me too")
        assert (caught.value.code, caught.value.setting) == ("forbidden", "plugins.news.publishers")


async def test_without_a_list_the_token_alone_decides() -> None:
    async with PluginTester(Feed) as tester:
        ann, bob = await tester.join("feed:a", "ann"), await tester.join("feed:a", "bob", may_publish=False)
        await ann.publish("hi")
        assert bob.received == ["hi"]


async def test_the_latest_message_can_be_asked_for_without_history() -> None:
    async with PluginTester(Feed) as tester:
        ann = await tester.join("feed:a", "ann")
        assert await ann.call("last") is None
        for data in ("one", {"two": 2}):
            await ann.publish(data)
        late = await tester.join("feed:a", "late")
        assert late.received == []
        assert await late.call("last") == {"two": 2}


async def test_what_was_said_to_one_is_not_told_to_others() -> None:
    async with PluginTester(Feed) as tester:
        ann = await tester.join("feed:a", "ann")
        await ann.publish("to all")
        await ann.publish("psst", to="bob")
        assert await ann.call("last") == "to all"


async def test_another_method_is_refused() -> None:
    async with PluginTester(Feed) as tester:
        ann = await tester.join("feed:a", "ann")
        with pytest.raises(Refused, match="no_such_method"):
            await ann.call("first")


def test_publishers_is_a_list() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.feed\.publishers: expected a list, got a string"):
        PluginTester(Feed, settings={"publishers": "newsroom"})
