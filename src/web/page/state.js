// What all parts of the page share: its state, and how it is drawn and told.

import { aboutClock } from "./advice.js";
import { nameOf } from "./doors.js";
import { $, chosen, show } from "./dom.js";
import * as hub from "./hub.js";
import { claimsOf } from "./token.js";
import { notice, showExpiry, showSubscriptions } from "./view.js";

export const page = {
  /** What /demo/hub.json says; null until it has said it. */
  facts: null,
  /** {where, token, user, endsAt}, see keep.js; null when nobody is logged in. */
  who: null,
  /** How long the token lived when we got it. */
  total: 0,
  /** The connection, and the door through which its token gets in. */
  link: null,
  door: null,
  /** Publications heard, by channel. */
  counts: new Map(),
  /** The parts with a face, and what an advice may offer to do, by name: {label, run}. */
  log: null,
  code: null,
  choices: null,
  actions: {},
  unsubscribe: null,
  /** A token on its way in, not to be shown either. */
  next: null,
};

export const url = () => hub.socketUrl(page.facts?.websocket_path ?? "/connection/websocket");
export const isOver = () => page.who?.endsAt != null && page.who.endsAt <= hub.now();
const margin = () => (page.facts?.refresh_margin ?? 30) * 1000;

/** Tells an advice: "error", "good" or "info". */
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
  $("identity-summary").textContent = isIn ? `${page.who.user || "nobody in particular"}, token ${where[page.who.where]}` : "";
  show($("connect-body"), !isLinked);
  $("connect").disabled = !isIn || page.choices.door === null;
  show($("connect-hint"), !isIn || page.choices.door === null);
  $("connect-hint").textContent = isIn ? "No open door fits: keep the token elsewhere (step 1)." : "Sign in first: a connection needs a token.";
  $("connect-summary").textContent = isLinked ? `through ${nameOf(page.door).toLowerCase()}` : "";
  show($("disconnect"), isLinked);
  show($("refresh"), isIn);
  const isRest = chosen("over") === "rest";
  $("publish").disabled = isRest ? !page.who?.token : !isReady;
  $("subscribe").disabled = !isReady;
  const rest = document.querySelector('input[name="over"][value="rest"]');
  rest.disabled = page.who?.where === "cookie";
  rest.closest("label").title = rest.disabled ? "This page does not hold the token" : "";
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

/** Somebody else, or nobody. */
export function become(identity) {
  page.who = identity;
  page.total = page.who?.endsAt ? page.who.endsAt - hub.now() : 0;
  page.choices.stand(page.who?.where ?? null);
  const clock = aboutClock(page.who?.token ? claimsOf(page.who.token) : null);
  $("clock").textContent = clock ?? "";
  if (clock && page.who) sayClock(clock);
  draw();
}
