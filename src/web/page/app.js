// The page's course: who it is, its connection, what is asked of both, and what is said when something goes wrong.

import * as advice from "./advice.js";
import { Choices } from "./choices.js";
import { nameOf, plan, whyNot } from "./doors.js";
import { $, busy, chosen, show } from "./dom.js";
import * as hub from "./hub.js";
import { forget, keepCookie, keepToken, recall } from "./keep.js";
import { Link } from "./link.js";
import { Log } from "./log.js";
import { claimsOf, duration, endOf, isToken, redact } from "./token.js";
import { Code, notice, showExpiry, showState, showSubscriptions, unnotice } from "./view.js";

let facts = null;
let who = null; // {where, token, user, endsAt}, see keep.js
let link = null;
let usedDoor = null;
let total = 0; // how long the token lives from when we got it
const counts = new Map();

const log = new Log();
const code = new Code(() => who?.token ?? null);
const choices = new Choices(chosenAnew);

const url = () => hub.socketUrl(facts?.websocket_path ?? "/connection/websocket");
const margin = () => (facts?.refresh_margin ?? 30) * 1000;
const isOver = () => who?.endsAt != null && who.endsAt <= hub.now();

// --- What is said ---

function actionOf(name) {
  if (name === "login") return { label: "Log in again", run: () => logOut({ isWished: false }) };
  if (name === "connect") return { label: "Connect", run: connect };
  return null;
}

function say(what, kind = "error") {
  notice(what, kind, actionOf(what.action));
  if (kind === "error") log.note(what.title, "error");
}

function draw() {
  const isIn = who !== null;
  const isLinked = link !== null && link.state !== "idle";
  const isReady = link?.isReady ?? false;
  show($("identity-body"), !isIn);
  show($("logout"), isIn);
  const where = { memory: "in memory", session: "in session storage", local: "in local storage", cookie: "in a cookie" };
  $("identity-summary").textContent = isIn ? `${who.user || "nobody in particular"}, token ${where[who.where]}` : "";
  show($("connect-body"), !isLinked);
  $("connect").disabled = !isIn || choices.door === null;
  show($("connect-hint"), !isIn || choices.door === null);
  $("connect-hint").textContent = isIn ? "No open door fits: keep the token elsewhere (step 1)." : "Sign in first: a connection needs a token.";
  $("connect-summary").textContent = isLinked ? `through ${nameOf(usedDoor).toLowerCase()}` : "";
  show($("disconnect"), isLinked);
  show($("refresh"), isIn);
  const isRest = chosen("over") === "rest";
  $("publish").disabled = isRest ? !who?.token : !isReady;
  $("subscribe").disabled = !isReady;
  const rest = document.querySelector('input[name="over"][value="rest"]');
  rest.disabled = who?.where === "cookie";
  rest.closest("label").title = rest.disabled ? "This page does not hold the token" : "";
  $("channels-summary").textContent = isReady || isRest ? "" : "once connected";
  showSubscriptions(link?.channels ?? [], counts, unsubscribe);
  code.draw();
  tick();
}

function tick() {
  showExpiry(who?.endsAt ?? null, total, margin());
}

function about(action) {
  code.of({ door: usedDoor ?? choices.door, url: url(), user: who?.user || $("username").value || "ann", ...action });
}

// --- Who this is ---

function become(identity) {
  who = identity;
  total = who?.endsAt ? who.endsAt - hub.now() : 0;
  choices.draw(who?.where);
  const clock = advice.aboutClock(who?.token ? claimsOf(who.token) : null);
  $("clock").textContent = clock ?? "";
  if (clock && who) say({ title: "The clocks differ", text: clock }, "info");
  draw();
}

/** A new token by user and password, kept where it was chosen. Gives the identity. */
async function fetchToken(username, password, where) {
  const isCookie = where === "cookie";
  const answer = await hub.login(username, password, isCookie);
  if (isCookie) return keepCookie(username, hub.now() + answer.expires_in * 1000);
  await dropCookie();
  return keepToken(where, answer.access_token);
}

