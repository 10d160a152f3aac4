// Stores the token and the user: in a variable, in one of the browser's two storages, or in a cookie that the page cannot read.

import { claimsOf, endOf } from "./token.js";

const TOKEN = "wardcast.token";
/** Describes the cookie, which no script can read: its user and when it expires. */
const COOKIE = "wardcast.cookie";
const CHOICES = "wardcast.choices";

export const KEEPS = [
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
function storage(name, use) {
  try {
    return use(window[name]);
  } catch {
    return null;
  }
}

const read = (name, key) => storage(name, (storage) => storage.getItem(key));
const write = (name, key, value) => storage(name, (storage) => (storage.setItem(key, value), true));

function identity(where, token) {
  return { where, token, user: String(claimsOf(token)?.sub ?? ""), endsAt: endOf(token) };
}

/** Returns the identity after a reload; null if nothing is stored, as with a token in memory. */
export function recall() {
  for (const [where, name] of [["session", "sessionStorage"], ["local", "localStorage"]]) {
    const token = read(name, TOKEN);
    if (token) return identity(where, token);
  }
  try {
    const mark = JSON.parse(read("localStorage", COOKIE));
    return mark && { where: "cookie", token: null, user: String(mark.user), endsAt: Number(mark.endsAt) };
  } catch {
    return null;
  }
}

/** Stores a token in this place and in no other. Returns the identity. */
export function keepToken(where, token) {
  forget();
  const name = { session: "sessionStorage", local: "localStorage" }[where];
  const isKept = !name || write(name, TOKEN, token);
  return identity(isKept ? where : "memory", token);
}

/** Notes that the browser has the cookie. Returns the identity. */
export function keepCookie(user, endsAt) {
  forget();
  write("localStorage", COOKIE, JSON.stringify({ user, endsAt }));
  return { where: "cookie", token: null, user, endsAt };
}

/** Removes the token from every place. Only the hub can remove the cookie. */
export function forget() {
  for (const name of ["sessionStorage", "localStorage"]) {
    for (const key of [TOKEN, COOKIE]) storage(name, (storage) => storage.removeItem(key));
  }
}

/** Returns the last choices; they contain no secrets. */
export function choices() {
  try {
    return JSON.parse(read("localStorage", CHOICES)) ?? {};
  } catch {
    return {};
  }
}

export function remember(choice) {
  write("localStorage", CHOICES, JSON.stringify({ ...choices(), ...choice }));
}
