// Why a publication did not arrive at a user or a client.

import { call } from "./api.js";
import { $, make, runBusy } from "./dom.js";
import { code, facts, link, missingNodes, sayBad, table } from "./parts.js";
import { formatNumber, formatTime } from "./text.js";

const COLUMNS = ["User", "Client", "Cause", "Session", "Position", "Waiting", "Node"];

/** Says what the session is: of an attempt to connect that was refused there is none. */
function stateOf({ is_open, connected_at, signed, attempts }) {
  if (is_open) return `open since ${formatTime(connected_at)}`;
  if (attempts === undefined) return "ended";
  const times = attempts === 1 ? "once" : `${formatNumber(attempts)} times`;
  return `refused ${times}${signed ? "" : ", with a token that anyone may have written"}`;
}

function sessionRow(session) {
  const { user, client, cause, position, queued_bytes, end, node } = session;
  const ending = end ? `${formatTime(end.time)}: ${end.code ?? ""} ${end.reason}` : "";
  return [
    user ? link(user, "sessions", user) : make("em", {}, "without a user"),
    make("code", { className: "id" }, client),
    cause.replaceAll("_", " "),
    [stateOf(session), ending].filter(Boolean).join("; "),
    position ? formatNumber(position.offset) : "",
    queued_bytes === undefined ? "" : `${formatNumber(queued_bytes)} bytes`,
    node.name,
  ];
}

function draw(result) {
  const { cause, explanation, publication, sessions } = result;
  const about = publication && facts([
    ["Publication", `#${publication.offset}`],
    ["Published", publication.time && formatTime(publication.time)],
    ["Epoch", code(publication.epoch)],
  ]);
  $("explain-result").replaceChildren(
    ...missingNodes(result),
    make("div", { className: "card verdict", "data-cause": cause },
      make("p", { className: "cause" }, cause.replaceAll("_", " ")), make("p", {}, explanation), ...(about ? [about] : [])),
    ...(sessions.length > 0 ? [table("Sessions", COLUMNS, sessions.map(sessionRow))] : [make("p", { className: "empty" }, "No session is open, and none has ended or was refused lately.")]),
  );
}

async function explainNow() {
  // Users and channels may begin or end with a space.
  const [user, client, channel, offset] = ["explain-user", "explain-client", "explain-channel", "explain-offset"].map((id) => $(id).value);
  if (!user && !client) return sayBad("Name a user or a client id.");
  try {
    draw(await call("explain", { channel, ...(user && { user }), ...(client && { client }), ...(offset && { offset: Number(offset) }) }));
  } catch (error) {
    $("explain-result").replaceChildren();
    sayBad(error.message);
  }
}

$("explain-form").addEventListener("submit", (event) => {
  event.preventDefault();
  runBusy(event.target.querySelector("button"), explainNow);
});

export const explain = {
  show(user = "", channel = "") {
    if (user) $("explain-user").value = user;
    if (channel) $("explain-channel").value = channel;
    $("explain-result").replaceChildren();
  },
  hide() {},
};
