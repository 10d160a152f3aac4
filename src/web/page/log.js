// The live log of everything that the socket sends and receives. Limited in lines and in their length; all of it is text.

import { $, make, show } from "./dom.js";

/** Maximum lines, and maximum lines that wait to be drawn; the oldest are dropped. */
export const LINES = 500;
/** Maximum characters of a line. */
const CHARACTERS = 2000;

const cut = (text) => (text.length > CHARACTERS ? `${text.slice(0, CHARACTERS)}… (${text.length} characters)` : text);

function time() {
  const now = new Date();
  return `${now.toTimeString().slice(0, 8)}.${String(now.getMilliseconds()).padStart(3, "0")}`;
}

const KINDS = ["subscribe", "unsubscribe", "publish", "refresh", "connect", "ping"];

function parse(text) {
  try {
    const message = JSON.parse(text);
    return message !== null && typeof message === "object" ? message : null;
  } catch {
    return null;
  }
}

function pushed(push) {
  const { channel } = push;
  if (push.pub) return { kind: "pub", what: "publication", channel, detail: JSON.stringify(push.pub.data), by: push.pub.info?.user };
  if (push.connect) return { what: "connected", detail: `client ${push.connect.client}` };
  if (push.disconnect) return { kind: "error", what: "disconnect", detail: `${push.disconnect.code} ${push.disconnect.reason}` };
  if (push.unsubscribe) return { what: "unsubscribed", channel, detail: `${push.unsubscribe.code} ${push.unsubscribe.reason}` };
  const kind = Object.keys(push).find((key) => key !== "channel") ?? "push";
  return { what: kind, channel, detail: JSON.stringify(push[kind]) };
}

/** Summarizes a frame: {kind, what, channel?, detail}. */
function meaning(text, direction) {
  const message = parse(text);
  if (!message) return { what: /^authorization:/i.test(text) ? "token" : "text", detail: text };
  if (Object.keys(message).length === 0) return { kind: "ping", what: direction === "in" ? "ping" : "pong", detail: "" };
  if (message.push) return pushed(message.push);
  if (message.error) return { kind: "error", what: `error ${message.error.code}`, detail: message.error.message };
  const name = KINDS.find((kind) => message[kind]);
  if (!name) return { what: "reply", detail: text };
  const { channel, data } = message[name];
  if (direction === "in") return { what: `${name} done`, detail: name === "connect" ? `client ${message.connect.client}` : "" };
  return { what: name, channel, detail: data === undefined ? "" : JSON.stringify(data) };
}

const ARROWS = { in: ["←", "received"], out: ["→", "sent"], note: ["·", "note"] };

function line({ time, direction, text, note, kind }) {
  const [arrow, said] = ARROWS[direction];
  const about = note === undefined ? meaning(text, direction) : { what: note, kind };
  const item = make("li", { className: `${direction} ${about.kind ?? ""}` });
  item.append(
    make("time", {}, time),
    make("span", { className: "arrow", title: said, "aria-label": said, role: "img" }, arrow),
    make("span", { className: "what" }, about.what),
  );
  if (about.channel) item.append(make("span", { className: "channel" }, about.channel));
  if (about.detail) item.append(make("code", { className: "detail" }, cut(about.detail)));
  if (about.by) item.append(make("span", { className: "by" }, `by ${about.by}`));
  if (text !== undefined) item.append(make("code", { className: "raw" }, cut(text)));
  return item;
}

export class Log {
  #isPaused = false;
  #isDue = false;
  /** Entries that are not drawn yet. Drawn at most once per frame, and not while paused. */
  #waiting = [];

  constructor() {
    $("log-pause").addEventListener("click", () => this.#pause(!this.#isPaused));
    $("log-clear").addEventListener("click", () => this.#clear());
    $("log-filter").addEventListener("input", () => this.#filterAll());
    for (const [id, name] of [["log-raw", "show-raw"], ["log-pings", "show-pings"]]) {
      $(id).addEventListener("change", ({ target }) => $("log").classList.toggle(name, target.checked));
    }
  }

  /** `direction` is "in" or "out". */
  frame(direction, text) {
    this.#add({ time: time(), direction, text });
  }

  note(note, kind = "") {
    this.#add({ time: time(), direction: "note", note, kind });
  }

  #add(entry) {
    this.#waiting.push(entry);
    if (this.#waiting.length > LINES) this.#waiting.shift();
    this.#soon();
  }

  #soon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.#isPaused) {
      const list = $("log");
      const box = list.parentElement;
      const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      const items = this.#waiting.splice(0).map(line);
      for (const item of items) this.#filter(item);
      list.append(...items);
      while (list.childElementCount > LINES) list.firstElementChild.remove();
      // A user who has scrolled up is reading.
      if (isAtEnd) box.scrollTop = box.scrollHeight;
    }
    this.#count();
  }

  #pause(isPaused) {
    this.#isPaused = isPaused;
    $("log-pause").setAttribute("aria-pressed", String(isPaused));
    this.#soon();
  }

  #clear() {
    $("log").replaceChildren();
    this.#waiting = [];
    this.#count();
  }

  #filter(item) {
    const wanted = $("log-filter").value.trim().toLowerCase();
    show(item, !wanted || item.textContent.toLowerCase().includes(wanted));
  }

  #filterAll() {
    for (const item of $("log").children) this.#filter(item);
  }

  #count() {
    const lines = $("log").childElementCount;
    show($("log-empty"), lines === 0);
    const last = lines === LINES ? `the last ${LINES} lines` : `${lines} line${lines === 1 ? "" : "s"}`;
    $("log-count").textContent = this.#isPaused ? `paused, ${this.#waiting.length} waiting` : lines ? last : "";
  }
}
