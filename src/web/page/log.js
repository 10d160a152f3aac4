// The live log of everything that the socket sends and receives. Limited in lines and in their length; all of it is text.

import { $, make, setShown } from "./dom.js";
import { parseJson, toJson } from "./json.js";

/** Maximum lines, and maximum lines that wait to be drawn; the oldest are dropped. */
export const LINES = 500;
/** Maximum characters of a line, and of its summary. */
const CHARACTERS = 2000;
const SUMMARY_CHARACTERS = 500;

export const shorten = (text, characters = CHARACTERS) =>
  text.length > characters ? `${text.slice(0, characters)}… (${text.length} characters)` : text;

function formatTime() {
  const now = new Date();
  return `${now.toTimeString().slice(0, 8)}.${String(now.getMilliseconds()).padStart(3, "0")}`;
}

const COMMANDS = ["subscribe", "unsubscribe", "publish", "history", "presence", "refresh", "connect", "ping"];

function parse(text) {
  try {
    const message = parseJson(text);
    return message !== null && typeof message === "object" ? message : null;
  } catch {
    return null;
  }
}

function summarizePublication(channel, { data, info, offset }, label) {
  const notes = [info && `by ${info.user || "anonymous"}`, offset && `offset ${offset}`].filter(Boolean);
  return { kind: "pub", label, channel, detail: toJson(data), by: notes.join(", ") };
}

function summarizePush(push) {
  const { channel } = push;
  if (push.pub) return summarizePublication(channel, push.pub, "publication");
  for (const kind of ["join", "leave"]) {
    if (push[kind]) return { label: kind, channel, detail: `client ${push[kind].info?.client}`, by: push[kind].info?.user };
  }
  if (push.connect) return { label: "connected", detail: `client ${push.connect.client}` };
  if (push.unsubscribe) return { label: "unsubscribed", channel, detail: `${push.unsubscribe.code} ${push.unsubscribe.reason}` };
  const kind = Object.keys(push).find((key) => key !== "channel") ?? "push";
  return { label: kind, channel, detail: toJson(push[kind]) };
}

/** What the reply to a command says. */
function summarizeReply(name, reply) {
  const { publications = [], offset = 0, was_recovering, recovered, client, presence = {} } = reply;
  switch (name) {
    case "connect":
      return `client ${client}`;
    case "subscribe":
      if (!reply.positioned) return "";
      return `offset ${offset}${was_recovering ? (recovered ? `, recovered ${publications.length}` : ", not recovered") : ""}`;
    case "history":
      return `offset ${offset}, ${publications.length} of its publications`;
    case "presence":
      return `clients: ${Object.keys(presence).length}`;
    default:
      return "";
  }
}

/** The channels of commands that wait for their reply, by id: a reply does not name its channel. */
const asked = new Map();
/** Maximum such commands; the oldest are dropped. */
const ASKED = 200;

/** Returns the channel of a command, or of the command that a reply answers. */
function channelOf({ id, ...message }, direction) {
  if (direction === "in") {
    const channel = asked.get(id);
    asked.delete(id);
    return channel;
  }
  const channel = Object.values(message).find((body) => body?.channel)?.channel;
  asked.set(id, channel);
  if (asked.size > ASKED) asked.delete(asked.keys().next().value);
  return channel;
}

/** Summarizes a frame: {kind, label, channel?, detail}. */
function summarize(text, direction) {
  const message = parse(text);
  if (!message) return { label: /^authorization:/i.test(text) ? "token" : "text", detail: text };
  if (Object.keys(message).length === 0) return { kind: "ping", label: direction === "in" ? "ping" : "pong", detail: "" };
  if (message.push) return summarizePush(message.push);
  const channel = channelOf(message, direction);
  if (message.error) return { kind: "error", label: `error ${message.error.code}`, channel, detail: message.error.message };
  const name = COMMANDS.find((kind) => message[kind]);
  if (!name) return { label: "reply", detail: text };
  const { data } = message[name];
  if (direction === "in") return { label: `${name} done`, channel, detail: summarizeReply(name, message[name]) };
  return { label: name, channel, detail: data === undefined ? "" : toJson(data) };
}