/** An old cookie would come with every handshake, and be refused for what is brought by another door. */
async function dropCookie() {
  if (facts?.doors.includes("cookie")) await hub.logout().catch(() => {});
}

async function logIn(event) {
  event.preventDefault();
  await busy($("login"), async () => {
    try {
      const identity = await fetchToken($("username").value, $("password").value, choices.keep);
      unnotice();
      become(identity);
      about({ name: "login", cookie: identity.where === "cookie" });
      $("connect").focus();
    } catch (error) {
      say(advice.forLogin(error));
      $("password").select();
    }
  });
}

async function paste(event) {
  event.preventDefault();
  const token = $("pasted").value.trim().replace(/^bearer\s+/i, "");
  if (!isToken(token)) {
    say({ title: "That is no token", text: "A JWT has three parts with dots between them. Copy it whole, without quotes." });
    return;
  }
  if (choices.keep === "cookie") {
    say({ title: "A page cannot put a token into this cookie", text: "That is the point of it: only the hub's login does. Log in, or keep it elsewhere." });
    return;
  }
  $("pasted").value = "";
  await dropCookie();
  unnotice();
  become(keepToken(choices.keep, token));
  if (isOver()) say(advice.EXPIRED);
  $("connect").focus();
}

/** Everywhere: variable, storages, and the cookie by the hub, which alone can. */
async function logOut({ isWished }) {
  link?.close();
  link = null;
  const user = who?.user;
  forget();
  if (isWished) $("password").value = "";
  become(null);
  showState("idle");
  if (user) $("username").value = user;
  $(user ? "password" : "username").focus();
  await dropCookie();
}

function chosenAnew(what) {
  if (what === "door") about({ name: "connect" });
  queueMicrotask(draw);
}

// --- The connection ---

async function openPlan() {
  if (isOver()) throw new hub.Refused(401, { code: 109 });
  const { token } = who;
  const ticket = usedDoor === "ticket" ? (await hub.ticket(token)).ticket : null;
  return plan(usedDoor, url(), { token, ticket });
}

function connect() {
  if (!who || !choices.door) return;
  unnotice();
  usedDoor = choices.door;
  const channels = link?.channels ?? [];
  link?.close();
  link = new Link(openPlan);
  const on = (name, handle) => link.addEventListener(name, ({ detail }) => handle(detail));
  on("state", (state) => (showState(state), draw()));
  on("frame", ({ direction, text }) => log.frame(direction, redact(text, who?.token)));
  on("ready", ready);
  on("channels", draw);
  on("pub", ({ channel }) => (counts.set(channel, (counts.get(channel) ?? 0) + 1), draw()));
  on("refused", ({ channel, error }) => say(advice.forCommand(error, channel)));
  on("denied", (error) => error.code === 109 && over(advice.EXPIRED));
  on("ended", ({ channel, code }) => {
    if (code < 2500) say({ title: `The hub ended the subscription to “${channel}”`, text: "The token does not allow it any more, or somebody with the API key ordered it." }, "info");
  });
  on("gone", gone);
  for (const channel of channels.length ? channels : ["news"]) link.subscribe(channel);
  link.connect();
  about({ name: "connect", channel: link.channels[0] });
}

function ready({ session, isBack, isOtherHub }) {
  if (who?.endsAt == null && session.ttl) {
    who.endsAt = hub.now() + session.ttl * 1000;
    total = session.ttl * 1000;
  }
  if (isBack) say(isOtherHub ? advice.OTHER_HUB : advice.BACK, "good");
  else if (document.activeElement === document.body || !document.activeElement.checkVisibility?.()) $("publish").focus();
}

/** The end: nothing is tried again until somebody does something. */
function over(what) {
  link?.close();
  say(what);
}

