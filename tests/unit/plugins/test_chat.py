"""What one says, all others in the room hear."""

from __future__ import annotations

from plugins.chat import Chat
from relay.plugin.testing import PluginTester


async def test_all_others_in_the_room_hear_it_and_nobody_else() -> None:
    async with PluginTester(Chat, rooms="chat:*") as tester:
        ann, bob, carl = [await tester.join("chat:a", name) for name in ("ann", "bob", "carl")]
        dora = await tester.join("chat:b", "dora")
        await ann.publish("hi")
        assert [member.received for member in (ann, bob, carl, dora)] == [[], ["hi"], ["hi"], []]
        assert bob.messages[0].sender == "ann"


async def test_the_senders_other_connections_hear_it() -> None:
    async with PluginTester(Chat) as tester:
        here, there = await tester.join("a", "ann"), await tester.join("a", "ann")
        await here.publish("hi")
        assert (here.received, there.received) == ([], ["hi"])


async def test_the_sender_hears_itself_only_if_it_asks_to() -> None:
    async with PluginTester(Chat) as tester:
        ann = await tester.join("a", "ann")
        await ann.publish("one", echo=True)
        await ann.publish("two")
        assert ann.received == ["one"]


async def test_a_message_may_be_for_one_subject_alone() -> None:
    async with PluginTester(Chat, history=5) as tester:
        ann, bob, carl = [await tester.join("a", name) for name in ("ann", "bob", "carl")]
        await ann.publish("psst", to="bob")
        assert (bob.received, carl.received) == (["psst"], [])
        assert (await tester.join("a", "dora", last=5)).received == []


async def test_channel_and_key_are_kept() -> None:
    async with PluginTester(Chat) as tester:
        ann, bob = await tester.join("a", "ann"), await tester.join("a", "bob")
        await ann.publish("now", channel="urgent", key="k")
        assert (bob.messages[0].channel, bob.messages[0].key) == ("urgent", "k")


async def test_who_comes_later_gets_what_the_table_remembers() -> None:
    async with PluginTester(Chat, history=2) as tester:
        ann = await tester.join("a", "ann")
        for text in ("one", "two", "three"):
            await ann.publish(text)
        assert (await tester.join("a", "bob", last=100)).received == ["two", "three"]
