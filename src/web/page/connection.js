// The page's connection: opens it, and explains how it ended.

import * as advice from "./advice.js";
import { planConnection, whyNot } from "./token_ways.js";
import { $ } from "./dom.js";
import * as hub from "./hub.js";
import { removeCookie } from "./identity.js";
import { HubClient } from "./client.js";
import { showCode, draw, isExpired, page, showNotice, socketUrl } from "./state.js";
import { redact } from "./token.js";
import { showCounts, showState, hideNotice } from "./view.js";

async function planNext() {
  if (isExpired()) throw new hub.RequestError(401, { code: 109 });
  const { token } = page.identity;
  const ticket = page.way === "ticket" ? (await hub.fetchTicket(token)).ticket : null;
  return planConnection(page.way, socketUrl(), { token, ticket });
}

export function connect() {
  if (!page.identity || !page.choices.way) return;
  hideNotice();
  page.way = page.choices.way;
  const channels = page.client?.channels ?? [];
  page.client?.close();
  page.client = new HubClient(planNext);
  const on = (name, handle) => page.client.addEventListener(name, ({ detail }) => handle(detail));
  on("state", (state) => (showState(state, page.client.isReturning), draw()));
  on("frame", ({ direction, text }) => page.log.frame(direction, redact(redact(text, page.identity?.token), page.nextToken)));
  on("ready", handleReady);
  on("channels", draw);
  on("publication", countPublication);
  on("subscribe-error", ({ channel, error }) => showNotice(advice.forCommand(error, channel)));
  on("connect-error", (error) => error.code === 109 && giveUp(advice.EXPIRED));
  on("unsubscribed", ({ channel, code }) => {
    if (code < 2500) showNotice({ title: `The hub ended the subscription to “${channel}”`, text: "The token no longer permits it, or the server API ended it." }, "info");
  });
  on("closed", handleClose);
  for (const channel of channels.length ? channels : ["news"]) page.client.subscribe(channel);
  page.client.connect();
  showCode({ name: "connect", channel: page.client.channels[0] });
}

function countPublication({ channel }) {
  page.counts.set(channel, (page.counts.get(channel) ?? 0) + 1);
  showCounts(page.counts);
}

function handleReady({ session, isReconnect, isOtherHub }) {
  if (page.identity?.expiresAt == null && session.ttl) {
    page.identity.expiresAt = hub.now() + session.ttl * 1000;
    page.lifetime = session.ttl * 1000;
  }
  if (isReconnect) showNotice(isOtherHub ? advice.OTHER_HUB : advice.RECONNECTED, "good");
  else if (document.activeElement === document.body || !document.activeElement.checkVisibility?.()) $("publish").focus();
}

/** Gives up: the page does not reconnect until the user does something. */
function giveUp(cause) {
  page.client?.close();
  showNotice(cause);
}

async function handleClose({ code, reason, error, isFinal, wasReady, failures }) {
  const client = page.client;
  if (isExpired()) return giveUp(advice.EXPIRED);
  if (isFinal) return giveUp(page.way === "cookie" && code === 3500 ? advice.COOKIE_NOT_ACCEPTED : advice.forClose(code, reason));
  if (code !== 1006 || (wasReady && navigator.onLine)) return showNotice(advice.forClose(code, reason), "info");
  const cause = await findCause(error, failures);
  // The connection may have been restored or closed in the meantime.
  if (client !== page.client || page.client.isReady || page.client.state === "idle") return;
  if (cause.action === "login") giveUp(cause);
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