async function gone({ code, reason, error, isOver: isFinal, wasReady, wait, failures }) {
  const mine = link;
  if (isOver()) return over(advice.EXPIRED);
  if (isFinal) return over(usedDoor === "cookie" && code === 3500 ? advice.NO_COOKIE : advice.forClose(code, reason));
  showState("waiting", `in ${duration(wait)}`);
  if (code !== 1006 || (wasReady && navigator.onLine)) return say(advice.forClose(code, reason), "info");
  const cause = await why(error, failures);
  // Meanwhile it may have come back, or been given up.
  if (mine !== link || link.isReady || link.state === "idle") return;
  if (cause.action === "login") over(cause);
  else say(cause);
}

/** A script learns of a refused handshake only that it was one (1006): the hub is asked in other ways. */
async function why(error, failures) {
  if (!navigator.onLine) return advice.OFFLINE;
  if (error) return advice.forTicket(error);
  try {
    facts = await hub.facts();
    choices.know(facts, url());
    if (whyNot(usedDoor, facts, who.where)) return { title: "This door is closed now", text: "Disconnect and choose another in step 2." };
    if (usedDoor === "cookie") return failures > 1 ? advice.NO_COOKIE : advice.REFUSED;
    await dropCookie();
    if (facts.doors.includes("ticket")) await hub.ticket(who.token);
    return advice.REFUSED;
  } catch (refused) {
    return advice.forTicket(refused);
  }
}

function disconnect() {
  link?.close();
  showState("idle");
  draw();
  $("connect").focus();
}

// --- Channels ---

async function subscribe(event) {
  event.preventDefault();
  const channel = $("subscribe-channel").value;
  await busy($("subscribe"), async () => {
    try {
      await link.subscribe(channel);
      $("subscribe-channel").value = "";
      about({ name: "subscribe", channel });
    } catch (error) {
      say(advice.forCommand(error, channel));
    }
    draw();
  });
}

async function unsubscribe(channel) {
  about({ name: "unsubscribe", channel });
  $("subscribe-channel").focus();
  await link.unsubscribe(channel).catch((error) => say(advice.forCommand(error, channel)));
}

/** JSON as it is, anything else as a string. */
function dataOf(text) {
  try {
    return { data: JSON.parse(text), kind: "JSON" };
  } catch {
    return { data: text, kind: "sent as a string: it is no JSON" };
  }
}

async function publish(event) {
  event.preventDefault();
  const [channel, over] = [$("publish-channel").value, chosen("over")];
  const { data } = dataOf($("publish-data").value);
  await busy($("publish"), async () => {
    try {
      if (over === "rest") await hub.publish(channel, data, who.token);
      else await link.command("publish", { channel, data });
      if (over === "rest") log.note(`published to ${channel} over REST`);
      about({ name: "publish", channel, data, over });
      if (!link?.channels.includes(channel)) {
        say({ title: `Published, and not heard here`, text: `This page has no subscription to “${channel}”.` }, "info");
      }
    } catch (error) {
      say(advice.forCommand(error, channel));
    }
  });
}

// --- Refresh ---

/** By the login while this page knows the password; else it asks for that, or for a token. */
function askToRefresh() {
  const canLogIn = facts?.login ?? false;
  if (canLogIn && $("password").value && $("username").value === who.user) return refresh($("password").value, "");
  $("refresh-user").textContent = who.user;
  $("refresh-text").textContent = canLogIn
    ? "With the password, or with a newer token of the same user."
    : "Paste a newer token of the same user.";
  show($("refresh-password-field"), canLogIn);
  show($("refresh-token-field"), who.where !== "cookie");
  $("refresh-dialog").showModal();
}

async function refresh(password, pasted) {
  await busy($("refresh"), async () => {
    try {
      if (pasted && !isToken(pasted)) throw { message: "that is no token" };
      const identity = pasted ? keepToken(who.where, pasted) : await fetchToken(who.user, password, who.where);
      await adopt(identity);
    } catch (error) {
      say(error instanceof hub.Refused ? advice.forLogin(error) : { title: "The token was not refreshed", text: `The hub said: ${error.message}.` });
    }
  });
}

