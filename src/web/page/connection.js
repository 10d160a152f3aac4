// The page's connection: opens it, and explains how it ended.

import * as advice from "./advice.js";
import { plan, whyNot } from "./doors.js";
import { $ } from "./dom.js";
import * as hub from "./hub.js";
import { dropCookie } from "./identity.js";
import { Link } from "./link.js";
import { about, draw, isOver, page, say, url } from "./state.js";
import { redact } from "./token.js";
import { showCounts, showState, unnotice } from "./view.js";

async function openPlan() {
  if (isOver()) throw new hub.Refused(401, { code: 109 });
  const { token } = page.who;
  const ticket = page.door === "ticket" ? (await hub.ticket(token)).ticket : null;
  return plan(page.door, url(), { token, ticket });
}

export function connect() {
  if (!page.who || !page.choices.door) return;
  unnotice();
  page.door = page.choices.door;
  const channels = page.link?.channels ?? [];
  page.link?.close();
  page.link = new Link(openPlan);
  const on = (name, handle) => page.link.addEventListener(name, ({ detail }) => handle(detail));
  on("state", (state) => (showState(state, page.link.isReturning), draw()));
  on("frame", ({ direction, text }) => page.log.frame(direction, redact(redact(text, page.who?.token), page.next)));
  on("ready", ready);
  on("channels", draw);
  on("pub", heard);
  on("refused", ({ channel, error }) => say(advice.forCommand(error, channel)));
  on("denied", (error) => error.code === 109 && over(advice.EXPIRED));
  on("ended", ({ channel, code }) => {
    if (code < 2500) say({ title: `The hub ended the subscription to “${channel}”`, text: "The token no longer permits it, or the server API ended it." }, "info");
  });
  on("gone", gone);
  for (const channel of channels.length ? channels : ["news"]) page.link.subscribe(channel);
  page.link.connect();
  about({ name: "connect", channel: page.link.channels[0] });
}

function heard({ channel }) {
  page.counts.set(channel, (page.counts.get(channel) ?? 0) + 1);
  showCounts(page.counts);
}

function ready({ session, isBack, isOtherHub }) {
  if (page.who?.endsAt == null && session.ttl) {
    page.who.endsAt = hub.now() + session.ttl * 1000;
    page.total = session.ttl * 1000;
  }
  if (isBack) say(isOtherHub ? advice.OTHER_HUB : advice.RECONNECTED, "good");
  else if (document.activeElement === document.body || !document.activeElement.checkVisibility?.()) $("publish").focus();
}

/** Gives up: the page does not reconnect until the user does something. */
function over(what) {
  page.link?.close();
  say(what);
}

async function gone({ code, reason, error, isOver: isFinal, wasReady, failures }) {
  const mine = page.link;
  if (isOver()) return over(advice.EXPIRED);
  if (isFinal) return over(page.door === "cookie" && code === 3500 ? advice.NO_COOKIE : advice.forClose(code, reason));
  if (code !== 1006 || (wasReady && navigator.onLine)) return say(advice.forClose(code, reason), "info");
  const cause = await why(error, failures);
  // The connection may have been restored or closed in the meantime.
  if (mine !== page.link || page.link.isReady || page.link.state === "idle") return;
  if (cause.action === "login") over(cause);
  else say(cause);
}

/** Finds out why a handshake failed. A script sees only 1006, so the page asks the hub over HTTP. */
async function why(error, failures) {
  if (!navigator.onLine) return advice.OFFLINE;
  if (error) return advice.forTicket(error);
  try {
    page.facts = await hub.facts();
    page.choices.know(page.facts, url());
    if (whyNot(page.door, page.facts, page.who.where)) return { title: "The hub no longer accepts tokens sent in this way", text: "Disconnect and choose another way in step 2." };
    if (page.door === "cookie") return failures > 1 ? advice.NO_COOKIE : advice.REFUSED;
    await dropCookie();
    if (page.facts.doors.includes("ticket")) await hub.ticket(page.who.token);
    return advice.REFUSED;
  } catch (refused) {
    return advice.forTicket(refused);
  }
}

export function disconnect() {
  page.link?.close();
  showState("idle");
  draw();
  $("connect").focus();
}
