"""The life of the process and of a connection: drain, reload, expiry, and what may never stand in the log."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
from pathlib import Path

import pytest
import trio

from relay.devcerts import make_dev_certificates
from tests.e2e.clients import closed, trio_client
from tests.e2e.harness import UPGRADE, RelayProcess, bearer, request, running_relay

pytestmark = pytest.mark.e2e

PATIENCE = 40.0


async def test_sigterm_drains_with_bye_and_1001_and_exit_status_0(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path) as relay,
            trio_client(relay, "/ws", relay.token("v1"), ["relay.v1.json"]) as v1,
            trio_client(relay, "/rooms/lobby", relay.token("plain")) as plain,
        ):
            assert json.loads(await v1.hear())["t"] == "hello"
            relay.process.send_signal(signal.SIGTERM)
            bye = json.loads(await v1.hear())
            assert bye["t"] == "bye"
            assert bye["code"] == 1001
            assert bye["reconnect"] is not None
            assert (await closed(v1)).code == 1001
            assert (await closed(plain)).code == 1001
            assert await relay.until_exit() == 0


async def test_a_second_signal_does_not_wait_for_those_who_stay(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path, {"server": {"drain_timeout": 600.0}, "timeouts": {"close": 600.0}}) as relay:
            stream = await trio.open_ssl_over_tcp_stream("localhost", relay.port, ssl_context=relay.ssl_context)
            try:
                lines = [*UPGRADE.items(), *bearer(relay.token()).items(), ("Host", "localhost")]
                head = "".join(f"{name}: {value}\r\n" for name, value in lines)
                await stream.send_all(f"GET /rooms/lobby HTTP/1.1\r\n{head}\r\n".encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
                relay.process.send_signal(signal.SIGTERM)
                await relay.until_log("draining")  # and this client never answers the close frame
                relay.process.send_signal(signal.SIGTERM)
                assert await relay.until_exit() == 0
            finally:
                await trio.aclose_forcefully(stream)


async def test_sighup_takes_a_new_certificate_and_drops_nobody(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path) as relay, trio_client(relay, "/rooms/echo:stays", relay.token()) as client:
            before = await served_certificate(relay)
            shutil.rmtree(tmp_path / "certs")
            secret = relay.token_secret
            renewed = make_dev_certificates(tmp_path / "certs")
            renewed.token_secret.write_bytes(secret)
            relay.process.send_signal(signal.SIGHUP)
            await relay.until_log("reloaded")
            relay.trust(renewed)
            assert await served_certificate(relay) != before
            await client.say("still here")
            assert await client.hear() == "still here"


async def test_sighup_with_a_broken_configuration_changes_nothing(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_relay(tmp_path) as relay, trio_client(relay, "/rooms/echo:stays", relay.token()) as client:
            before = await served_certificate(relay)
            relay.config_path.write_text("[limits]\nmesage_bytes = 1\n")
            relay.process.send_signal(signal.SIGHUP)
            await relay.until_log("reload refused, everything stays as it was")
            assert await served_certificate(relay) == before
            await client.say("still here")
            assert await client.hear() == "still here"
            assert "mesage_bytes" in relay.log


async def test_sighup_with_other_rates_and_quotas_holds_for_who_is_inside(tmp_path: Path) -> None:
    tables: dict[str, dict[str, object]] = {"limits": {"slow_down": 0.5}}
    with trio.fail_after(PATIENCE):
        async with (
            running_relay(tmp_path, tables) as relay,
            trio_client(relay, "/rooms/echo:a", relay.token("ann")) as ann,
            trio_client(relay, "/ws", relay.token("bob"), ["relay.v1.json"]) as bob,
        ):
            for _ in range(50):
                await ann.say("hello")
                assert await ann.hear() == "hello"
            assert json.loads(await bob.hear())["t"] == "hello"
            tables["limits"] |= {"messages_per_second": 1, "messages_burst": 5}
            relay.configure({**tables, "quotas.joins": {"counts": "joins", "per": "connection", "rate": 1, "burst": 2}})
            relay.process.send_signal(signal.SIGHUP)
            await relay.until_log("reloaded")
            await request(relay, "/healthz")  # whoever was to be told has been
            for number in range(3):
                await bob.say(json.dumps({"t": "join", "id": number, "room": f"echo:{number}"}))
            answers = [json.loads(await bob.hear()) for _ in range(3)]
            assert [answer.get("limit") for answer in answers] == [None, None, "quotas.joins"]
            for _ in range(20):
                await ann.say("hello")
            reason = await closed(ann)
            assert reason.code == 4229
            assert "limits.messages_per_second" in reason.reason


async def test_an_expired_token_ends_its_connection_with_4401(relay: RelayProcess) -> None:
    with trio.fail_after(PATIENCE):
        # 10 s of leeway: this token is accepted for two more seconds.
        async with trio_client(relay, "/rooms/lobby", relay.token(expires_in=-8.0)) as client:
            assert (await closed(client)).code == 4401


async def test_no_token_ever_stands_in_the_log(relay: RelayProcess) -> None:
    tokens = [relay.token(f"secretive-{number}") for number in range(5)]
    with trio.fail_after(PATIENCE):
        async with trio_client(relay, "/rooms/lobby", tokens[0]):
            pass
        async with trio_client(relay, "/ws", tokens[1], ["relay.v1.json"]) as client:
            await client.hear()
            await client.say(json.dumps({"t": "auth", "id": 1, "token": tokens[2]}))
            assert json.loads(await client.hear())["id"] == 1
            await client.say(json.dumps({"t": "nonsense", "token": tokens[2]}))
            assert json.loads(await client.hear())["t"] == "error"
        carried = UPGRADE | {"Sec-WebSocket-Protocol": f"bearer.{tokens[3]}"}
        assert (await request(relay, "/rooms/lobby", carried)).status == 101
        assert (await request(relay, f"/rooms/lobby?token={tokens[4]}", UPGRADE)).status == 401
        assert (await request(relay, "/auth/check", bearer(tokens[0] + "x"))).status == 401
        await relay.until_log("connection closed", subject="secretive-1")
    for token in tokens:
        _header, payload, signature = token.split(".")
        assert len(signature) > 16
        assert payload not in relay.log
        assert signature not in relay.log


async def served_certificate(relay: RelayProcess) -> bytes:
    """The certificate a new client is shown, DER."""
    stream = await trio.open_ssl_over_tcp_stream("localhost", relay.port, ssl_context=relay.ssl_context)
    await stream.do_handshake()
    shown: bytes = stream.getpeercert(binary_form=True)
    with trio.move_on_after(1):
        await stream.aclose()
    return shown


def test_the_relay_speaks_tls_1_2_and_1_3_only(relay: RelayProcess) -> None:
    import socket

    for version, accepted in {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}.items():
        context = ssl.create_default_context(cafile=str(relay.certificates.authority))
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("localhost", relay.port), 5) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            assert secure.version() == accepted
            assert secure.selected_alpn_protocol() == "http/1.1"
