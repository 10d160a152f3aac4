// One channel: its facts, publishing, history, presence and subscribers.

import { call } from "./api.js";
import { $, make, runBusy, setShown } from "./dom.js";
import { checkJson, parseJson, toJson } from "./json.js";
import { PagedList, ask, button, code, facts, link, missingNodes, sayBad, sayGood } from "./parts.js";
import { sessionTable } from "./sessions.js";
import { formatNumber, formatTime } from "./text.js";

/** Publications of a page of the history. */
const HISTORY_PAGE = 20;
/** Most clients that are listed as present: the API has no pages of presence. The list of subscribers has. */
const MAX_PRESENT = 200;
const SUBSCRIBERS_PAGE = 20;
/** Characters of a publication that are shown at once. */
const MAX_DATA_CHARACTERS = 400;

/** What the form for publishing begins with: JSON, or Base64 in channels with binary data. */
const EXAMPLES = { JSON: '{"hello":"world"}', Base64: "aGVsbG8gd29ybGQ=" };

let name = "";
/** Whether the data of the channel is any bytes. */
let isBinary = false;

/** Runs `work`, and shows its error. A result that comes when another channel is shown is dropped. */
async function attempt(work) {
  const mine = name;
  try {
    await work(() => mine === name);
  } catch (error) {
    if (mine === name) sayBad(error.message);
  }
}

const loadFacts = () => attempt(async (isCurrent) => {
  const info = await call("channel_info", { channel: name });
  if (!isCurrent()) return;
  const { history, options, nodes } = info;
  showFormat(options.data_format === "binary");
  const rule = (value) => String(value).replaceAll("_", " ");
  $("channel-facts").replaceChildren(...missingNodes(info), facts([
    ["Subscribers", formatNumber(info.num_clients)],
    ["On nodes", nodes.map((node) => `${node.name}: ${formatNumber(node.num_clients)}`).join(", ")],
    ["Namespace", info.namespace],
    ["Users of the name", info.users?.join(", ")],
    ["Data", isBinary ? "binary" : undefined],
    ["Needs a token", info.requires_token ? "yes" : undefined],
    ["Newest offset", history?.offset === undefined ? undefined : formatNumber(history.offset)],
    ["Kept publications", history && formatNumber(history.num_publications)],
    ["Epoch", history?.epoch && code(history.epoch)],
    ["May subscribe", rule(options.allow_subscribe)],
    ["May publish", rule(options.allow_publish)],
    ["Presence", options.presence ? "kept" : "not kept"],
    ["Hooks", info.hooks.join(", ")],
  ]));
  setShown($("history-remove"), history !== undefined);
  if (history === undefined) $("channel-history").replaceChildren(make("p", { className: "hint" }, "The channel keeps no history."));
  else await publications.restart();
  if (isCurrent()) await loadPresence(options.presence, isCurrent);
});

async function loadPresence(isKept, isCurrent) {
  if (!isKept) return $("channel-presence").replaceChildren(make("p", { className: "hint" }, "The channel keeps no presence. The nodes themselves list the subscribers below."));
  const { num_clients, num_users } = await call("presence_stats", { channel: name });
  const count = make("p", {}, `${formatNumber(num_clients)} ${num_clients === 1 ? "client" : "clients"}, ${formatNumber(num_users)} ${num_users === 1 ? "user" : "users"}`);
  if (num_clients > MAX_PRESENT) {
    if (isCurrent()) $("channel-presence").replaceChildren(count, make("p", { className: "hint" }, "Too many for one list; the subscribers below come in pages."));
    return;
  }
  const { presence } = num_clients === 0 ? { presence: {} } : await call("presence", { channel: name });
  if (!isCurrent()) return;
  const items = Object.values(presence).map(({ user, client }) => make("li", {}, user ? link(user, "sessions", user) : make("em", {}, "without a user"), " ", make("small", { className: "id" }, client)));
  $("channel-presence").replaceChildren(count, make("ul", { className: "present" }, ...items));
}

/** Has the form for publishing ask for the data in the format of the channel. */
function showFormat(isBinaryNow) {
  isBinary = isBinaryNow;
  const [format, other] = isBinary ? ["Base64", "JSON"] : ["JSON", "Base64"];
  $("publish-format").textContent = format;
  if ($("publish-data").value === EXAMPLES[other]) $("publish-data").value = EXAMPLES[format];
}

