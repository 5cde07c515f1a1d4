// The playground's script. What comes from the network is only ever set as textContent, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const ui = Object.fromEntries(
  ["state", "connect", "room", "name", "token", "toggle", "explanation", "log", "people", "members", "say", "text",
    "channel", "send", "raw"].map((id) => [id, $(id)]));
const SHOWN = 500; // lines kept in the log and among the raw messages

// Words for the close codes that one meets here; docs/close-codes.md has all.
const CODES = {
  1000: "closed", 1001: "the server is going away", 1002: "protocol error", 1006: "no close frame came",
  1008: "a rule was broken", 1009: "a message was too big", 1011: "a bug on the server's side", 4208: "too slow",
  4229: "too many", 4250: "the server is full", 4401: "token missing, invalid or expired",
  4403: "the token does not grant this", 4404: "no such room", 4409: "replaced by a newer connection",
};

let session = null;

function line(text, kind, who = "", about = "") {
  const item = document.createElement("li");
  item.className = kind;
  if (who) item.append(Object.assign(document.createElement("b"), { textContent: who }));
  item.append(text);
  if (about) item.append(Object.assign(document.createElement("small"), { textContent: about }));
  const atEnd = ui.log.scrollHeight - ui.log.scrollTop - ui.log.clientHeight < 40;
  ui.log.append(item);
  while (ui.log.childElementCount > SHOWN) ui.log.firstElementChild.remove();
  if (atEnd) ui.log.scrollTop = ui.log.scrollHeight;
}

const rawLines = [];
function raw(direction, text) {
  rawLines.push(`${new Date().toISOString().slice(11, 23)} ${direction} ${text}`);
  if (rawLines.length > SHOWN) rawLines.shift();
  ui.raw.textContent = rawLines.join("\n");
  ui.raw.scrollTop = ui.raw.scrollHeight;
}

function state(kind, text) {
  ui.state.dataset.state = kind;
  ui.state.textContent = text;
  const live = kind === "open" || kind === "opening";
  ui.toggle.textContent = live ? "Disconnect" : "Connect";
  for (const field of [ui.text, ui.send, ui.channel]) field.disabled = kind !== "open";
  for (const field of [ui.room, ui.token, ...document.getElementsByName("mode")]) field.disabled = live;
}

function explain(text) {
  ui.explanation.textContent = text;
  ui.explanation.hidden = !text;
}

// A browser tells a page nothing about a refused handshake but code 1006; the relay tells it at /auth/check.
async function askWhy(room, token) {
  let answer, said;
  try {
    answer = await fetch(`/auth/check?room=${encodeURIComponent(room)}`, { headers: { Authorization: `Bearer ${token}` } });
    said = await answer.json();
  } catch {
    return "The relay does not answer at all. Is it running?";
  }
  if (!answer.ok) {
    const setting = said.setting ? ` [${said.setting}]` : "";
    return `The token is refused: ${said.reason || said.error || answer.status}${setting}.`;
  }
  const until = said.expires ? `, until ${new Date(said.expires * 1000).toLocaleString()}` : "";
  if (said.room && !said.room.join) return `The token is good for ${said.subject}${until}, but does not let you join ${room}.`;
  return `The token is good for ${said.subject}${until}. The refusal has another reason: no plugin serves this room, a limit, or this page's origin; the relay's log has it.`;
}

