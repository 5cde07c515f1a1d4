// A client on npm's `ws`: lines on standard input are sent, what comes is printed as one JSON line each.
// node node_client.cjs FOLDER_OF_WS URL CA_FILE SUBPROTOCOL...
"use strict";
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");

const [folder, url, ca, ...protocols] = process.argv.slice(2);
const WebSocket = createRequire(folder + "/")("ws");

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const socket = new WebSocket(url, protocols, { ca: readFileSync(ca) });
socket.on("open", () => say({ open: socket.protocol, extensions: socket.extensions }));
socket.on("message", (data, binary) => say(binary ? { binary: data.toString("base64") } : { text: data.toString() }));
socket.on("error", (error) => say({ error: error.message }));
socket.on("close", (code, reason) => {
  say({ code, reason: reason.toString() });
  process.exit(0);
});
createInterface({ input: process.stdin })
  .on("line", (line) => socket.send(line))
  .on("close", () => socket.close(1000));
