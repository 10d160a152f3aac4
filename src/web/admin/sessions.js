// The sessions of all users, or of one: from where, with which credential, until when; and how to end them.

import { call, unlessEnded } from "./api.js";
import { $, make, runBusy, setShown } from "./dom.js";
import { PagedList, ask, button, code, link, sayBad, sayGood, table } from "./parts.js";
import { formatDuration, formatRelative, formatTime } from "./text.js";

const PAGE = 50;
/** Channels that the list of one user's sessions names for each. */
const CHANNELS = 10;
const COLUMNS = ["User", "From", "Client", "Credential", "Connected", "Expires", "Channels", "Node", ""];
/** How long the sessions of a user have to end before the list is loaded again. */
const SETTLE_MS = 300;

const withTime = (seconds, text) => make("time", { dateTime: new Date(seconds * 1000).toISOString(), title: formatTime(seconds * 1000) }, text);

function channelsOf({ num_channels, channels = [] }) {
  if (channels.length === 0) return String(num_channels);
  const links = channels.flatMap((name) => [link(name, "channel", name), " "]);
  return make("span", { className: "names" }, ...links, num_channels > channels.length ? `and ${num_channels - channels.length} more` : "");
}

/** Returns a table of connections. `reload` is called when one was closed. */
export function sessionTable(label, connections, reload) {
  const rows = connections.map((connection) => {
    const { user, client, address, credential, transport, format, connected_at, expire_at, node, name, version } = connection;
    const software = [name, version].filter(Boolean).join(" ");
    return [
      user ? link(user, "sessions", user) : make("em", {}, "without a user"),
      make("span", {}, address, make("small", { className: "id" }, ` ${transport} ${format}${software ? `, ${software}` : ""}`)),
      make("a", { href: `#trace/client/${client}`, title: "Trace this client" }, make("code", { className: "id" }, client)),
      credential ?? "none",
      withTime(connected_at, `${formatDuration(Date.now() / 1000 - connected_at)} ago`),
      expire_at ? withTime(expire_at, formatRelative(expire_at)) : "never",
      channelsOf(connection),
      make("span", { title: node.uid }, node.name),
      user ? button("Disconnect", `Disconnect ${user}, client ${client}`, (event) => disconnect(event.currentTarget, connection, reload)) : "",
    ];
  });
  return table(label, COLUMNS, rows);
}

async function run(element, what, method, body, reload) {
  await runBusy(element, async () => {
    try {
      await call(method, body);
      // The sessions end on their nodes, soon.
      await unlessEnded(new Promise((resolve) => setTimeout(resolve, SETTLE_MS)));
      await reload();
      sayGood(what);
    } catch (error) {
      sayBad(error.message);
    }
  });
}

async function disconnect(element, { user, client }, reload) {
  const isSure = await ask(`Disconnect ${user}?`, `Closes the connection ${client}. The client stays away until its user connects again.`, "Disconnect");
  if (isSure) await run(element, `Disconnected ${user}.`, "disconnect", { user, client }, reload);
}

function draw({ connections, cursor }) {
  if (connections.length === 0 && !cursor) {
    return [make("p", { className: "empty" }, shownUser ? `“${shownUser}” has no session.` : "There are no sessions.")];
  }
  return [sessionTable("Sessions", connections, () => list.reload())];
}

/** The user whose sessions are shown, exactly as the hub knows it; empty: all users. The field may have a text that was not sent. */
let shownUser = "";

const list = new PagedList(
  $("sessions-table"),
  (cursor) => call("connections", { limit: PAGE, ...(shownUser && { user: shownUser, channels: CHANNELS }), ...(cursor && { cursor }) }),
  draw,
);

/** Draws what can be done with all sessions of the user. */
function drawActions(user) {
  setShown($("sessions-actions"), user !== "");
  if (user === "") return;
  const reload = () => list.restart();
  const disconnectAll = button("Disconnect all", `Disconnect all of ${user}`, async (event) => {
    const element = event.currentTarget;
    const isSure = await ask(`Disconnect all sessions of ${user}?`, "Closes all connections of the user. The user's tokens stay valid.", "Disconnect all");
    if (isSure) await run(element, `Disconnected all sessions of ${user}.`, "disconnect", { user }, reload);
  }, "");
  const revoke = button("Revoke tokens", `Revoke tokens of ${user}`, async (event) => {
    const element = event.currentTarget;
    const isSure = await ask(`Revoke all tokens of ${user}?`, "All nodes refuse the tokens of the user that were issued until now, and close the sessions that have one.", "Revoke");
    if (isSure) await run(element, `Revoked all tokens of ${user}.`, "invalidate_user_tokens", { user }, reload);
  }, "danger");
  $("sessions-actions").replaceChildren(make("strong", {}, code(user)), disconnectAll, revoke, link("Trace", "trace", "user", user), link("Explain", "explain", user), link("All users", "sessions"));
}

$("sessions-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("sessions-user").value;
  const target = user ? `#sessions/${encodeURIComponent(user)}` : "#sessions";
  if (location.hash === target) list.restart();
  else location.hash = target;
});

export const sessions = {
  show(user = "") {
    shownUser = user;
    $("sessions-user").value = user;
    drawActions(user);
    return list.restart();
  },
  hide() {},
};
