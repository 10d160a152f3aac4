// Stores the tokens and the user: in a variable, in one of the browser's two storages, or in cookies that the page cannot read.

import { readClaims, readExpiry } from "./token.js";

export const TOKEN = "wardcast.token";
const REFRESH_TOKEN = "wardcast.refresh";
/**
 * Describes the cookies, which no script can read: their user, when the token expires, whether it can be renewed, and when this
 * was recorded, which tells cookies from their successors.
 */
export const COOKIE = "wardcast.cookie";
const CHOICES = "wardcast.choices";

export const STORAGES = [
  {
    id: "memory",
    name: "Memory",
    risk: "Lost with a reload. An injected script can use it while the page is open, and finds nothing later.",
  },
  {
    id: "session",
    name: "Session storage",
    risk: "Survives a reload, ends with the tab. Any script of this origin can read and copy it.",
  },
  {
    id: "local",
    name: "Local storage",
    risk: "Survives everything, in every tab. Any script of this origin can copy it, even much later: use short-lived tokens.",
  },
  {
    id: "cookie",
    name: "Cookie",
    risk: "HttpOnly: no script can read or copy it. The browser sends it automatically, so the hub checks the Origin.",
  },
];

/** A browser that stores nothing for this page throws. */
function useStorage(name, use) {
  try {
    return use(window[name]);
  } catch {
    return null;
  }
}

const read = (name, key) => useStorage(name, (storage) => storage.getItem(key));
const write = (name, key, value) => useStorage(name, (storage) => (storage.setItem(key, value), true));

function identityOf(storedIn, token, refreshToken) {
  return { storedIn, token, refreshToken, isRenewable: refreshToken !== null, user: String(readClaims(token)?.sub ?? ""), expiresAt: readExpiry(token) };
}

/** Returns the identity after a reload; null if nothing is stored, as with a token in memory. */
export function loadIdentity() {
  for (const [storedIn, name] of [["session", "sessionStorage"], ["local", "localStorage"]]) {
    const token = read(name, TOKEN);
    if (token) return identityOf(storedIn, token, read(name, REFRESH_TOKEN));
  }
  try {
    const cookie = JSON.parse(read("localStorage", COOKIE));
    return cookie && cookieIdentity({ ...cookie, user: String(cookie.user), expiresAt: Number(cookie.expiresAt), isRenewable: cookie.isRenewable === true });
  } catch {
    return null;
  }
}

const cookieIdentity = ({ user, expiresAt, isRenewable, recordedAt }) => ({ storedIn: "cookie", token: null, refreshToken: null, isRenewable, user, expiresAt, recordedAt });

/**
 * Stores a token in this place and in no other, and the refresh token of its login, if it has one. Returns the identity. The
 * token is replaced last and never absent, because other tabs read the storage when it changes.
 */
export function storeToken(storedIn, token, refreshToken = null) {
  const name = { session: "sessionStorage", local: "localStorage" }[storedIn];
  removeToken(name ? [[name, REFRESH_TOKEN], [name, TOKEN]] : []);
  if (!name) return identityOf("memory", token, refreshToken);
  if (refreshToken) write(name, REFRESH_TOKEN, refreshToken);
  else useStorage(name, (storage) => storage.removeItem(REFRESH_TOKEN));
  return identityOf(write(name, TOKEN, token) ? storedIn : "memory", token, refreshToken);
}

/** Notes that the browser has the cookies. Returns the identity. */
export function recordCookie(user, expiresAt, isRenewable) {
  removeToken([["localStorage", COOKIE]]);
  const record = { user, expiresAt, isRenewable, recordedAt: Date.now() };
  write("localStorage", COOKIE, JSON.stringify(record));
  return cookieIdentity(record);
}

/** Removes the tokens from every place, except for the entries in `kept`. Only the hub can remove the cookies. */
export function removeToken(kept = []) {
  for (const name of ["sessionStorage", "localStorage"]) {
    for (const key of [TOKEN, REFRESH_TOKEN, COOKIE]) {
      if (!kept.some((entry) => entry[0] === name && entry[1] === key)) useStorage(name, (storage) => storage.removeItem(key));
    }
  }
}

/** Returns the last choices; they contain no secrets. */
export function loadChoices() {
  try {
    return JSON.parse(read("localStorage", CHOICES)) ?? {};
  } catch {
    return {};
  }
}

export function saveChoice(choice) {
  write("localStorage", CHOICES, JSON.stringify({ ...loadChoices(), ...choice }));
}
