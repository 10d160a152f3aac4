// The hub's HTTP endpoints: facts, login, refresh, logout, tickets and publishing.

import { toJson } from "./json.js";

/** An error response, or no response at all (status 0). */
export class RequestError extends Error {
  constructor(status, { code = 0, message = "" } = {}, retryAfter = 0) {
    super(message || `status ${status}`);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** How long to wait for a response. */
const TIMEOUT_MS = 10_000;

const BASE = new URL("./", document.baseURI);

/** Milliseconds by which the hub's clock is ahead of this computer's; null until it is known. */
export let clockAhead = null;

export const now = () => Date.now() + (clockAhead ?? 0);

export const httpUrl = (path) => new URL(path.replace(/^\//, ""), BASE).href;

export function socketUrl(path) {
  const url = new URL(path.replace(/^\//, ""), BASE);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

async function fetchJson(path, options = {}) {
  const sent = Date.now();
  let response;
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    response = await fetch(httpUrl(path), { cache: "no-store", credentials: "same-origin", signal, ...options });
  } catch {
    throw new RequestError(0);
  }
  compareClocks(response.headers.get("date"), sent, Date.now());
  const body = await response.json().catch(() => null);
  if (!response.ok || body?.error) {
    const retryAfter = Number(response.headers.get("retry-after")) || 0;
    throw new RequestError(response.ok ? 200 : response.status, body?.error ?? {}, retryAfter);
  }
  return body;
}

/** The Date header has whole seconds, so half a second is added; the hub is assumed to have sent it halfway between both times. */
function compareClocks(date, sent, received) {
  const hubTime = Date.parse(date ?? "");
  if (Number.isNaN(hubTime)) return;
  const ahead = hubTime + 500 - (sent + received) / 2;
  clockAhead = Math.abs(ahead) < 1500 ? 0 : Math.round(ahead);
}

const json = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: toJson(body),
});

const withRefreshToken = (refreshToken) => (refreshToken ? json({ refresh_token: refreshToken }) : { method: "POST" });

export const fetchFacts = () => fetchJson("/demo/hub.json");
/** Ends the login of the refresh token, or else that of the cookies. */
export const logout = (refreshToken = null) => fetchJson("/auth/logout", withRefreshToken(refreshToken));
/** Exchanges the refresh token, or else the one in the cookie. Returns what `login` does. */
export const refresh = (refreshToken = null) => fetchJson("/auth/refresh", withRefreshToken(refreshToken));
export const fetchTicket = (token) => fetchJson("/auth/ticket", { method: "POST", headers: { authorization: `Bearer ${token}` } });

/** Returns {access_token?, refresh_token?, expires_in}; with `cookie` there is no token in it. */
export function login(username, password, cookie) {
  return fetchJson("/auth/login", json(cookie ? { username, password, cookie } : { username, password }));
}

export function publish(channel, data, token) {
  const request = json(data);
  request.headers.authorization = `Bearer ${token}`;
  return fetchJson(`/v1/channels/${encodeURIComponent(channel)}/messages`, request);
}
