// Subscribing, publishing, and reading history and presence.

import { forOtherToken } from "./channel_advice.js";
import { showCommandError } from "./connection.js";
import { $, runBusy, selectedValue } from "./dom.js";
import * as hub from "./hub.js";
import { checkJson, toJson } from "./json.js";
import { showCode, draw, knownUser, page, showNotice } from "./state.js";
import { isToken, readClaims } from "./token.js";

/** Publications of a history to show. */
const HISTORY_LIMIT = 10;

export async function subscribe(event) {
  event.preventDefault();
  const channel = $("subscribe-channel").value;
  const token = $("subscription-token").value.trim() || null;
  const problem = token && findTokenProblem(token, channel);
  if (problem) return showNotice(problem);
  await runBusy($("subscribe"), async () => {
    try {
      await page.client.subscribe(channel, token);
      for (const id of ["subscribe-channel", "subscription-token"]) $(id).value = "";
      $("subscription-token-more").open = false;
      showCode({ name: "subscribe", channel, hasToken: token !== null });
    } catch (error) {
      showCommandError(error, { command: "subscribe", channel, token });
    }
    draw();
  });
}

function findTokenProblem(token, channel) {
  if (!isToken(token)) return { title: "That is not a token", text: "A JWT has three parts separated by dots. Copy all of it, without quotes." };
  return forOtherToken(readClaims(token), channel, knownUser());
}

/** Opens the field for a subscription token if the name needs one. */
export function handleChannelInput() {
  if ($("subscribe-channel").value.startsWith("$")) $("subscription-token-more").open = true;
}

/** Asks for a subscription token, as an advice for this channel offers. */
export function askForToken({ channel }) {
  $("subscribe-channel").value = channel;
  $("subscription-token-more").open = true;
  $("subscription-token").focus();
}

export async function unsubscribe(channel) {
  showCode({ name: "unsubscribe", channel });
  $("subscribe-channel").focus();
  await page.client.unsubscribe(channel).catch((error) => showCommandError(error, { command: "unsubscribe", channel }));
}

/** Reads the newest publications of a channel. Resolves with {title, entries} to show, or with null after an error. */
export async function readHistory(channel) {
  const { history } = (await read("history", channel, { limit: HISTORY_LIMIT, reverse: true })) ?? {};
  if (!history) return null;
  const { publications = [], offset = 0, epoch = "" } = history;
  const newest = publications.length === 0 ? "no publications kept" : `the newest ${publications.length}`;
  const entries = publications.map(({ offset, data, info }) => ({ label: `#${offset}`, text: toJson(data), by: info && `by ${info.user || "anonymous"}` }));
  return { title: `Offset ${offset}, epoch ${epoch}: ${newest}`, entries };
}

/** Reads who is subscribed to a channel. Resolves like readHistory. */
export async function readPresence(channel) {
  const { presence } = (await read("presence", channel, {})) ?? {};
  if (!presence) return null;
  const clients = Object.values(presence.presence ?? {});
  const users = new Set(clients.map(({ user = "" }) => user));
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  const entries = clients.map(({ user, client }) => ({ label: user || "anonymous", text: client, by: client === page.client.session.client && "this page" }));
  return { title: `${count(clients.length, "client")} of ${count(users.size, "user")}`, entries };
}

async function read(command, channel, options) {
  showCode({ name: command, channel, options });
  try {
    return await page.client.command(command, { channel, ...options });
  } catch (error) {
    showCommandError(error, { command, channel });
    return null;
  }
}

/** Parses JSON; anything else becomes a string. */
function parseData(text) {
  try {
    return { data: checkJson(text), kind: "JSON" };
  } catch {
    return { data: text, kind: "not JSON: sent as a string" };
  }
}

/** Describes the data that the user types. Nothing is refused here: the hub's own answer is more instructive. */
export function handleDataInput() {
  const { data, kind } = parseData($("publish-data").value);
  const bytes = new Blob([toJson(data)]).size;
  const limit = page.facts?.publication_bytes ?? Infinity;
  $("data-kind").textContent = bytes > limit ? `${kind}, ${bytes} bytes: the hub accepts ${limit}` : kind;
  $("publish").textContent = "Publish";
}

export async function publish(event) {
  event.preventDefault();
  const [channel, transport] = [$("publish-channel").value, selectedValue("transport")];
  const { data } = parseData($("publish-data").value);
  await runBusy($("publish"), async () => {
    try {
      if (transport === "rest") await hub.publish(channel, data, page.identity.token);
      else await page.client.command("publish", { channel, data });
      if (transport === "rest") page.log.note(`published to ${channel} over REST`);
      showCode({ name: "publish", channel, data, transport });
      if (!page.client?.subscriptions.has(channel)) {
        showNotice({ title: `Published, but not received here`, text: `This page has no subscription to “${channel}”.` }, "info");
      }
    } catch (error) {
      showCommandError(error, { command: "publish", channel });
    }
  });
}
