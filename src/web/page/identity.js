// The page's identity: login, a pasted token, refresh, logout.

import * as advice from "./advice.js";
import { $, busy, chosen, show } from "./dom.js";
import * as hub from "./hub.js";
import { forget, keepCookie, keepToken } from "./keep.js";
import { about, become, isOver, page, say } from "./state.js";
import { claimsOf, isToken } from "./token.js";
import { showState, unnotice } from "./view.js";

/** Logs in and stores the token where the user has chosen. Returns the identity. */
async function fetchToken(username, password, where) {
  const isCookie = where === "cookie";
  const answer = await hub.login(username, password, isCookie);
  if (isCookie) return keepCookie(username, hub.now() + answer.expires_in * 1000);
  await dropCookie();
  return keepToken(where, answer.access_token);
}

/** Removes an old cookie: the browser would send it with every handshake. */
export async function dropCookie() {
  if (page.facts?.doors.includes("cookie")) await hub.logout().catch(() => {});
}

export async function logIn(event) {
  event.preventDefault();
  await busy($("login"), async () => {
    try {
      const identity = await fetchToken($("username").value, $("password").value, page.choices.keep);
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

export async function paste(event) {
  event.preventDefault();
  const token = $("pasted").value.trim().replace(/^bearer\s+/i, "");
  if (!isToken(token)) {
    say({ title: "That is not a token", text: "A JWT has three parts separated by dots. Copy all of it, without quotes." });
    return;
  }
  if (page.choices.keep === "cookie") {
    say({ title: "A page cannot store a token in this cookie", text: "Only the hub's login can set it. Log in, or store the token elsewhere." });
    return;
  }
  $("pasted").value = "";
  await dropCookie();
  unnotice();
  become(keepToken(page.choices.keep, token));
  if (isOver()) say(advice.EXPIRED);
  $("connect").focus();
}

/** Removes the token from the variable and the storages; the hub removes the cookie. */
export async function logOut({ isWished }) {
  page.link?.close();
  // A user who only logs in again keeps the subscriptions.
  if (isWished) page.link = null;
  const user = page.who?.user;
  forget();
  if (isWished) $("password").value = "";
  become(null);
  showState("idle");
  if (user) $("username").value = user;
  $(chosen("source") === "paste" ? "pasted" : user ? "password" : "username").select();
  await dropCookie();
}

/** Refreshes with the password of the login form if it is still there; otherwise asks for it, or for a token. */
export function askToRefresh() {
  const canLogIn = page.facts?.login ?? false;
  if (canLogIn && $("password").value && $("username").value === page.who.user) return refresh($("password").value, "");
  $("refresh-user").textContent = page.who.user;
  $("refresh-text").textContent = canLogIn
    ? "With the password, or with a newer token of the same user."
    : "Paste a newer token of the same user.";
  show($("refresh-password-field"), canLogIn);
  show($("refresh-token-field"), page.who.where !== "cookie");
  $("refresh-dialog").showModal();
}

async function refresh(password, pasted) {
  await busy($("refresh"), async () => {
    try {
      if (page.who.where === "cookie") await renewCookie(password);
      else await renewToken(pasted || (await hub.login(page.who.user, password, false)).access_token);
    } catch (error) {
      const said = { title: "The token was not refreshed", text: `${error.message ?? error}. The session continues with the old one.` };
      say(error instanceof hub.Refused ? advice.forLogin(error) : said);
    } finally {
      page.next = null;
    }
  });
}

/** Sends the token first and stores it only if the hub accepts it. */
async function renewToken(token) {
  if (!isToken(token)) throw new Error("That is not a token");
  if (String(claimsOf(token)?.sub ?? "") !== page.who.user) throw new Error("That token belongs to another user; log out first");
  page.next = token;
  const { link, who } = page;
  const isLive = link?.isReady ?? false;
  const isSdk = link?.session?.isSdk ?? false;
  if (isLive) await link.refresh(token);
  become(keepToken(who.where, token));
  about({ name: "refresh", isSdk });
  const text = isLive ? "The hub accepted it on the open connection." : "The next connection will use it.";
  say({ title: "The session has a new token", text }, "good");
}

async function renewCookie(password) {
  const { user } = page.who;
  const answer = await hub.login(user, password, true);
  become(keepCookie(user, hub.now() + answer.expires_in * 1000));
  about({ name: "login", cookie: true });
  const isLive = page.link?.isReady ?? false;
  if (isLive) {
    const isBack = new Promise((resolve) => page.link.addEventListener("ready", resolve, { once: true }));
    page.link.connect();
    await isBack;
  }
  const text = isLive ? "A cookie is sent only in the handshake, so the page has reconnected." : "The next connection will use it.";
  say({ title: "The cookie was renewed", text }, "good");
}

export function submitRefresh(event) {
  event.preventDefault();
  const [password, pasted] = [$("refresh-password").value, $("refresh-token").value.trim()];
  if (!password && !pasted) return;
  for (const id of ["refresh-password", "refresh-token"]) $(id).value = "";
  $("refresh-dialog").close();
  refresh(password, pasted);
}
