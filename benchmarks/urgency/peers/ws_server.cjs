// npm `ws` with its defaults: the same paths and modes as websockets_server.py.
//
//     node ws_server.cjs PORT CERTIFICATE KEY await|fifo
//
// await: the next bulk message when the callback of `send` has come; fifo: all at once.
const { readFileSync } = require("node:fs");
const { createServer } = require("node:https");
const { randomBytes } = require("node:crypto");
const { WebSocketServer } = require("ws");

const [port, cert, key, mode] = process.argv.slice(2);
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) });
const sockets = new WebSocketServer({ server });
const subscribers = new Set();

function sendBulk(total, size) {
  const payload = randomBytes(size);
  payload[0] = 0x42;
  let left = Math.floor(total / size);
  if (mode === "fifo") {
    for (; left; left--) for (const one of subscribers) one.send(payload);
    return;
  }
  const [one] = subscribers;
  const next = () => { if (left-- > 0 && one.readyState === 1) one.send(payload, next); };
  next();
}

sockets.on("connection", (socket, request) => {
  socket.on("error", () => {});
  if (request.url === "/sub") {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  } else if (request.url === "/urgent") {
    socket.on("message", (data) => { for (const one of subscribers) one.send(data); });
  } else {
    socket.on("message", (data) => sendBulk(...data.toString().split(" ").map(Number)));
  }
});
server.listen(Number(port), "0.0.0.0");
