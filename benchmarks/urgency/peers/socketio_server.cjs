// socket.io with its defaults. The client speaks Socket.IO; publishers come by plain WebSocket at /urgent and /bulk, as
// with the other peers, so that all are driven alike.
//
//     node socketio_server.cjs PORT CERTIFICATE KEY fifo
const { readFileSync } = require("node:fs");
const { createServer } = require("node:https");
const { randomBytes } = require("node:crypto");
const { Server } = require("socket.io");
const { WebSocketServer } = require("ws");

const [port, cert, key] = process.argv.slice(2);
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) });
const io = new Server(server, { destroyUpgrade: false });
const publishers = new WebSocketServer({ noServer: true });

server.on("upgrade", (request, socket, head) => {
  if (request.url.startsWith("/socket.io/")) return;
  publishers.handleUpgrade(request, socket, head, (publisher) => {
    publisher.on("error", () => {});
    publisher.on("message", (data) => {
      if (request.url === "/urgent") return io.emit("urgent", data);
      const [total, size] = data.toString().split(" ").map(Number);
      const payload = randomBytes(size);
      payload[0] = 0x42;
      for (let left = Math.floor(total / size); left; left--) io.emit("bulk", payload);
    });
  });
});
server.listen(Number(port), "0.0.0.0");