/** Returns the fields of a publication with what the user has typed. Throws an Error that says what is wrong with it. */
function readData(text) {
  try {
    if (!isBinary) return { data: checkJson(text) };
    const b64data = text.replace(/\s+/g, "");
    atob(b64data);
    return { b64data };
  } catch (error) {
    throw new Error(isBinary ? "The data is not Base64, as the data of this channel must be." : `The data is not JSON: ${error.message}`);
  }
}

/** Returns the data, or its beginning and a button that shows all of it. */
function dataOf(text, offset) {
  if (text.length <= MAX_DATA_CHARACTERS) return [code(text)];
  const shown = code(`${text.slice(0, MAX_DATA_CHARACTERS)}…`);
  const label = `Show all ${formatNumber(text.length)} characters`;
  const more = button(label, `${label} of #${offset}`, () => {
    shown.textContent = text;
    more.remove();
  });
  return [shown, more];
}

/** Says how many bytes a publication with binary data has. */
function sizeOf(b64data) {
  const bytes = atob(b64data).length;
  return `, binary, ${formatNumber(bytes)} ${bytes === 1 ? "byte" : "bytes"}`;
}

function publicationItem({ offset, data, b64data, info, time, tags }) {
  const text = b64data ?? toJson(data);
  const size = b64data === undefined ? "" : sizeOf(b64data);
  const from = info ? ` from ${info.user}` : "";
  const tagged = tags ? `, ${Object.entries(tags).map(([key, value]) => `${key}=${value}`).join(" ")}` : "";
  return make("li", {}, make("span", { className: "offset" }, `#${offset}`), make("small", { className: "id" }, `${formatTime(time)}${from}${size}${tagged}`), ...dataOf(text, offset));
}

/** The newest first. The cursor of a page is the position before it. */
const publications = new PagedList(
  $("channel-history"),
  async (since) => {
    const page = await call("history", { channel: name, limit: HISTORY_PAGE, reverse: true, ...(since && { since }) }, parseJson);
    const last = page.publications.at(-1);
    return { ...page, cursor: page.publications.length === HISTORY_PAGE && last.offset > 1 ? { offset: last.offset, epoch: page.epoch } : undefined };
  },
  ({ publications: page }) => [page.length === 0 ? make("p", { className: "hint" }, "No publication is kept.") : make("ol", { className: "publications" }, ...page.map(publicationItem))],
);

const subscribers = new PagedList(
  $("channel-subscribers"),
  (cursor) => call("connections", { channel: name, limit: SUBSCRIBERS_PAGE, ...(cursor && { cursor }) }),
  ({ connections, cursor }) =>
    connections.length === 0 && !cursor ? [make("p", { className: "empty" }, "The channel has no subscribers.")] : [sessionTable("Subscribers", connections, () => subscribers.reload())],
);

$("publish-form").addEventListener("submit", (event) => {
  event.preventDefault();
  runBusy(event.submitter ?? event.target.querySelector("button"), () => attempt(async () => {
    const { offset } = await call("publish", { channel: name, ...readData($("publish-data").value) });
    await loadFacts();
    sayGood(offset === undefined ? "Published." : `Published as #${offset}.`);
  }));
});

$("channel-refresh").addEventListener("click", (event) => runBusy(event.currentTarget, () => Promise.all([loadFacts(), subscribers.reload()])));

$("history-remove").addEventListener("click", async (event) => {
  const element = event.currentTarget;
  if (!(await ask(`Delete the history of ${name}?`, "Deletes all publications that the channel keeps. Clients cannot recover them any more.", "Delete"))) return;
  await runBusy(element, () => attempt(async () => {
    await call("history_remove", { channel: name });
    await loadFacts();
    sayGood("Deleted the history.");
  }));
});

export const channel = {
  show(shown = "") {
    name = shown;
    showFormat(false);
    $("channel-title").replaceChildren(make("span", { className: "hidden" }, "Channel "), name);
    $("channel-links").replaceChildren(link("Trace", "trace", "channel", name), link("Explain", "explain", "", name), link("All channels", "channels"));
    for (const id of ["channel-facts", "channel-history", "channel-presence", "channel-subscribers"]) $(id).replaceChildren();
    return Promise.all([loadFacts(), subscribers.restart()]);
  },
  hide() {
    name = "";
  },
};