async function adopt(identity) {
  const isSdk = link?.session?.isSdk ?? false;
  const isLive = link?.isReady ?? false;
  become(identity);
  about({ name: "refresh", isSdk });
  if (isLive && identity.token) {
    await link.refresh(identity.token);
    say({ title: "Refreshed", text: "The hub took the new token over the open socket; nothing was interrupted." }, "good");
  } else if (isLive) {
    link.close();
    link.connect();
    say({ title: "Refreshed", text: "Only a handshake brings the new cookie, so the page has connected again." }, "good");
  } else {
    say({ title: "Refreshed", text: "The new token will be used from the next connection on." }, "good");
  }
}

function submitRefresh(event) {
  event.preventDefault();
  const [password, pasted] = [$("refresh-password").value, $("refresh-token").value.trim()];
  if (!password && !pasted) return;
  for (const id of ["refresh-password", "refresh-token"]) $(id).value = "";
  $("refresh-dialog").close();
  refresh(password, pasted);
}

// --- Beginning ---

/** `#login=USER:PASSWORD`, as the terminal prints it: taken, and gone from the address bar and the history. */
function takeLogin() {
  const said = location.hash.match(/^#login=([^:]*):(.*)$/);
  if (!location.hash.startsWith("#login")) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (!said) return;
  if (who) logOut({ isWished: true });
  try {
    [$("username").value, $("password").value] = said.slice(1).map(decodeURIComponent);
  } catch {
    return;
  }
  $("login-hint").textContent = "Filled in from the address that the terminal printed.";
  $("login").focus();
}

async function learn() {
  try {
    facts = await hub.facts();
  } catch (error) {
    say(advice.forTicket(error));
    setTimeout(learn, 3000);
    return;
  }
  $("version").textContent = `v${facts.version}`;
  if (!facts.login) $("login-hint").textContent = "This hub has no login: paste a token that your backend signs, or one of wardcast token.";
  choices.know(facts, url());
  if ($("notice-title").textContent === advice.UNREACHABLE.title) unnotice();
  become(who);
  if (who && isOver()) say(advice.EXPIRED);
  about({ name: "connect" });
}

function source() {
  const isLogin = chosen("source") === "login";
  show($("login-form"), isLogin);
  show($("paste-form"), !isLogin);
}

function listen() {
  $("login-form").addEventListener("submit", logIn);
  $("paste-form").addEventListener("submit", paste);
  for (const radio of document.querySelectorAll('input[name="source"]')) radio.addEventListener("change", source);
  for (const radio of document.querySelectorAll('input[name="over"]')) radio.addEventListener("change", draw);
  $("logout").addEventListener("click", () => logOut({ isWished: true }));
  $("connect").addEventListener("click", connect);
  $("disconnect").addEventListener("click", disconnect);
  $("subscribe-form").addEventListener("submit", subscribe);
  $("publish-form").addEventListener("submit", publish);
  $("publish-data").addEventListener("input", ({ target }) => {
    $("data-kind").textContent = dataOf(target.value).kind;
    $("publish").textContent = "Publish";
  });
  $("refresh").addEventListener("click", askToRefresh);
  $("refresh-form").addEventListener("submit", submitRefresh);
  $("refresh-cancel").addEventListener("click", () => $("refresh-dialog").close());
  addEventListener("hashchange", takeLogin);
  addEventListener("online", () => link?.hurry());
  addEventListener("offline", () => say(advice.OFFLINE));
  addEventListener("storage", ({ key }) => key?.startsWith("wardcast.") && key !== "wardcast.choices" && who?.where !== "memory" && !recall() && logOut({ isWished: true }));
  setInterval(tick, 1000);
}

who = recall();
listen();
source();
become(who);
takeLogin();
learn();
