"""A client for the relay, and for any other WebSocket service, on Trio.

    import trio
    from relay.client import Message, connect

    async def main():
        async with connect("wss://localhost:8443/ws", token=TOKEN, ca_file="certs/ca.pem") as relay:
            await relay.join("lobby", last=10)
            await relay.publish("lobby", "hello")
            async for event in relay:
                if isinstance(event, Message):
                    print(event.sender, event.data)

    trio.run(main)

`connect` speaks relay.v1: many rooms on one socket, answers, offsets. `connect_plain` is a bare WebSocket. Inside is
trio-websocket; what it leaves open (a ping that waits for ever, a cancelled send that corrupts the stream, a reader
that dies before the handshake is answered) is closed in `dial` and `plain`. Not here: reconnecting, which is a short
loop that knows what to do next (docs/client-python.md). The one rule: a connection ends with a `Disconnected` that
says why, and no task outlives the `async with`.
"""

from relay.client.connect import connect
from relay.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionRefused,
    Disconnected,
    Forbidden,
    NoSuchMethod,
    NoSuchRoom,
    NoSuchSubject,
    NotJoined,
    RateLimited,
    RoomClosed,
    TimedOut,
    Unavailable,
    Withdrawn,
)
from relay.client.events import (
    Bye,
    Confirm,
    Count,
    Delivery,
    Event,
    Expiring,
    Gap,
    Joined,
    Left,
    Members,
    Membership,
    Message,
    Position,
    Progress,
    Refusal,
    Renamed,
)
from relay.client.pages import Pages
from relay.client.plain import PlainClient, connect_plain
from relay.client.renewal import TokenSource
from relay.client.second import SecondSocket
from relay.client.session import Client
from relay.client.upload import Upload
from relay.errors import Refused

__all__ = [
    "Bye",
    "Client",
    "ClientError",
    "Confirm",
    "ConnectFailed",
    "ConnectionRefused",
    "Count",
    "Delivery",
    "Disconnected",
    "Event",
    "Expiring",
    "Forbidden",
    "Gap",
    "Joined",
    "Left",
    "Members",
    "Membership",
    "Message",
    "NoSuchMethod",
    "NoSuchRoom",
    "NoSuchSubject",
    "NotJoined",
    "Pages",
    "PlainClient",
    "Position",
    "Progress",
    "RateLimited",
    "Refusal",
    "Refused",
    "Renamed",
    "RoomClosed",
    "SecondSocket",
    "TimedOut",
    "TokenSource",
    "Unavailable",
    "Upload",
    "Withdrawn",
    "connect",
    "connect_plain",
]
