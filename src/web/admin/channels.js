// The channels and their subscribers.

import { call } from "./api.js";
import { $, make } from "./dom.js";
import { PagedList, link, table } from "./parts.js";
import { formatNumber } from "./text.js";

const PAGE = 50;

/** Text without `*` is a part of a name. */
const patternOf = (text) => (text === "" || text.includes("*") ? text : `*${text}*`);

function draw({ channels, num_channels }) {
  const rows = Object.entries(channels).sort(([one], [other]) => (one < other ? -1 : 1));
  const pattern = $("channels-pattern").value.trim();
  if (num_channels === 0) {
    return [make("p", { className: "empty" }, pattern ? `No channel with subscribers matches “${pattern}”.` : "No channel has subscribers.")];
  }
  const count = make("p", { className: "hint" }, `${formatNumber(num_channels)} ${num_channels === 1 ? "channel" : "channels"} with subscribers`);
  return [count, table("Channels", ["Channel", "Subscribers"], rows.map(([name, { num_clients }]) => [link(name, "channel", name), formatNumber(num_clients)]))];
}

const list = new PagedList($("channels-table"), (cursor) => call("channels", { pattern: patternOf($("channels-pattern").value.trim()), limit: PAGE, cursor }), draw);

$("channels-form").addEventListener("submit", (event) => {
  event.preventDefault();
  list.restart();
});

export const channels = { show: () => list.restart(), hide() {} };
