// The state that all parts of the page share, and the functions that draw it.

import { aboutClock } from "./advice.js";
import { nameOf } from "./doors.js";
import { $, chosen, show } from "./dom.js";
import * as hub from "./hub.js";
import { claimsOf } from "./token.js";
import { notice, showExpiry, showSubscriptions } from "./view.js";

export const page = {
  /** The content of /demo/hub.json; null until it is loaded. */
  facts: null,
  /** {where, token, user, endsAt}, see keep.js; null without a login. */
  who: null,
  /** The token's lifetime when the page got it, in milliseconds. */
  total: 0,
  /** The connection, and how its token is sent. */
  link: null,
  door: null,
  /** Received publications, by channel. */
  counts: new Map(),
  /** The visible parts, and the actions that an advice may offer, by name: {label, run}. */
  log: null,
  code: null,
  choices: null,
  actions: {},
  unsubscribe: null,
  /** A token that a refresh is sending; it is redacted in the log, too. */
  next: null,
};

export const url = () => hub.socketUrl(page.facts?.websocket_path ?? "/connection/websocket");
export const isOver = () => page.who?.endsAt != null && page.who.endsAt <= hub.now();
const margin = () => (page.facts?.refresh_margin ?? 30) * 1000;

/** Shows an advice as "error", "good" or "info", and logs its title. */
export function say(what, kind = "error") {
  const isNew = notice(what, kind, page.actions[what.action] ?? null);
  if (isNew) page.log.note(what.title, kind);
}

export function draw() {
  const isIn = page.who !== null;
  const isLinked = page.link !== null && page.link.state !== "idle";
  const isReady = page.link?.isReady ?? false;
  show($("identity-body"), !isIn);
  show($("logout"), isIn);
  const where = { memory: "in memory", session: "in session storage", local: "in local storage", cookie: "in a cookie" };
  $("identity-summary").textContent = isIn ? `${page.who.user || "anonymous"}, token ${where[page.who.where]}` : "";
  show($("connect-body"), !isLinked);
  $("connect").disabled = !isIn || page.choices.door === null;
  show($("connect-hint"), !isIn || page.choices.door === null);
  $("connect-hint").textContent = isIn ? "The hub accepts no way to send this token: store it elsewhere (step 1)." : "Sign in first: a connection needs a token.";
  $("connect-summary").textContent = isLinked ? `token sent by ${nameOf(page.door).toLowerCase()}` : "";
  show($("disconnect"), isLinked);
  show($("refresh"), isIn);
  const isRest = chosen("over") === "rest";
  $("publish").disabled = isRest ? !page.who?.token : !isReady;
  $("subscribe").disabled = !isReady;
  const rest = document.querySelector('input[name="over"][value="rest"]');
  rest.disabled = page.who?.where === "cookie";
  rest.closest("label").title = rest.disabled ? "This page does not have the token" : "";
  $("channels-summary").textContent = isReady || isRest ? "" : "once connected";
  showSubscriptions(page.link?.channels ?? [], page.counts, page.unsubscribe);
  page.code.draw();
  tick();
}

export function tick() {
  showExpiry(page.who?.endsAt ?? null, page.total, margin());
}

/** Shows the code of an action, see code.js. */
export function about(action) {
  const isLinked = page.link !== null && page.link.state !== "idle";
  page.code.of({ door: isLinked ? page.door : page.choices.door, url: url(), user: page.who?.user || $("username").value || "ann", ...action });
}

export function sayClock(clock) {
  say({ title: "The clocks differ", text: clock }, "info");
}

/** Sets the identity, or removes it with null. */
export function become(identity) {
  page.who = identity;
  page.total = page.who?.endsAt ? page.who.endsAt - hub.now() : 0;
  page.choices.stand(page.who?.where ?? null);
  const clock = aboutClock(page.who?.token ? claimsOf(page.who.token) : null);
  $("clock").textContent = clock ?? "";
  if (clock && page.who) sayClock(clock);
  draw();
}
