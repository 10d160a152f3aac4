// What happens to a user, a client or a channel, live.

import { readTrace } from "./api.js";
import { $, make } from "./dom.js";
import { link, sayBad } from "./parts.js";
import { formatNumber, formatTime } from "./text.js";

/** Most events that are shown; older ones are dropped. */
const MAX_EVENTS = 500;

let running = null;

const say = (text) => ($("trace-state").textContent = text);

function detailsOf({ user, client, channel, code, reason, offset, bytes, num_clients }) {
  const parts = [];
  if (user) parts.push(link(user, "sessions", user));
  if (channel) parts.push(link(channel, "channel", channel));
  if (offset !== undefined) parts.push(`#${offset}`);
  if (bytes !== undefined) parts.push(`${formatNumber(bytes)} bytes`);
  if (num_clients !== undefined) parts.push(`to ${formatNumber(num_clients)} ${num_clients === 1 ? "client" : "clients"}`);
  if (code !== undefined) parts.push(String(code));
  if (reason) parts.push(reason);
  if (client) parts.push(make("small", { className: "id" }, client));
  return parts.flatMap((part) => [part, " "]);
}

function add(name, event) {
  const log = $("trace-log");
  const box = log.parentElement;
  const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  if (name === "begin") return say("Running. Events come within about 0.3 s.");
  if (name === "end") return say(`The trace has ended: ${event.reason}.`);
  const content = name === "dropped"
    ? [make("strong", { className: "bad-text" }, `${formatNumber(event.events)} events are missing`)]
    : [make("time", {}, formatTime(event.time)), make("strong", {}, event.event.replaceAll("_", " ")), make("span", { className: "details" }, ...detailsOf(event)), make("small", { className: "id" }, event.node.name)];
  log.append(make("li", {}, ...content));
  while (log.children.length > MAX_EVENTS) log.firstChild.remove();
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

function setRunning(controller) {
  running = controller;
  $("trace-start").textContent = controller ? "Stop" : "Start";
}

async function start() {
  const controller = new AbortController();
  setRunning(controller);
  say("Starting…");
  try {
    await readTrace($("trace-kind").value, $("trace-name").value, controller.signal, (name, event) => running === controller && add(name, event));
    if (running === controller && $("trace-state").textContent.startsWith("Running")) say("The connection was lost.");
  } catch (error) {
    if (running !== controller || error.name === "AbortError") return;
    say("The trace has not begun.");
    sayBad(error.message);
  } finally {
    if (running === controller) setRunning(null);
  }
}

function stop() {
  if (!running) return;
  running.abort();
  setRunning(null);
  say("Stopped.");
}

$("trace-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else start();
});
$("trace-clear").addEventListener("click", () => $("trace-log").replaceChildren());

export const trace = {
  /** With a name the trace begins at once. */
  show(kind = "", name = "") {
    if (!name) return;
    $("trace-kind").value = kind;
    $("trace-name").value = name;
    $("trace-log").replaceChildren();
    start();
  },
  hide: stop,
};
