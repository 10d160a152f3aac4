// Calls the server API with the session of the page. The header tells the hub that this page makes the request: pages of other origins
// cannot send it.

import { toJson } from "./json.js";

const HEADERS = { "x-wardcast-admin": "1" };

/** An answer that says why something was not done. `status` is 401 if the session has ended. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Called when a request finds that the session has ended. */
let onEnd = () => {};
export function whenSessionEnds(callback) {
  onEnd = callback;
}

/** Counts the sessions that have ended on this page. */
let ended = 0;

/** Has nothing shown of what is asked now: its answers are for an operator who has left. */
export function dropAnswers() {
  ended += 1;
}

/** Settles as `promise` does, or never if the session ends before. */
export function unlessEnded(promise) {
  const mine = ended;
  return new Promise((resolve, reject) => {
    promise.then((value) => mine === ended && resolve(value), (error) => mine === ended && reject(error));
  });
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...HEADERS, ...options.headers }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The hub does not answer.", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = new ApiError(body.error?.message ?? `status ${response.status}`, response.status);
  if (response.status === 401 && path !== "admin/login") onEnd();
  throw error;
}

const post = (path, body) =>
  send(path, { method: "POST", body: toJson(body), headers: { "content-type": "application/json" } });

/**
 * Calls a method of the server API. Resolves with its result, or never if the session ends before. `parse` is `parseJson` for results
 * with data of publications.
 */
export async function call(method, body = {}, parse = JSON.parse) {
  const answer = parse(await unlessEnded(post(`api/${method}`, body).then((response) => response.text())));
  if (answer.error) throw new ApiError(answer.error.message, 200);
  return answer.result;
}

/** Resolves with the session, or null in it, and whether users can log in with a password. */
export const readSession = async () => (await send("admin/session")).json();
export const logIn = async (credential) => (await post("admin/login", credential)).json();
export const logOut = () => send("admin/logout", { method: "POST" });

/** Reads a live trace until it ends. Calls `onEvent` with the name and the data of each event. */
export async function readTrace(kind, name, signal, onEvent) {
  const response = await send(`v1/trace?${kind}=${encodeURIComponent(name)}`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const lines = frame.split("\n");
      const field = (start) => lines.find((line) => line.startsWith(start))?.slice(start.length);
      const data = field("data: ");
      if (data !== undefined) onEvent(field("event: ") ?? "message", JSON.parse(data));
      else if (frame.startsWith(": ")) onEvent("begin", null);
    }
  }
}