class Session {
  constructor(mode, room, token) {
    this.mode = mode;
    this.room = room;
    this.token = token;
    this.opened = false;
    this.ids = 0;
    this.waiting = new Map();
    this.members = new Set();
    const host = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`;
    const bearer = `bearer.${token}`;
    this.socket = mode === "plain"
      ? new WebSocket(`${host}/rooms/${encodeURIComponent(room).replaceAll("%3A", ":")}?last=20`, [bearer])
      : new WebSocket(`${host}/ws`, ["relay.v1.json", bearer]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onOpen();
    this.socket.onmessage = (event) => this.onMessage(event.data);
    this.socket.onclose = (event) => this.onClose(event);
  }

  onOpen() {
    this.opened = true;
    if (this.mode === "plain") this.ready();
  }

  ready() {
    state("open", `connected to ${this.room}, ${this.mode}`);
    line(`in ${this.room}`, "note");
    ui.text.focus();
  }

  onMessage(data) {
    const text = typeof data === "string" ? data : `(${data.byteLength} bytes, binary)`;
    raw("<", text);
    if (this.mode === "plain") line(text, "theirs");
    else this.onWords(JSON.parse(text));
  }

  async onWords(words) {
    switch (words.t) {
      case "hello":
        this.subject = words.subject;
        ui.channel.replaceChildren(new Option("channel", ""), ...words.channels.filter((name) => name !== "control").map((name) => new Option(name)));
        await this.join();
        break;
      case "ok": case "error": case "pong":
        if (this.waiting.has(words.id)) {
          this.waiting.get(words.id)(words);
          this.waiting.delete(words.id);
        } else if (words.t === "error") this.refused(words);
        break;
      case "message": this.show(words); break;
      case "joined": case "left":
        if (words.t === "joined") this.members.add(words.subject); else this.members.delete(words.subject);
        this.showMembers();
        line(`${words.subject} ${words.t === "joined" ? "came" : "went"}`, "note");
        break;
      case "gap": line(`messages ${words.from} to ${words.to} were lost: ${words.reason}`, "trouble"); break;
      case "expiring": line(`the token ends in ${Math.round(words.in)} s`, "note"); break;
      case "bye": this.bye = words; break;
    }
  }

  ask(t, fields) {
    const id = ++this.ids;
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.write(JSON.stringify({ t, id, room: this.room, ...fields }));
    });
  }

  async join() {
    let answer = await this.ask("join", { last: 20, members: true });
    if (answer.t === "error" && answer.code === "forbidden") answer = await this.ask("join", { last: 20 });
    if (answer.t === "error") {
      this.refused(answer);
      this.socket.close(1000);
      return;
    }
    for (const message of answer.messages || []) this.show(message);
    if (answer.members) {
      this.members = new Set(answer.members);
      this.showMembers();
      ui.people.hidden = false;
    }
    this.ready();
  }

  refused(words) {
    line(`refused: ${words.message || words.code}${words.limit ? ` [${words.limit}]` : ""}`, "trouble");
  }

  show(message) {
    const said = message.data;
    const ours = said !== null && typeof said === "object" && typeof said.text === "string";
    const text = ours ? said.text : typeof said === "string" ? said : JSON.stringify(said);
    const who = ours && said.name ? String(said.name) : message.from || "relay";
    const about = [message.offset ? `#${message.offset}` : "", message.channel || "", message.from || ""].filter(Boolean).join(" · ");
    line(text, "theirs", who, about);
  }

  showMembers() {
    ui.members.replaceChildren(...[...this.members].sort().map((subject) =>
      Object.assign(document.createElement("li"), { textContent: subject === this.subject ? `${subject} (you)` : subject })));
  }

  async say(name, text, channel) {
    if (this.mode === "plain") {
      this.write(`${name}: ${text}`);
      line(text, "mine", name);
      return;
    }
    const answer = await this.ask("publish", { data: { name, text }, ...(channel ? { channel } : {}) });
    if (answer.t === "error") this.refused(answer);
    else line(text, "mine", name, [answer.offset ? `#${answer.offset}` : "", channel].filter(Boolean).join(" · "));
  }

  write(text) {
    raw(">", text);
    this.socket.send(text);
  }

  async onClose(event) {
    if (session !== this) return;
    session = null;
    ui.people.hidden = true;
    ui.channel.hidden = true;
    const code = this.bye && event.code === 1006 ? this.bye.code : event.code;
    const why = event.reason || (this.bye && this.bye.reason) || CODES[code] || "";
    const text = `closed: ${code}${why ? ` ${why}` : ""}`;
    raw("x", text);
    if (this.opened) line(text, code === 1000 ? "note" : "trouble");
    state(code === 1000 ? "closed" : "failed", this.opened ? text : "refused");
    if (!this.opened || code === 4401 || code === 4403 || code === 4404) explain(await askWhy(this.room, this.token));
  }
}

ui.connect.addEventListener("submit", (event) => {
  event.preventDefault();
  if (session !== null) {
    session.socket.close(1000);
    return;
  }
  explain("");
  const mode = ui.connect.elements.mode.value;
  ui.channel.hidden = mode === "plain";
  state("opening", "connecting");
  try {
    session = new Session(mode, ui.room.value.trim(), ui.token.value.trim());
  } catch {
    state("failed", "not a token"); // not a name that Sec-WebSocket-Protocol can carry
    explain("This is no token: it holds characters that no JWT has.");
  }
});

ui.say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = ui.text.value;
  if (session === null || !text) return;
  session.say(ui.name.value.trim() || "me", text, ui.channel.value);
  ui.text.value = "";
});

// #token=…&room=…&name=…&mode=…: what follows the # never leaves the browser.
function prefill() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["token", "room", "name"]) if (given.has(name)) ui[name].value = given.get(name);
  if (given.get("mode") === "relay.v1.json") ui.connect.elements.mode.value = "relay.v1.json";
  if (!ui.name.value) ui.name.value = `guest-${Math.random().toString(36).slice(2, 5)}`;
}

window.addEventListener("hashchange", prefill);
prefill();
state("closed", "not connected");
