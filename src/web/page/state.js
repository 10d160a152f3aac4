// The state that all parts of the page share, and the functions that draw it.

import { forClocks } from "./advice.js";
import { nameOf } from "./token_ways.js";
import { $, selectedValue, setShown } from "./dom.js";
import * as hub from "./hub.js";
import { readClaims } from "./token.js";
import { drawNotice, showExpiry } from "./view.js";

export const page = {
  /** The content of /demo/hub.json; null until it is loaded. */
  facts: null,
  /** {storedIn, token, user, expiresAt}, see storage.js; null without a login. */
  identity: null,
  /** The token's lifetime when the page got it, in milliseconds. */
  lifetime: 0,
  /** The connection, and how its token is sent. */
  client: null,
  way: null,
  /** The visible parts, and the actions that an advice may offer, by name: {label, run}. */
  log: null,
  code: null,
  choices: null,
  list: null,
  actions: {},
  /** A token that a refresh is sending; it is redacted in the log, too. */
  nextToken: null,
};

export const socketUrl = () => hub.socketUrl(page.facts?.websocket_path ?? "/connection/websocket");
/** Returns the user as the hub knows it; null if the hub may put a prefix before the `sub` of the token. */
export const knownUser = () => (page.facts?.user_prefixes ? null : (page.identity?.user ?? ""));
export const isExpired = () => page.identity?.expiresAt != null && page.identity.expiresAt <= hub.now();
const margin = () => (page.facts?.refresh_margin ?? 30) * 1000;

/** Shows an advice as "error", "good" or "info", and logs its title. */
export function showNotice(advice, kind = "error") {
  const isNew = drawNotice(advice, kind, page.actions[advice.action] ?? null);
  if (isNew) page.log.note(advice.title, kind);
}

export function draw() {
  const isIn = page.identity !== null;
  const isActive = page.client !== null && page.client.state !== "idle";
  const isReady = page.client?.isReady ?? false;
  setShown($("identity-body"), !isIn);
  setShown($("logout"), isIn);
  const places = { memory: "in memory", session: "in session storage", local: "in local storage", cookie: "in a cookie" };
  $("identity-summary").textContent = isIn ? `${page.identity.user || "anonymous"}, token ${places[page.identity.storedIn]}` : "";
  setShown($("connect-body"), !isActive);
  $("connect").disabled = !isIn || page.choices.way === null;
  setShown($("connect-hint"), !isIn || page.choices.way === null);
  $("connect-hint").textContent = isIn ? "The hub accepts no way to send this token: store it elsewhere (step 1)." : "Sign in first: a connection needs a token.";
  $("connect-summary").textContent = isActive ? `token sent by ${nameOf(page.way).toLowerCase()}` : "";
  setShown($("disconnect"), isActive);
  setShown($("refresh"), isIn);
  const isRest = selectedValue("transport") === "rest";
  $("publish").disabled = isRest ? !page.identity?.token : !isReady;
  $("subscribe").disabled = !isReady;
  const rest = document.querySelector('input[name="transport"][value="rest"]');
  rest.disabled = page.identity?.storedIn === "cookie";
  rest.closest("label").title = rest.disabled ? "This page does not have the token" : "";
  $("channels-summary").textContent = isReady || isRest ? "" : "once connected";
  $("subscription-token-example").textContent = `wardcast token --user ${page.identity?.user || "ann"} --subscription '$secret'`;
  page.list.draw(page.client?.subscriptions ?? new Map(), isReady);
  page.code.draw();
  drawExpiry();
}

export function drawExpiry() {
  showExpiry(page.identity?.expiresAt ?? null, page.lifetime, margin());
}

/** Shows the code of an action, see code.js. */
export function showCode(action) {
  const isActive = page.client !== null && page.client.state !== "idle";
  page.code.setAction({ hasInternalApi: page.facts?.internal_api ?? false, way: isActive ? page.way : page.choices.way, url: socketUrl(), user: page.identity?.user || $("username").value || "ann", ...action });
}

export function showClockNotice(clock) {
  showNotice({ title: "The clocks differ", text: clock }, "info");
}

/** Sets the identity, or removes it with null. */
export function setIdentity(identity) {
  page.identity = identity;
  page.lifetime = page.identity?.expiresAt ? page.identity.expiresAt - hub.now() : 0;
  page.choices.setStoredIn(page.identity?.storedIn ?? null);
  const clock = forClocks(page.identity?.token ? readClaims(page.identity.token) : null);
  $("clock").textContent = clock ?? "";
  if (clock && page.identity) showClockNotice(clock);
  draw();
}