const ARROWS = { in: ["←", "received"], out: ["→", "sent"], note: ["·", "note"] };

function createItem({ time, direction, text, note, kind, recovered }) {
  const [arrow, arrowName] = ARROWS[direction];
  const summary = recovered ?? (note === undefined ? summarize(text, direction) : { label: note, kind });
  const item = make("li", { className: `${direction} ${summary.kind ?? ""}` });
  item.append(
    make("time", {}, time),
    make("span", { className: "arrow", title: arrowName, "aria-label": arrowName, role: "img" }, arrow),
    make("span", { className: "label" }, summary.label),
  );
  if (summary.channel) item.append(make("span", { className: "channel" }, summary.channel));
  if (summary.detail) item.append(make("code", { className: "detail" }, shorten(summary.detail, SUMMARY_CHARACTERS)));
  if (summary.by) item.append(make("span", { className: "by" }, summary.by));
  if (text !== undefined) item.append(make("code", { className: "raw" }, shorten(text)));
  return item;
}

export class Log {
  #isPaused = false;
  /** Whether the newest line is kept in view. A user who has scrolled up is reading. */
  #isFollowing = true;
  #isDrawScheduled = false;
  /** Entries that are not drawn yet. Drawn at most once per frame, and not while paused. */
  #waiting = [];

  constructor() {
    const box = $("log").parentElement;
    box.addEventListener("scroll", () => (this.#isFollowing = box.scrollHeight - box.scrollTop - box.clientHeight < 40));
    // A notice makes the box smaller.
    new ResizeObserver(() => this.#follow()).observe(box);
    $("log-pause").addEventListener("click", () => this.#pause(!this.#isPaused));
    $("log-clear").addEventListener("click", () => this.#clear());
    $("log-filter").addEventListener("input", () => this.#filterAll());
    for (const [id, name] of [["log-raw", "show-raw"], ["log-pings", "show-pings"]]) {
      $(id).addEventListener("change", ({ target }) => $("log").classList.toggle(name, target.checked));
    }
  }

  /** `direction` is "in" or "out". */
  frame(direction, text) {
    this.#add({ time: formatTime(), direction, text });
  }

  /** A publication that was in the reply to a subscribe command. */
  recovered(channel, publication) {
    this.#add({ time: formatTime(), direction: "in", recovered: summarizePublication(channel, publication, "recovered") });
  }

  note(note, kind = "") {
    this.#add({ time: formatTime(), direction: "note", note, kind });
  }

  #add(entry) {
    this.#waiting.push(entry);
    if (this.#waiting.length > LINES) this.#waiting.shift();
    this.#scheduleDraw();
  }

  #scheduleDraw() {
    if (this.#isDrawScheduled) return;
    this.#isDrawScheduled = true;
    requestAnimationFrame(() => {
      this.#isDrawScheduled = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.#isPaused) {
      const list = $("log");
      const items = this.#waiting.splice(0).map(createItem);
      for (const item of items) this.#filter(item);
      list.append(...items);
      while (list.childElementCount > LINES) list.firstElementChild.remove();
      this.#follow();
    }
    this.#count();
  }

  #follow() {
    const box = $("log").parentElement;
    if (this.#isFollowing) box.scrollTop = box.scrollHeight;
  }

  #pause(isPaused) {
    this.#isPaused = isPaused;
    $("log-pause").setAttribute("aria-pressed", String(isPaused));
    this.#scheduleDraw();
  }

  #clear() {
    $("log").replaceChildren();
    this.#waiting = [];
    this.#count();
  }

  #filter(item) {
    const wanted = $("log-filter").value.trim().toLowerCase();
    setShown(item, !wanted || item.textContent.toLowerCase().includes(wanted));
  }

  #filterAll() {
    for (const item of $("log").children) this.#filter(item);
  }

  #count() {
    const lines = $("log").childElementCount;
    setShown($("log-empty"), lines === 0);
    const last = lines === LINES ? `the last ${LINES} lines` : `${lines} line${lines === 1 ? "" : "s"}`;
    $("log-count").textContent = this.#isPaused ? `paused, ${this.#waiting.length} waiting` : lines ? last : "";
  }
}
