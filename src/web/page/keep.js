// Where the page keeps who it is: in a variable, in one of the browser's two storages, or in a cookie that it never sees.

import { claimsOf, endOf } from "./token.js";

const TOKEN = "wardcast.token";
/** Stands for the cookie, which no script can see: whose it is and when it ends. */
const COOKIE = "wardcast.cookie";
const CHOICES = "wardcast.choices";

export const KEEPS = [
  {
    id: "memory",
    name: "Memory",
    risk: "Gone with a reload. A script that gets into the page can use it while the page is open, and finds nothing later.",
  },
  {
    id: "session",
    name: "Session storage",
    risk: "Survives a reload, ends with the tab. Any script of this origin can read it and take it away.",
  },
  {
    id: "local",
    name: "Local storage",
    risk: "Survives everything, in every tab. Any script of this origin can take it away, also long after: keep tokens short.",
  },
  {
    id: "cookie",
    name: "Cookie",
    risk: "HttpOnly: no script can read it, so none can take it away. The browser sends it by itself, so the hub checks the Origin.",
  },
];

/** A browser that keeps nothing for this page throws. */
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

/** Who this page is after a reload; null when it has forgotten, as it should with a token in memory. */
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

/** Keeps a token there and nowhere else. */
export function keepToken(where, token) {
  forget();
  const name = { session: "sessionStorage", local: "localStorage" }[where];
  const isKept = !name || write(name, TOKEN, token);
  return identity(isKept ? where : "memory", token);
}

/** The browser has the cookie now. */
export function keepCookie(user, endsAt) {
  forget();
  write("localStorage", COOKIE, JSON.stringify({ user, endsAt }));
  return { where: "cookie", token: null, user, endsAt };
}

/** Forgets the token wherever it is; the cookie is the hub's to take back. */
export function forget() {
  for (const name of ["sessionStorage", "localStorage"]) {
    for (const key of [TOKEN, COOKIE]) storage(name, (storage) => storage.removeItem(key));
  }
}

/** What was chosen the last time: no secrets. */
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
