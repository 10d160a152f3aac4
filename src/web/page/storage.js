// Stores the token and the user: in a variable, in one of the browser's two storages, or in a cookie that the page cannot read.

import { readClaims, readExpiry } from "./token.js";

const TOKEN = "wardcast.token";
/** Describes the cookie, which no script can read: its user and when it expires. */
const COOKIE = "wardcast.cookie";
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

function identityOf(storedIn, token) {
  return { storedIn, token, user: String(readClaims(token)?.sub ?? ""), expiresAt: readExpiry(token) };
}

/** Returns the identity after a reload; null if nothing is stored, as with a token in memory. */
export function loadIdentity() {
  for (const [storedIn, name] of [["session", "sessionStorage"], ["local", "localStorage"]]) {
    const token = read(name, TOKEN);
    if (token) return identityOf(storedIn, token);
  }
  try {
    const cookie = JSON.parse(read("localStorage", COOKIE));
    return cookie && { storedIn: "cookie", token: null, user: String(cookie.user), expiresAt: Number(cookie.expiresAt) };
  } catch {
    return null;
  }
}

/** Stores a token in this place and in no other. Returns the identity. */
export function storeToken(storedIn, token) {
  removeToken();
  const name = { session: "sessionStorage", local: "localStorage" }[storedIn];
  const isStored = !name || write(name, TOKEN, token);
  return identityOf(isStored ? storedIn : "memory", token);
}

/** Notes that the browser has the cookie. Returns the identity. */
export function recordCookie(user, expiresAt) {
  removeToken();
  write("localStorage", COOKIE, JSON.stringify({ user, expiresAt }));
  return { storedIn: "cookie", token: null, user, expiresAt };
}

/** Removes the token from every place. Only the hub can remove the cookie. */
export function removeToken() {
  for (const name of ["sessionStorage", "localStorage"]) {
    for (const key of [TOKEN, COOKIE]) useStorage(name, (storage) => storage.removeItem(key));
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
