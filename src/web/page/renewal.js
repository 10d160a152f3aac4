// Renews the token of a login before it expires, with the refresh token that the page or the cookie has. A refresh token works
// once, so the tabs that share one take turns: the first one renews, and the others find the new tokens in the storage. A tab
// that does not see them yet, because browsers pass on what is stored later, repeats the refresh, which the hub answers again.

import * as advice from "./advice.js";
import { $, runBusy } from "./dom.js";
import * as hub from "./hub.js";
import { logOut } from "./identity.js";
import { COOKIE, TOKEN, loadIdentity, recordCookie, storeToken } from "./storage.js";
import { page, setIdentity, showCode, showNotice } from "./state.js";

/** Minimum and maximum delay after a failure. */
const RETRY_MS = [2000, 30_000];

/** The renewal that is in progress; null without one. */
let running = null;
let failures = 0;
let retryAt = 0;

/** Whether the page can get a new token without the user. */
export const canRenew = () => page.identity?.isRenewable ?? false;

/** Whether other tabs have the same tokens. */
const isShared = (identity) => identity.storedIn === "local" || identity.storedIn === "cookie";

/** Whether these tokens, which are in the storage, have replaced those of the page. Times of expiry do not tell: see `hub.now`. */
const hasReplaced = (stored, identity) =>
  stored.user === identity.user && stored.storedIn === identity.storedIn && (stored.token !== identity.token || stored.recordedAt !== identity.recordedAt);

/** Renews the token if a third of its lifetime is left, but not later than clients should: `auth.refresh_margin` before its end. */
export function renewIfDue() {
  if (!canRenew() || performance.now() < retryAt) return;
  const margin = Math.max(page.lifetime / 3, (page.facts?.refresh_margin ?? 30) * 1000);
  if (page.identity.expiresAt - hub.now() > Math.min(margin, page.lifetime / 2)) return;
  renewSession().catch(() => {});
}

/** Renews the token now. Rejects if that fails; if the login has ended, the page then shows the login form. */
export function renew() {
  const before = page.identity;
  running ??= inTurn(() => exchange(before))
    .then(succeed, fail)
    .finally(() => (running = null));
  return running;
}

/** Renews the token now, also for the open connection. */
async function renewSession() {
  const before = page.identity;
  await renew();
  if (page.identity !== null && page.identity !== before) await renewConnection();
}

/** Waits until no other tab renews. A browser without locks has no tabs that share tokens over TLS or on this machine. */
const inTurn = (run) => (navigator.locks ? navigator.locks.request("wardcast.renewal", run) : run());

/** Returns the renewed identity, and stores its tokens at once: the old refresh token is spent. Null after a logout. */
async function exchange(before) {
  // Another tab has renewed it meanwhile, or the user has logged out.
  if (page.identity !== before || !before) return page.identity;
  const stored = isShared(before) ? loadIdentity() : null;
  if (stored && hasReplaced(stored, before)) return stored;
  const answer = await hub.refresh(before.refreshToken);
  // A logout has ended the login, with the new tokens. Another login is newer.
  if (page.identity !== before) return page.identity;
  if (before.storedIn === "cookie") return recordCookie(before.user, hub.now() + answer.expires_in * 1000, true);
  return storeToken(before.storedIn, answer.access_token, answer.refresh_token);
}

function succeed(identity) {
  failures = 0;
  if (identity && identity !== page.identity) adopt(identity);
}

function adopt(identity) {
  setIdentity(identity);
  page.log.note("The token was renewed", "good");
}

/** Sends the new token over the open connection. A cookie is sent only in a handshake, so for that the page reconnects. */
async function renewConnection() {
  const { client, identity } = page;
  if (!client?.isReady) return;
  if (identity.token !== null) return client.refresh(identity.token);
  const reconnected = new Promise((resolve) => client.addEventListener("restored", resolve, { once: true }));
  client.connect();
  await reconnected;
}

function fail(error) {
  if (error.status === 401) {
    logOut({ keepsSubscriptions: true });
    showNotice(advice.LOGIN_ENDED, "info");
  } else if (error.status === 404 && page.identity) {
    page.identity.isRenewable = false;
  }
  const wait = Math.min(RETRY_MS[1], RETRY_MS[0] * 2 ** failures);
  failures += 1;
  retryAt = performance.now() + Math.max(wait, (error.retryAfter ?? 0) * 1000);
  throw error;
}

/** The user asks for a new token. */
export function renewNow() {
  return runBusy($("refresh"), async () => {
    try {
      const isConnected = page.client?.isReady ?? false;
      await renewSession();
      if (!page.identity) return;
      const isCookie = page.identity.storedIn === "cookie";
      showCode({ name: "renew", cookie: isCookie });
      const how = isCookie ? "A cookie is sent only in the handshake, so the page has reconnected." : "The hub accepted it on the open connection.";
      const title = isCookie ? "The cookie was renewed" : "The session has a new token";
      showNotice({ title, text: isConnected ? how : "The next connection will use it." }, "good");
    } catch (error) {
      if (page.identity && !error.isClosed) showNotice({ ...advice.forHttp(error), action: undefined });
    }
  });
}

/** Another tab has renewed the tokens, or has logged out. */
export function handleStorage({ key }) {
  if (!page.identity || !isShared(page.identity) || ![TOKEN, COOKIE, null].includes(key)) return;
  const stored = loadIdentity();
  if (!stored) logOut();
  else if (hasReplaced(stored, page.identity)) {
    adopt(stored);
    renewConnection().catch(() => {});
  }
}
