// The page's identity: login, a pasted token, refresh, logout.

import * as advice from "./advice.js";
import { $, runBusy, selectedValue, setShown } from "./dom.js";
import * as hub from "./hub.js";
import { removeToken, recordCookie, storeToken } from "./storage.js";
import { showCode, setIdentity, isExpired, page, showNotice } from "./state.js";
import { readClaims, readExpiry, isToken } from "./token.js";
import { showState, hideNotice } from "./view.js";

/** Logs in and stores the token where the user has chosen. Returns the identity. */
async function obtainIdentity(username, password, where) {
  const isCookie = where === "cookie";
  const answer = await hub.login(username, password, isCookie);
  if (isCookie) return recordCookie(username, hub.now() + answer.expires_in * 1000, page.facts.login_refresh);
  await removeCookie();
  return storeToken(where, answer.access_token, answer.refresh_token);
}

/** Removes an old cookie: the browser would send it with every handshake. */
export async function removeCookie() {
  if (page.facts?.doors.includes("cookie")) await hub.logout().catch(() => {});
}

export async function logIn(event) {
  event.preventDefault();
  await runBusy($("login"), async () => {
    try {
      const identity = await obtainIdentity($("username").value, $("password").value, page.choices.storage);
      hideNotice();
      setIdentity(identity);
      showCode({ name: "login", cookie: identity.storedIn === "cookie" });
      $("connect").focus();
    } catch (error) {
      showNotice(advice.forLogin(error));
      $("password").select();
    }
  });
}

export async function usePastedToken(event) {
  event.preventDefault();
  const token = $("pasted").value.trim().replace(/^bearer\s+/i, "");
  if (!isToken(token)) {
    showNotice({ title: "That is not a token", text: "A JWT has three parts separated by dots. Copy all of it, without quotes." });
    return;
  }
  if (page.choices.storage === "cookie") {
    showNotice({ title: "A page cannot store a token in this cookie", text: "Only the hub's login can set it. Log in, or store the token elsewhere." });
    return;
  }
  $("pasted").value = "";
  await removeCookie();
  hideNotice();
  setIdentity(storeToken(page.choices.storage, token));
  if (isExpired()) showNotice(advice.EXPIRED);
  $("connect").focus();
}

/** Removes the tokens from the variable and the storages; the hub ends the login and removes the cookies. */
export async function logOut({ keepsSubscriptions = false } = {}) {
  page.client?.close();
  // A user who only logs in again keeps the subscriptions.
  if (!keepsSubscriptions) page.client = null;
  const { user, refreshToken } = page.identity ?? {};
  removeToken();
  if (!keepsSubscriptions) $("password").value = "";
  setIdentity(null);
  showState("idle");
  if (user) $("username").value = user;
  $(selectedValue("source") === "paste" ? "pasted" : user ? "password" : "username").select();
  await Promise.all([removeCookie(), refreshToken && hub.logout(refreshToken).catch(() => {})]);
}

/** Refreshes with the password of the login form if it is still there; otherwise asks for it, or for a token. */
export function startRefresh() {
  const canLogIn = page.facts?.login ?? false;
  if (canLogIn && $("password").value && $("username").value === page.identity.user) return refresh($("password").value, "");
  $("refresh-user").textContent = page.identity.user;
  $("refresh-text").textContent = canLogIn
    ? "With the password, or with a newer token of the same user."
    : "Paste a newer token of the same user.";
  setShown($("refresh-password-field"), canLogIn);
  setShown($("refresh-token-field"), page.identity.storedIn !== "cookie");
  $("refresh-dialog").showModal();
}

async function refresh(password, pasted) {
  await runBusy($("refresh"), async () => {
    try {
      if (page.identity.storedIn === "cookie") await renewCookie(password);
      else if (pasted) await renewToken(pasted, null);
      else {
        const answer = await hub.login(page.identity.user, password, false);
        await renewToken(answer.access_token, answer.refresh_token);
      }
    } catch (error) {
      // The close of the connection is explained instead.
      if (error.isClosed) return;
      const advised = { title: "The token was not refreshed", text: `${error.message ?? error}. The session continues with the old one.` };
      showNotice(error instanceof hub.RequestError ? advice.forLogin(error) : advised);
    } finally {
      page.nextToken = null;
    }
  });
}

/** Sends the token first and stores it only if the hub accepts it. */
async function renewToken(token, refreshToken) {
  if (!isToken(token)) throw new Error("That is not a token");
  if (String(readClaims(token)?.sub ?? "") !== page.identity.user) throw new Error("That token belongs to another user; log out first");
  // The hub would end the session for it.
  if ((readExpiry(token) ?? Infinity) <= hub.now()) throw new Error("That token has expired");
  page.nextToken = token;
  const { client, identity } = page;
  const isConnected = client?.isReady ?? false;
  const isSdk = client?.session?.isSdk ?? false;
  if (isConnected) await client.refresh(token);
  setIdentity(storeToken(identity.storedIn, token, refreshToken));
  showCode({ name: "refresh", isSdk });
  const text = isConnected ? "The hub accepted it on the open connection." : "The next connection will use it.";
  showNotice({ title: "The session has a new token", text }, "good");
}

async function renewCookie(password) {
  const { user } = page.identity;
  const answer = await hub.login(user, password, true);
  setIdentity(recordCookie(user, hub.now() + answer.expires_in * 1000, page.facts.login_refresh));
  showCode({ name: "login", cookie: true });
  const isConnected = page.client?.isReady ?? false;
  if (isConnected) {
    const reconnected = new Promise((resolve) => page.client.addEventListener("restored", resolve, { once: true }));
    page.client.connect();
    await reconnected;
  }
  const text = isConnected ? "A cookie is sent only in the handshake, so the page has reconnected." : "The next connection will use it.";
  showNotice({ title: "The cookie was renewed", text }, "good");
}

export function submitRefresh(event) {
  event.preventDefault();
  const [password, pasted] = [$("refresh-password").value, $("refresh-token").value.trim()];
  if (!password && !pasted) return;
  for (const id of ["refresh-password", "refresh-token"]) $(id).value = "";
  $("refresh-dialog").close();
  refresh(password, pasted);
}
