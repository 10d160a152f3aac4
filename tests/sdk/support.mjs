// What these tests are written in: SDK clients of a hub, and their events one after the other.

import { test } from "node:test";

import { Centrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { WebSocket } from "ws";

import { PATIENCE_MS, startHub } from "../support/hub.mjs";

/** The built hub, named by `run`. */
export const BINARY = process.env.WARDCAST;

/** The implementations of WebSocket that there are here, by name. */
export const SOCKETS = { ws: WebSocket, ...(globalThis.WebSocket && { native: globalThis.WebSocket }) };

/** What a client speaks: its SDK, and what data is there. In Protobuf data is bytes, which are JSON all the same. */
export const FORMATS = [
  { name: "JSON", Centrifuge, data: (value) => value, value: (data) => data },
  {
    name: "Protobuf",
    Centrifuge: ProtobufCentrifuge,
    data: (value) => Buffer.from(JSON.stringify(value)),
    value: (data) => JSON.parse(Buffer.from(data)),
  },
];

/** The same test for each format, with a channel of its own. */
export function inBothFormats(name, body) {
  for (const format of FORMATS) test(`${name} (${format.name})`, (t) => body(t, format, `of-${format.name}-${serial++}`));
}
let serial = 0;

/** A hub; see `startHub`. */
export const hub = (settings = {}) => startHub(BINARY, { settings });

/** What `promise` comes to, if it does so before `deadline`, in the time of `Date.now()`. */
export async function soon(promise, what, deadline = Date.now() + PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`never: ${what}`)), deadline - Date.now());
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Events of a client or a subscription. Those that have not been asked for wait. */
export class Events {
  static #names = [
    "connecting", "connected", "disconnected", "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error",
  ];
  #heard = [];
  #woken = () => {};

  constructor(emitter) {
    for (const name of Events.#names) {
      emitter.on(name, (context) => {
        this.#heard.push([name, context]);
        this.#woken();
      });
    }
  }

  /** The next event of this name, which is forgotten with all before it. */
  async next(name) {
    const seen = () => this.#heard.map(([name, context]) => `${name} ${JSON.stringify(context)}`).join(", ");
    // One for all: a client that comes and goes wakes us for ever.
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const found = this.#heard.findIndex((event) => event[0] === name);
      if (found >= 0) return this.#heard.splice(0, found + 1)[found][1];
      const woken = new Promise((resolve) => (this.#woken = resolve));
      await soon(woken, name, deadline).catch((error) => {
        throw new Error(`${error.message}; instead: ${seen()}`);
      });
    }
  }

  /** Whether there was an event of this name that nobody has asked for. */
  had(name) {
    return this.#heard.some((event) => event[0] === name);
  }
}

/** An SDK client that leaves with the test; `query` is put behind the URL. It comes back sooner than it would by itself. */
export function client(t, hub, { query = "", format = FORMATS[0], ...options } = {}) {
  const client = new format.Centrifuge(`ws://${hub.address}/connection/websocket${query}`, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  });
  t.after(() => client.disconnect());
  client.heard = new Events(client);
  client.format = format;
  return client;
}

/** The same, connected as `user`. */
export async function connected(t, hub, user = "ann", options = {}) {
  const it = client(t, hub, { token: hub.sign({ sub: user }), ...options });
  it.connect();
  it.greeting = await it.heard.next("connected");
  return it;
}

/** A subscription of this client that listens. */
export async function subscribed(client, channel, options) {
  const it = subscription(client, channel, options);
  it.subscribe();
  await it.heard.next("subscribed");
  return it;
}

/** One that does not listen yet. */
export function subscription(client, channel, options) {
  const it = client.newSubscription(channel, options);
  it.heard = new Events(it);
  it.format = client.format;
  return it;
}

/** The data of so many publications that a client or a subscription hears. */
export async function values(listener, count) {
  const all = [];
  while (all.length < count) all.push(listener.format.value((await listener.heard.next("publication")).data));
  return all;
}

/** A method of the server API. */
export async function api(hub, method, request) {
  const answer = await fetch(`http://${hub.address}/api/${method}`, {
    method: "POST",
    headers: { "X-API-Key": hub.key },
    body: JSON.stringify(request),
  });
  const body = await answer.json();
  if (body.error || answer.status !== 200) throw new Error(`${method}: ${answer.status} ${JSON.stringify(body)}`);
  return body.result;
}
