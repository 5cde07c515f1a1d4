"""Channels: ranked once, so that an index tells the order of sending."""

from __future__ import annotations

import pytest

from relay.config.schema import Channel, default_channels
from relay.delivery.channels import Channels, Overflow, Priority
from relay.errors import Refused


def test_lanes_are_ordered_strict_urgent_fair_whatever_the_order_of_the_config() -> None:
    channels = Channels({name: default_channels()[name] for name in ("bulk", "default", "urgent", "state", "control")})
    assert [lane.priority for lane in channels] == sorted(lane.priority for lane in channels)
    assert channels.names == ("control", "urgent", "bulk", "default", "state")
    assert [lane.index for lane in channels] == list(range(len(channels)))


def test_a_lane_carries_its_rule_and_the_config_key_of_its_bound() -> None:
    channels = Channels({**default_channels(), "cursors": Channel(weight=3, capacity=4096, overflow="latest")})
    lane = channels.lanes[channels.index("cursors")]
    assert (lane.name, lane.weight, lane.capacity) == ("cursors", 3, 4096)
    assert (lane.priority, lane.overflow) == (Priority.FAIR, Overflow.LATEST)
    assert lane.setting == "channels.cursors.capacity"


def test_the_two_lanes_the_relay_itself_uses_are_known_by_index() -> None:
    channels = Channels(default_channels())
    assert channels.lanes[channels.control].name == "control"
    assert channels.lanes[channels.default].name == "default"


def test_an_unknown_channel_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(Refused) as caught:
        Channels(default_channels()).index("urgnet")
    assert caught.value.code == "no_such_channel"
    assert caught.value.setting == "channels"
    assert "urgent" in caught.value.message
