"""Metrics: what is exposed is what is counted, and what the docs list is what is exposed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from relay.counters import Counters
from relay.ops.entry import Gauges
from relay.ops.memory import resident_bytes
from relay.ops.metrics import TABLE, exposition
from relay.ops.process_figures import open_descriptors
from relay.plugin.meters import Meter

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"

FULL = Gauges(
    rooms=3,
    members=7,
    published=11,
    delivered=44,
    connections_by_protocol={"plain": 2, "relay.v1.json": 5},
    remembered_bytes=10,
    rooms_asleep=11,
    journal_bytes=12,
    journal_failures=13,
    outbox_bytes={"bulk": 4096, "urgent": 0},
    unsent_bytes=12_000,
    unsent_bytes_most=9_000,
    certificate_expiry={"certs/server.pem": 1_800_000_000.0},
    started_at=1_790_000_000.0,
    loop_lag=0.002,
    ready=True,
    log_lines_lost=0,
    addresses_waiting=0,
    short_of_memory=False,
    revocations=3,
    guests=4,
)


def counted() -> Counters:
    counters = Counters()
    for name in Counters.__slots__:
        if isinstance(getattr(counters, name), int):
            setattr(counters, name, 5)
    counters.tls_failures["timeout"] = 1
    counters.proxy_failures["malformed"] = 1
    counters.tickets["issued"] = 1
    counters.resumes["resumed"] = 2
    counters.http_requests[200] = 2
    counters.api_requests["/api/v1/info", 200] = 2
    counters.rejected["unauthorized"] = 3
    counters.guests["left"] = 2
    counters.closed[1000] = 4
    counters.refused["forbidden"] = 5
    counters.dropped["chat", "bulk", "full"] = 6
    counters.quotas["joins", "refused"] = 12
    counters.plugin_failures["chat"] = 7
    counters.plugin_refusals["chat"] = 8
    counters.plugin_stalls["chat"] = 9
    counters.plugin_waits["chat"] = 4
    counters.reloads["ok"] = 10
    counters.tokens["renewed"] = 12
    counters.urgent_late["urgent"] = 11
    counters.urgent_delays["urgent"].add(0.004)
    return counters


def samples(gauges: Gauges = FULL) -> dict[tuple[str, tuple[str, ...]], float]:
    _, body = exposition(counted(), gauges)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def test_counts_appear_under_their_labels():
    found = samples()
    assert found["relay_connections_closed_total", ("1000",)] == 4
    assert found["relay_messages_dropped_total", ("bulk", "chat", "full")] == 6
    assert found["relay_outbox_bytes", ("bulk",)] == 4096
    assert found["relay_protocol_connections", ("relay.v1.json",)] == 5
    assert found["relay_ready", ()] == 1
    assert found["relay_messages_delivered_total", ()] == 44


def test_every_counter_is_exposed():
    names = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in samples()}
    assert names == {entry.exposed for entry in TABLE}
    for slot in Counters.__slots__:
        counters = counted()
        value = getattr(counters, slot)
        if isinstance(value, int):
            setattr(counters, slot, 4711)
        elif slot == "urgent_delays":
            value["urgent"].total = 4711.0
        else:
            value[next(iter(value))] = 4711
        _, body = exposition(counters, FULL)
        assert b" 4711.0\n" in body, f"nothing shows Counters.{slot}"


def test_a_gauge_nobody_gave_is_not_shown_as_zero():
    names = {name for name, _ in samples(Gauges())}
    assert "relay_rooms" not in names
    assert "relay_certificate_expiry_seconds" not in names
    assert "relay_connections" in names


def test_names_follow_prometheus_rules():
    for entry in TABLE:
        assert re.fullmatch(r"relay_[a-z_]+", entry.exposed)
        assert not entry.name.endswith("_total")
        assert entry.help.endswith(".")
    assert len({entry.name for entry in TABLE}) == len(TABLE)


def test_openmetrics_is_given_to_who_asks_for_it():
    content_type, body = exposition(
        counted(), FULL, accept="application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
    )
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert {family.name for family in parse_openmetrics(body.decode())} == {f"relay_{entry.name}" for entry in TABLE}


@given(st.text())
def test_no_accept_header_breaks_the_exposition(accept: str):
    content_type, body = exposition(Counters(), Gauges(), accept=accept)
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))
    assert b"relay_connections 0.0\n" in body


def test_memory_and_descriptors_are_unknown_where_proc_does_not_tell(tmp_path: Path):
    assert resident_bytes(tmp_path / "no") is None
    assert open_descriptors(tmp_path / "no") is None
    (tmp_path / "odd").write_text("?")
    assert resident_bytes(tmp_path / "odd") is None


def test_descriptors_are_counted(tmp_path: Path):
    before = open_descriptors()
    if before is None:
        pytest.skip("no /proc here")
    with (tmp_path / "one").open("w"):
        assert open_descriptors() == before + 1


def test_the_docs_list_every_metric_and_no_other():
    rows = re.findall(r"^\| `(relay_\w+)` \| (\w+) \| (.*?) \| (.+?) \|$", DOCS.read_text(), re.MULTILINE)
    documented = {name: (kind, labels, text) for name, kind, labels, text in rows}
    expected = {
        entry.exposed: (entry.kind, ", ".join(f"`{label}`" for label in entry.labels) or "-", entry.help)
        for entry in TABLE
    }
    assert documented == expected


def test_plugins_own_figures_carry_the_plugins_name_and_are_added_up() -> None:
    counter = Meter("counter", "rolled", "Dice rolled.", ("sides",))
    counter.add(3, "6")
    other = Meter("counter", "rolled", "Dice rolled.", ("sides",))
    other.add(4, "6")
    gauge = Meter("gauge", "level", "How high.", ())
    gauge.set(2.5)
    gauges = Gauges(meters=[("dice", counter), ("dice", other), ("more", counter), ("pool", gauge)])
    text = exposition(Counters(), gauges)[1].decode()
    assert 'relay_plugin_rolled_total{plugin="dice",sides="6"} 7.0' in text
    assert 'relay_plugin_rolled_total{plugin="more",sides="6"} 3.0' in text
    assert 'relay_plugin_level{plugin="pool"} 2.5' in text
