// Connects a page to all others in a room of the plugin `signalling`, by WebRTC: a data channel to each of them.
//
//     connectPeers("wss://localhost:8443/ws", token, "call:tea", {
//       onChannel: (channel, peer) => channel.send("hello " + peer.subject),
//       onLeft: (session) => console.log("gone", session),
//     });
//
// The relay carries offers, answers and candidates only. The newcomer, who is told to be polite, makes the first offer; if
// both offer at once later on, it takes its own back ("perfect negotiation", WebRTC section 10.7).

function connectPeers(url, token, room, { onChannel, onLeft = () => {} }) {
  const socket = new WebSocket(url, ["relay.v1.json", "bearer." + token]);
  const peers = new Map(); // by session
  let servers = [];

  const say = (words) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(words));
  const signal = (to, data) => say({ t: "publish", room, data: { to, ...data } });

  function add({ session, subject, polite }) {
    const connection = new RTCPeerConnection({ iceServers: servers });
    const peer = { connection, polite, offering: false, ignoring: false };
    peers.set(session, peer);
    connection.onnegotiationneeded = async () => {
      try {
        peer.offering = true;
        await connection.setLocalDescription();
        signal(session, connection.localDescription.toJSON());
      } finally {
        peer.offering = false;
      }
    };
    connection.onicecandidate = ({ candidate }) =>
      signal(session, { type: "candidate", candidate: candidate && candidate.toJSON() });
    const ready = (channel) => {
      const tell = () => onChannel(channel, { session, subject });
      channel.readyState === "open" ? tell() : (channel.onopen = tell);
    };
    // The newcomer begins; from then on either side may offer anew.
    if (polite) ready(connection.createDataChannel("relay"));
    else connection.ondatachannel = ({ channel }) => ready(channel);
  }

  async function describe(peer, from, description) {
    const { connection } = peer;
    const glare = description.type === "offer" && (peer.offering || connection.signalingState !== "stable");
    peer.ignoring = glare && !peer.polite;
    if (peer.ignoring) return;
    await connection.setRemoteDescription(description);
    if (description.type === "offer") {
      await connection.setLocalDescription();
      signal(from, connection.localDescription.toJSON());
    }
  }

  async function candidate(peer, found) {
    try {
      await peer.connection.addIceCandidate(found);
    } catch (error) {
      if (!peer.ignoring) throw error; // one that belongs to an offer we ignored
    }
  }

  function remove(session) {
    const peer = peers.get(session);
    if (peer && peers.delete(session)) {
      peer.connection.close();
      onLeft(session);
    }
  }

  function hear(data) {
    switch (data.type) {
      case "welcome":
        servers = data.ice_servers;
        data.peers.forEach(add);
        break;
      case "joined":
        add(data);
        break;
      case "left":
        remove(data.session);
        break;
      case "bye":
        remove(data.from);
        break;
      case "candidate":
        return peers.has(data.from) && candidate(peers.get(data.from), data.candidate);
      default:
        return peers.has(data.from) && describe(peers.get(data.from), data.from, { type: data.type, sdp: data.sdp });
    }
  }

  let last = Promise.resolve(); // one after the other: a candidate waits for its offer
  socket.onmessage = ({ data }) => {
    const said = JSON.parse(data);
    if (said.t === "hello") say({ t: "join", id: 1, room });
    if (said.t === "message" && said.room === room) last = last.then(() => hear(said.data)).catch(console.error);
  };

  // What has been connected stays so when the relay is lost.
  const leave = () => {
    [...peers.keys()].forEach(remove);
    socket.close();
  };
  return { socket, peers, leave };
}
