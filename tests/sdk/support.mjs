// Helpers of the SDK tests: hubs, SDK clients, and their events in order.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Centrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { WebSocket } from "ws";

import { PATIENCE_MS, startHub as startHubProcess } from "../support/hub.mjs";
import { startNodes } from "../support/nodes.mjs";

/** The path of the built hub, set by `run`. */
export const BINARY = process.env.WARDCAST;

/** The available WebSocket implementations, by name. */
export const SOCKETS = { ws: WebSocket, ...(globalThis.WebSocket && { native: globalThis.WebSocket }) };

/** The formats: the SDK class, and how to convert data. In Protobuf, data is bytes that contain JSON. */
export const FORMATS = [
  { name: "JSON", Centrifuge, data: (value) => value, value: (data) => data },
  {
    name: "Protobuf",
    Centrifuge: ProtobufCentrifuge,
    data: (value) => Buffer.from(JSON.stringify(value)),
    value: (data) => JSON.parse(Buffer.from(data)),
  },
];

/** Defines a test for each format, each with a channel of its own. */
export function testInBothFormats(name, body) {
  for (const format of FORMATS) test(`${name} (${format.name})`, (t) => body(t, format, `of-${format.name}-${serial++}`));
}
let serial = 0;

/** Whether every hub is two nodes on one Redis, set by `run`. */
export const HAS_NODES = process.env.WARDCAST_NODES === "2";

/** The path prefix of every hub, set by `run`; empty: none. */
export const PATH_PREFIX = process.env.WARDCAST_PATH_PREFIX ?? "";
/** The settings of every hub. */
const COMMON = PATH_PREFIX ? { "server.path_prefix": PATH_PREFIX } : {};

/** Starts a hub, or nodes that are used like one. */
export const startHub = (settings = {}) => (HAS_NODES ? startNodes : startHubProcess)(BINARY, { settings: { ...COMMON, ...settings } });
/** Starts nodes that are used like one hub. */
export const startSeveralNodes = () => startNodes(BINARY, { settings: COMMON });

/** Resolves like `promise`; rejects at `deadline`, in milliseconds since the epoch. */
export async function withDeadline(promise, what, deadline = Date.now() + PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), deadline - Date.now());
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Queues the events of a client or a subscription. */
export class Events {
  static #names = [
    "connecting", "connected", "disconnected", "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error",
  ];
  #received = [];
  #wake = () => {};

  constructor(emitter) {
    for (const name of Events.#names) {
      emitter.on(name, (context) => {
        this.#received.push([name, context]);
        this.#wake();
      });
    }
  }

  /** Resolves with the next event of this name; removes it and all earlier events. */
  async waitFor(name) {
    const seen = () => this.#received.map(([name, context]) => `${name} ${JSON.stringify(context)}`).join(", ");
    // One deadline for the whole wait: other events must not extend it.
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const found = this.#received.findIndex((event) => event[0] === name);
      if (found >= 0) return this.#received.splice(0, found + 1)[found][1];
      const wake = new Promise((resolve) => (this.#wake = resolve));
      await withDeadline(wake, name, deadline).catch((error) => {
        throw new Error(`${error.message}; received instead: ${seen()}`);
      });
    }
  }

  /** Returns whether an event of this name is queued. */
  has(name) {
    return this.#received.some((event) => event[0] === name);
  }
}

/** Creates an SDK client with short reconnect delays, disconnected when the test ends; `query` is appended to the URL. */
export function createClient(t, hub, { query = "", ...options } = {}) {
  return createClientOf(t, `ws://${hub.address}${PATH_PREFIX}/connection/websocket${query}`, options);
}

/** The same for other endpoints. */
export function createClientOf(t, endpoints, { format = FORMATS[0], ...options }) {
  const client = new format.Centrifuge(endpoints, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  });
  t.after(() => client.disconnect());
  client.events = new Events(client);
  client.format = format;
  return client;
}

/** Creates a client and connects it as `user`. */
export async function connectClient(t, hub, user = "ann", options = {}) {
  return connect(createClient(t, hub, { token: hub.sign({ sub: user }), ...options }));
}

/** Connects a client; resolves with it when it is connected. */
export async function connect(client) {
  client.connect();
  client.connectedEvent = await client.events.waitFor("connected");
  return client;
}

/** Creates a subscription and subscribes it. */
export async function subscribe(client, channel, options) {
  const it = createSubscription(client, channel, options);
  it.subscribe();
  await it.events.waitFor("subscribed");
  return it;
}

/** Creates a subscription without subscribing it. */
export function createSubscription(client, channel, options) {
  const it = client.newSubscription(channel, options);
  it.events = new Events(it);
  it.format = client.format;
  return it;
}

/** Returns the data of the next `count` publications of a client or a subscription. */
export async function receiveData(listener, count) {
  const all = [];
  while (all.length < count) all.push(listener.format.value((await listener.events.waitFor("publication")).data));
  return all;
}

/** Calls a method of the server API. */
export async function api(hub, method, request) {
  const answer = await fetch(`http://${hub.address}${PATH_PREFIX}/api/${method}`, {
    method: "POST",
    headers: { "X-API-Key": hub.key },
    body: JSON.stringify(request),
  });
  const body = await answer.json();
  if (body.error || answer.status !== 200) throw new Error(`${method}: ${answer.status} ${JSON.stringify(body)}`);
  return body.result;
}

/** Publishes with the server API and checks that the subscription receives it. */
export async function expectPublication(hub, subscription, data) {
  await api(hub, "publish", { channel: subscription.channel, data });
  assert.equal((await subscription.events.waitFor("publication")).data, data);
}
