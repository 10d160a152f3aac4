// Starts the page: restores the identity, reads the login from the address, loads what the hub supports, and registers the event
// handlers.

import * as advice from "./advice.js";
import { dataOf, publish, subscribe, unsubscribe } from "./channels.js";
import { Choices } from "./choices.js";
import { connect, disconnect } from "./connection.js";
import { $, chosen, show } from "./dom.js";
import * as hub from "./hub.js";
import { askToRefresh, logIn, logOut, paste, submitRefresh } from "./identity.js";
import { recall } from "./keep.js";
import { Log } from "./log.js";
import { about, become, draw, isOver, page, say, sayClock, tick, url } from "./state.js";
import { Code, unnotice } from "./view.js";

function chosenAnew() {
  // After both choices have been adapted to each other.
  queueMicrotask(() => {
    draw();
    about({ name: "connect" });
  });
}

/**
 * Reads `#login=USER:PASSWORD`, as the terminal prints it, and removes it from the address bar and from the tab's history. (The
 * browser's list of visited pages keeps it, which is acceptable for a password that is valid for one run of a hub.) Anyone can
 * create such a link, so it neither ends a session nor submits the form.
 */
function takeLogin() {
  const said = location.hash.match(/^#login=([^:]*):(.*)$/);
  if (!location.hash.startsWith("#login")) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (!said) return;
  try {
    brought = said.slice(1).map(decodeURIComponent);
  } catch {
    return;
  }
  if (page.who) say(advice.anotherLogin(brought[0], page.who.user), "info");
  else fillIn();
}

/** The user and password of the last such address. */
let brought = null;

function fillIn() {
  [$("username").value, $("password").value] = brought;
  brought = null;
  document.querySelector('input[name="source"][value="login"]').click();
  $("login-hint").textContent = "Filled in from this page's address. Log in if your terminal printed that address.";
  $("login").focus();
}

function takeOver() {
  logOut({ isWished: true });
  fillIn();
}

async function learn() {
  try {
    page.facts = await hub.facts();
  } catch (error) {
    say(advice.forTicket(error));
    setTimeout(learn, 3000);
    return;
  }
  $("version").textContent = `v${page.facts.version}`;
  if (!page.facts.login) {
    $("paste-hint").textContent = "This hub has no login. Paste a token that your backend has signed, or one that wardcast token --user ann prints.";
    document.querySelector('input[name="source"][value="paste"]').click();
  }
  page.choices.know(page.facts, url());
  if ($("notice-title").textContent === advice.UNREACHABLE.title) unnotice();
  const clock = advice.aboutClock(null);
  if (clock) sayClock(clock);
  become(page.who);
  if (page.who && isOver()) say(advice.EXPIRED);
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
  // However it was closed: what was typed must not be there when it is opened again.
  $("refresh-dialog").addEventListener("close", () => $("refresh-form").reset());
  addEventListener("hashchange", takeLogin);
  addEventListener("online", () => page.link?.hurry());
  addEventListener("offline", () => say(advice.OFFLINE));
  // A logout in another tab applies here, too.
  addEventListener("storage", () => page.who && page.who.where !== "memory" && !recall() && logOut({ isWished: true }));
  setInterval(tick, 1000);
}

Object.assign(page, {
  who: recall(),
  log: new Log(),
  code: new Code(() => page.who?.token ?? null),
  choices: new Choices(chosenAnew),
  actions: {
    login: { label: "Sign in again", run: () => logOut({ isWished: false }) },
    connect: { label: "Connect", run: connect },
    switch: { label: "Log out and use it", run: takeOver },
  },
  unsubscribe,
});
listen();
source();
become(page.who);
takeLogin();
learn();
