// The page's connection: opens it, and explains how it ended.

import * as advice from "./advice.js";
import * as channelAdvice from "./channel_advice.js";
import { planConnection, whyNot } from "./token_ways.js";
import { $ } from "./dom.js";
import * as hub from "./hub.js";
import { removeCookie } from "./identity.js";
import { HubClient } from "./client.js";
import { canRenew, renew } from "./renewal.js";
import { showCode, draw, isExpired, knownUser, page, showNotice, socketUrl } from "./state.js";
import { readClaims, redact } from "./token.js";
import { showState, hideNotice } from "./view.js";

/** The close code for a message above limits.message_bytes (RFC 6455 §7.4.1). */
const MESSAGE_TOO_BIG = 1009;

/** The close codes after which a new token of the same login may be accepted. */
const OF_TOKEN = [3005, 3500];

/** Whether the next handshake needs a new token, although the old one has not expired by this page's clock. */
let isTokenRefused = false;
/** Whether no session has begun since the token was renewed for that. */
let isRenewalUnproven = false;

const mayRenew = () => canRenew() && !isRenewalUnproven;

async function planNext() {
  if (isExpired() || isTokenRefused) {
    if (!canRenew()) throw new hub.RequestError(401, { code: 109 });
    await renew();
    [isRenewalUnproven, isTokenRefused] = [isTokenRefused, false];
  }
  const { token } = page.identity;
  const ticket = page.way === "ticket" ? (await hub.fetchTicket(token)).ticket : null;
  return planConnection(page.way, socketUrl(), { token, ticket, subs: positionsFromHub() });
}

/** Returns the positions of the subscriptions that the hub made, which only a connect command can recover. */
function positionsFromHub() {
  const found = [...page.client.subscriptions].filter(([, { isServerSide, position }]) => isServerSide && position);
  return Object.fromEntries(found.map(([channel, { position }]) => [channel, { recover: true, ...position }]));
}

export function connect() {
  if (!page.identity || !page.choices.way) return;
  hideNotice();
  page.way = page.choices.way;
  page.client?.close();
  [isTokenRefused, isRenewalUnproven] = [false, false];
  page.client = new HubClient(planNext, page.client?.subscriptions, (code) => OF_TOKEN.includes(code) && mayRenew());
  const on = (name, handle) => page.client.addEventListener(name, ({ detail }) => handle(detail));
  on("state", (state) => (showState(state, page.client.isReturning), draw()));
  on("frame", ({ direction, text }) => page.log.frame(direction, redact(text, tokens())));
  on("ready", handleReady);
  on("restored", handleRestored);
  on("channels", draw);
  on("publication", handlePublication);
  on("subscribe-error", ({ channel, error, token }) => showCommandError(error, { command: "subscribe", channel, token }));
  on("connect-error", (error) => error.code === 109 && handleExpiredToken());
  on("unsubscribed", ({ channel, code }) => {
    if (code < 2500) showNotice({ title: `The hub ended the subscription to “${channel}”`, text: "The token no longer permits it, or the server API ended it." }, "info");
  });
  on("closed", handleClose);
  if (page.client.subscriptions.size === 0) page.client.subscribe("news");
  page.client.connect();
  showCode({ name: "connect", channel: page.client.subscriptions.keys().next().value });
}

/** Returns all tokens that this page has sent: the log shows none of them. */
function tokens() {
  const ofSubscriptions = [...(page.client?.subscriptions.values() ?? [])].map(({ token }) => token);
  return [page.identity?.token, page.nextToken, ...ofSubscriptions];
}

/** The hub has answered a connect command. */
function handleExpiredToken() {
  if (!mayRenew()) return giveUp(advice.EXPIRED);
  isTokenRefused = true;
  page.client.connect();
}

function handlePublication({ channel, publication, isRecovered }) {
  if (isRecovered) page.log.recovered(channel, publication);
  page.list.scheduleFacts();
}

/** Explains an error reply to a command. If the connection ended before the reply, its close is explained instead. */
export function showCommandError(error, { command, channel, token = null }) {
  if (error.isClosed) return;
  showNotice(channelAdvice.forCommand(error, { command, channel, token, user: knownUser() }));
}

function handleReady({ session }) {
  isRenewalUnproven = false;
  if (page.identity?.expiresAt == null && session.ttl) {
    page.identity.expiresAt = hub.now() + session.ttl * 1000;
    page.lifetime = session.ttl * 1000;
  }
  if (document.activeElement === document.body || !document.activeElement.checkVisibility?.()) $("publish").focus();
}

/** The reason of a close that the user's own message caused stays on the page. */
function handleRestored({ isReconnect, isOtherHub, closedBy }) {
  draw();
  if (!isReconnect) return;
  const restored = channelAdvice.forReconnect(page.client.subscriptions, isOtherHub);
  if (closedBy === MESSAGE_TOO_BIG) page.log.note(restored.title, "good");
  else showNotice(restored, "good");
}

/** Gives up: the page does not reconnect until the user does something. */
function giveUp(cause) {
  page.client?.close();
  const isEarly = readClaims(page.identity?.token ?? "")?.nbf * 1000 > hub.now();
  const isOfToken = cause === advice.EXPIRED || cause === advice.TOKEN_NOT_ACCEPTED;
  showNotice(isEarly && isOfToken ? advice.NOT_YET_VALID : cause);
}

async function handleClose({ code, reason, error, isFinal, wasReady, failures, longestText }) {
  const client = page.client;
  if (code === MESSAGE_TOO_BIG) return showNotice(advice.messageTooBig(new Blob([longestText]).size, page.facts));
  if (OF_TOKEN.includes(code) && !isFinal) return (isTokenRefused = true);
  if (isExpired() && !canRenew()) return giveUp(advice.EXPIRED);
  if (isFinal) return giveUp(page.way === "cookie" && code === 3500 ? advice.COOKIE_NOT_ACCEPTED : advice.forClose(code, reason));
  if (code !== 1006 || (wasReady && navigator.onLine)) return showNotice(advice.forClose(code, reason), "info");
  const cause = await findCause(error, failures);
  // The connection may have been restored or closed in the meantime.
  if (client !== page.client || page.client.isReady || page.client.state === "idle") return;
  if (cause.action === "login" && mayRenew()) isTokenRefused = true;
  else if (cause.action === "login") giveUp(cause);
  else showNotice(cause);
}

/** Finds out why a handshake failed. A script sees only 1006, so the page asks the hub over HTTP. */
async function findCause(error, failures) {
  if (!navigator.onLine) return advice.OFFLINE;
  if (error) return advice.forTicket(error);
  try {
    page.facts = await hub.fetchFacts();
    page.choices.setFacts(page.facts, socketUrl());
    if (whyNot(page.way, page.facts, page.identity.storedIn)) return { title: "The hub no longer accepts tokens sent in this way", text: "Disconnect and choose another way in step 2." };
    if (page.way === "cookie") return failures > 1 ? advice.COOKIE_NOT_ACCEPTED : advice.HANDSHAKE_REFUSED;
    await removeCookie();
    if (page.facts.doors.includes("ticket")) await hub.fetchTicket(page.identity.token);
    return advice.HANDSHAKE_REFUSED;
  } catch (refused) {
    return advice.forTicket(refused);
  }
}

export function disconnect() {
  page.client?.close();
  showState("idle");
  draw();
  $("connect").focus();
}
