"""Client certificates that are missing, by a stranger, or not the token's: refused with a reason that arrives."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from relay.auth.certificates import ClientCertificate
from relay.devclients import ClientFiles, make_client
from tests.e2e.harness import UPGRADE, Answer, bearer
from tests.security.attack import answer_of, head, tcp
from tests.security.siege import RelayThread, besieged, folder_with, under_attack

pytestmark = pytest.mark.e2e

ROOM = "/rooms/echo:attack"
ANN = "ann.example"
MTLS = {"default_grants": {"join": ["echo:*"], "publish": ["echo:*"]}}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClientFiles]:
    folder = tmp_path_factory.mktemp("clients")
    return {
        "ann": make_client(folder, ANN), "bob": make_client(folder, "bob.example"),
        "stranger": make_client(folder / "elsewhere", ANN),
    }  # fmt: skip


def relay_with(
    certificates: Path, folder: Path, clients: dict[str, ClientFiles], asked: str, **mtls: Any
) -> Iterator[RelayThread]:
    folder = folder_with(certificates, folder)
    tls = {
        "certificate": str(folder / "certs" / "server.pem"), "key": str(folder / "certs" / "server-key.pem"),
        "client_certificates": asked, "client_ca": [str(clients["ann"].authorities)],
    }  # fmt: skip
    with besieged(folder, {"tls": tls, "auth": {"mtls": {**MTLS, **mtls}}}) as relay:
        yield relay


@pytest.fixture(scope="module")
def optional(
    certificates: Path, tmp_path_factory: pytest.TempPathFactory, clients: dict[str, ClientFiles]
) -> Iterator[RelayThread]:
    yield from relay_with(certificates, tmp_path_factory.mktemp("optional"), clients, "optional")


def context_of(relay: RelayThread, files: ClientFiles | None, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(relay.certificates.authority))
    context.minimum_version = context.maximum_version = version
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


async def ask_as(
    relay: RelayThread,
    files: ClientFiles | None,
    token: str | None = None,
    *,
    path: str = ROOM,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Answer:
    async with tcp(relay) as raw:
        context = context_of(relay, files, version)
        stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
        await stream.send_all(head(path, {**UPGRADE, **({} if token is None else bearer(token))}))
        return await answer_of(stream)


def bound(relay: RelayThread, thumbprint: str, subject: str = "ann") -> str:
    claims = jwt.decode(relay.token(subject), options={"verify_signature": False})
    claims["cnf"] = {"x5t#S256": thumbprint}
    return jwt.encode(claims, relay.token_secret.removesuffix(b"\n"), "HS256", headers={"kid": "dev"})


def thumbprint(files: ClientFiles) -> str:
    leaf = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    return ClientCertificate(leaf.public_bytes(Encoding.DER)).thumbprint


async def test_a_certificate_stands_for_a_token_within_its_grants(
    optional: RelayThread, clients: dict[str, ClientFiles]
) -> None:
    async with under_attack(optional, {"handshakes_rejected:forbidden": 1}):
        assert (await ask_as(optional, clients["ann"])).status == 101
        assert (await ask_as(optional, clients["ann"], path="/rooms/chat:a")).status == 403


async def test_without_a_certificate_a_token_is_needed_and_with_both_the_token_counts(
    optional: RelayThread, clients: dict[str, ClientFiles]
) -> None:
    async with under_attack(optional, {"handshakes_rejected:token_missing": 1}):
        assert (await ask_as(optional, None)).status == 401
        assert (await ask_as(optional, None, optional.token())).status == 101
        assert (await ask_as(optional, clients["ann"], optional.token(), path="/rooms/chat:a")).status == 101


@pytest.mark.parametrize("who", [None, "bob"])
async def test_a_stolen_bound_token_is_worth_nothing(
    optional: RelayThread, clients: dict[str, ClientFiles], who: str | None
) -> None:
    token = bound(optional, thumbprint(clients["ann"]))
    async with under_attack(optional, {"handshakes_rejected:token_wrong_certificate": 1}):
        answer = await ask_as(optional, clients[who] if who else None, token)
        assert (answer.status, answer.json()["error"]) == (401, "token_wrong_certificate")
        assert (await ask_as(optional, clients["ann"], token)).status == 101


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_strangers_certificate_is_refused_by_an_alert_that_arrives(
    optional: RelayThread, clients: dict[str, ClientFiles], version: ssl.TLSVersion
) -> None:
    async with under_attack(optional, {"tls_failures:certificate": 1}):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ask_raw(optional, clients["stranger"], version)
        assert "ALERT_UNKNOWN_CA" in str(caught.value.__cause__)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_where_a_certificate_is_required_one_without_is_told_so(
    certificates: Path, tmp_path: Path, clients: dict[str, ClientFiles], version: ssl.TLSVersion
) -> None:
    for relay in relay_with(certificates, tmp_path, clients, "required", bind_token=True):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ask_raw(relay, None, version)
        assert "ALERT" in str(caught.value.__cause__)
        token = bound(relay, thumbprint(clients["ann"]))
        assert (await ask_as(relay, clients["ann"], token, version=version)).status == 101
        plain = await ask_as(relay, clients["ann"], relay.token(), version=version)
        assert (plain.status, plain.json()["setting"]) == (401, "auth.mtls.bind_token")
        assert relay.server.counters.tls_failures["certificate"] == 1


async def ask_raw(relay: RelayThread, files: ClientFiles | None, version: ssl.TLSVersion) -> bytes:
    """Sends a request and reads: with TLS 1.3 the client learns only now that it is not in."""
    async with tcp(relay) as raw:
        context = context_of(relay, files, version)
        stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
        await stream.send_all(head(ROOM, {**UPGRADE, **bearer(relay.token())}))
        return bytes(await stream.receive_some())
