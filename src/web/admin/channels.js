// The channels and their subscribers.

import { call } from "./api.js";
import { $, make } from "./dom.js";
import { PagedList, link, table } from "./parts.js";
import { formatNumber } from "./text.js";

const PAGE = 50;

/** Text without `*` is a part of a name. */
const patternOf = (text) => (text === "" || text.includes("*") ? text : `*${text}*`);

/** The pattern of the list. The field may have a text that was not sent. */
let shownPattern = "";

function draw({ channels, num_channels, cursor }) {
  const rows = Object.entries(channels).sort(([one], [other]) => (one < other ? -1 : 1));
  if (rows.length === 0 && !cursor) {
    return [make("p", { className: "empty" }, shownPattern ? `No channel with subscribers matches “${shownPattern}”.` : "No channel has subscribers.")];
  }
  // Nodes that share channels do not count them together.
  const known = num_channels === undefined ? "Channels" : `${formatNumber(num_channels)} ${num_channels === 1 ? "channel" : "channels"}`;
  const count = make("p", { className: "hint" }, `${known} with subscribers`);
  return [count, table("Channels", ["Channel", "Subscribers"], rows.map(([name, { num_clients }]) => [link(name, "channel", name), formatNumber(num_clients)]))];
}

const list = new PagedList($("channels-table"), (cursor) => call("channels", { pattern: patternOf(shownPattern), limit: PAGE, cursor }), draw);

function show() {
  shownPattern = $("channels-pattern").value;
  return list.restart();
}

$("channels-form").addEventListener("submit", (event) => {
  event.preventDefault();
  show();
});

export const channels = { show, hide() {} };
