// Starts the page: restores the identity, reads the login from the address, loads what the hub supports, and registers the event
// handlers.

import * as advice from "./advice.js";
import { askForToken, handleChannelInput, handleDataInput, publish, readHistory, readPresence, subscribe, unsubscribe } from "./channels.js";
import { Choices } from "./choices.js";
import { connect, disconnect } from "./connection.js";
import { $, selectedValue, setShown } from "./dom.js";
import * as hub from "./hub.js";
import { startRefresh, logIn, logOut, usePastedToken, submitRefresh } from "./identity.js";
import { canRenew, handleStorage, renewIfDue, renewNow } from "./renewal.js";
import { loadIdentity } from "./storage.js";
import { Log } from "./log.js";
import { showCode, setIdentity, draw, isExpired, page, showNotice, showClockNotice, drawExpiry, socketUrl } from "./state.js";
import { SubscriptionList } from "./subscription_list.js";
import { CodePanel, hideNotice } from "./view.js";

function handleChoice() {
  // After both choices have been adapted to each other.
  queueMicrotask(() => {
    draw();
    showCode({ name: "connect" });
  });
}

/**
 * Reads `#login=USER:PASSWORD`, as the terminal prints it, and removes it from the address bar and from the tab's history. (The
 * browser's list of visited pages keeps it, which is acceptable for the password of a hub that only this machine reaches.) Anyone
 * can create such a link, so it neither ends a session nor submits the form.
 */
function readAddressLogin() {
  const found = location.hash.match(/^#login=([^:]*):(.*)$/);
  if (!location.hash.startsWith("#login")) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (!found) return;
  try {
    addressLogin = found.slice(1).map(decodeURIComponent);
  } catch {
    return;
  }
  if (page.identity) showNotice(advice.anotherLogin(addressLogin[0], page.identity.user), "info");
  else fillInLogin();
}

/** The user and password of the last such address. */
let addressLogin = null;

function fillInLogin() {
  [$("username").value, $("password").value] = addressLogin;
  addressLogin = null;
  document.querySelector('input[name="source"][value="login"]').click();
  $("login-hint").textContent = "Filled in from this page's address. Log in if your terminal printed that address.";
  $("login").focus();
}

function switchLogin() {
  logOut();
  fillInLogin();
}

async function loadFacts() {
  try {
    page.facts = await hub.fetchFacts();
  } catch (error) {
    showNotice(advice.forTicket(error));
    setTimeout(loadFacts, 3000);
    return;
  }
  $("version").textContent = `v${page.facts.version}`;
  if (!page.facts.login) {
    $("paste-hint").textContent = "This hub has no login. Paste a token that your backend has signed, or one that wardcast token --user ann prints.";
    document.querySelector('input[name="source"][value="paste"]').click();
  }
  page.choices.setFacts(page.facts, socketUrl());
  if ($("notice-title").textContent === advice.UNREACHABLE.title) hideNotice();
  const clock = advice.forClocks(null);
  if (clock) showClockNotice(clock);
  setIdentity(page.identity);
  if (page.identity && isExpired() && !canRenew()) showNotice(advice.EXPIRED);
  showCode({ name: "connect" });
}

function showSourceForm() {
  const isLogin = selectedValue("source") === "login";
  setShown($("login-form"), isLogin);
  setShown($("paste-form"), !isLogin);
}

function addHandlers() {
  $("login-form").addEventListener("submit", logIn);
  $("paste-form").addEventListener("submit", usePastedToken);
  for (const radio of document.querySelectorAll('input[name="source"]')) radio.addEventListener("change", showSourceForm);
  for (const radio of document.querySelectorAll('input[name="transport"]')) radio.addEventListener("change", draw);
  $("logout").addEventListener("click", () => logOut());
  $("connect").addEventListener("click", connect);
  $("disconnect").addEventListener("click", disconnect);
  $("subscribe-form").addEventListener("submit", subscribe);
  $("publish-form").addEventListener("submit", publish);
  $("subscribe-channel").addEventListener("input", handleChannelInput);
  $("publish-data").addEventListener("input", handleDataInput);
  $("refresh").addEventListener("click", () => (canRenew() ? renewNow() : startRefresh()));
  $("refresh-form").addEventListener("submit", submitRefresh);
  $("refresh-cancel").addEventListener("click", () => $("refresh-dialog").close());
  // Clears the typed password and token, however the dialog was closed.
  $("refresh-dialog").addEventListener("close", () => $("refresh-form").reset());
  addEventListener("hashchange", readAddressLogin);
  addEventListener("online", () => page.client?.reconnectNow());
  addEventListener("offline", () => showNotice(advice.OFFLINE));
  addEventListener("storage", handleStorage);
  setInterval(() => (drawExpiry(), renewIfDue()), 1000);
}

Object.assign(page, {
  identity: loadIdentity(),
  log: new Log(),
  code: new CodePanel(() => page.identity?.token ?? null),
  choices: new Choices(handleChoice),
  actions: {
    login: { label: "Sign in again", run: () => logOut({ keepsSubscriptions: true }) },
    connect: { label: "Connect", run: connect },
    switch: { label: "Log out and use it", run: switchLogin },
    subscriptionToken: { label: "Enter a token", run: askForToken },
  },
  list: new SubscriptionList({ unsubscribe, readHistory, readPresence }),
});
addHandlers();
showSourceForm();
setIdentity(page.identity);
readAddressLogin();
loadFacts();
