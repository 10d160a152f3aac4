// The transports of npm `centrifuge` for clients whose network lets no WebSocket through: HTTP streaming and SSE, with commands
// in requests of their own, and how the SDK falls back to them.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as send } from "node:http";
import { after, before, test } from "node:test";

import { Centrifuge as Centrifuge31 } from "centrifuge-3.1";
import { Centrifuge as Centrifuge41 } from "centrifuge-4.1";
import { Centrifuge as Centrifuge50 } from "centrifuge-5.0";
import { Centrifuge as Centrifuge53 } from "centrifuge-5.3";

import {
  FORMATS, PATH_PREFIX, api, connect, createClientOf, createSubscription, expectPublication, receiveData, startHub, startSeveralNodes,
  subscribe,
} from "./support.mjs";

const [JSON_FORMAT, PROTOBUF_FORMAT] = FORMATS;
const HTTP_STREAM = { transport: "http_stream", path: "/connection/http_stream" };
const SSE = { transport: "sse", path: "/connection/sse" };
const WEBSOCKET = { transport: "websocket", path: "/connection/websocket" };

let hub;
before(async () => (hub = await startHub({ "channels.history_size": 100, "channels.history_ttl": "1m", "channels.allow_history": "subscriber" })));
after(() => hub.stop());

/** Creates a client that tries these transports in their order. */
function createClient(t, address, token, transports, options = {}) {
  const endpoints = transports.map(({ transport, path }) => ({
    transport,
    endpoint: `${transport === "websocket" ? "ws" : "http"}://${address}${PATH_PREFIX}${path}`,
  }));
  const emulationEndpoint = `http://${address}${PATH_PREFIX}/emulation`;
  return createClientOf(t, endpoints, { token, emulationEndpoint, ...options });
}

/** Connects such a client; resolves with it when it is connected. */
const connectClient = (t, address, token, transports, options) =>
  connect(createClient(t, address, token, transports, options));

/** A proxy that passes requests on, each to the next address, and refuses to upgrade. */
async function startHttpProxy(t, addresses) {
  let requests = 0;
  const open = new Set();
  const server = createServer((near, answer) => {
    const [host, port] = addresses[requests++ % addresses.length].split(":");
    const far = send({ host, port, path: near.url, method: near.method, headers: near.headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      // The head of a stream has to arrive before its first event.
      answer.flushHeaders();
      response.pipe(answer);
      response.on("error", () => answer.destroy());
    });
    open.add(answer);
    far.on("error", () => answer.destroy());
    answer.on("close", () => (open.delete(answer), far.destroy()));
    near.pipe(far);
  });
  server.on("upgrade", (_, socket) => socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = () => open.forEach((answer) => answer.destroy());
  t.after(() => (cut(), server.closeAllConnections(), server.close()));
  return { address: `127.0.0.1:${server.address().port}`, cut };
}

for (const [name, transport, format] of [
  ["HTTP streaming", HTTP_STREAM, JSON_FORMAT],
  ["HTTP streaming, Protobuf", HTTP_STREAM, PROTOBUF_FORMAT],
  ["SSE", SSE, JSON_FORMAT],
]) {
  const channel = `over-${transport.transport}-${format.name}`;

  test(`a client subscribes, publishes and reads history over ${name}`, async (t) => {
    const client = await connectClient(t, hub.address, hub.sign({ sub: "ann" }), [transport], { format });
    assert.equal(client.connectedEvent.transport, transport.transport);
    const subscription = await subscribe(client, channel);
    await client.publish(channel, format.data({ number: 1 }));
    assert.deepEqual(await receiveData(subscription, 1), [{ number: 1 }]);
    const { publications } = await subscription.history({ limit: 10 });
    assert.deepEqual(publications.map(({ data }) => format.value(data)), [{ number: 1 }]);
    await assert.rejects(client.publish("unknown:1", format.data(1)), { code: 102 });
    subscription.unsubscribe();
    await subscription.events.waitFor("unsubscribed");
    subscription.subscribe();
    await subscription.events.waitFor("subscribed");
  });

  test(`a client that is cut off recovers what it missed over ${name}`, async (t) => {
    const proxy = await startHttpProxy(t, [hub.address]);
    const client = await connectClient(t, proxy.address, hub.sign({ sub: "ann" }), [transport], { format });
    const subscription = await subscribe(client, `${channel}-cut`, { recoverable: true, positioned: true });
    const publisher = await connectClient(t, hub.address, hub.sign({ sub: "bob" }), [WEBSOCKET], { format });
    await publisher.publish(`${channel}-cut`, format.data(1));
    assert.deepEqual(await receiveData(subscription, 1), [1]);
    proxy.cut();
    await client.events.waitFor("connecting");
    await publisher.publish(`${channel}-cut`, format.data(2));
    assert.deepEqual(await receiveData(subscription, 1), [2]);
    assert.equal(subscription.state, "subscribed");
  });

  test(`a client learns the code with which the hub closes its connection over ${name}`, async (t) => {
    const client = await connectClient(t, hub.address, hub.sign({ sub: "eve" }), [transport], { format });
    await api(hub, "disconnect", { user: "eve", disconnect: { code: 4500, reason: "go away" } });
    const { code, reason } = await client.events.waitFor("disconnected");
    assert.deepEqual([code, reason], [4500, "go away"]);
  });

  test(`the token of a client over ${name} is refreshed before it expires`, async (t) => {
    let refreshed;
    const refreshes = new Promise((resolve) => (refreshed = resolve));
    const getToken = async () => (refreshed(), hub.sign({ sub: "ann" }));
    const client = await connectClient(t, hub.address, hub.sign({ sub: "ann" }, { ttl: 4 }), [transport], { format, getToken });
    await refreshes;
    const subscription = await subscribe(client, `${channel}-refreshed`);
    await client.publish(`${channel}-refreshed`, format.data(1));
    assert.deepEqual(await receiveData(subscription, 1), [1]);
    assert.ok(!client.events.has("connecting"));
  });

  test(`requests of a client over ${name} reach its session on another node`, async (t) => {
    const nodes = await startSeveralNodes();
    t.after(() => nodes.stop());
    const proxy = await startHttpProxy(t, nodes.addresses);
    const client = await connectClient(t, proxy.address, nodes.sign({ sub: "ann" }), [transport], { format });
    const subscription = await subscribe(client, channel);
    for (let number = 0; number < 6; number++) {
      await client.publish(channel, format.data(number));
      assert.deepEqual(await receiveData(subscription, 1), [number]);
    }
  });
}

test("bytes arrive unchanged over HTTP streaming in Protobuf", async (t) => {
  const binary = await startHub({ "channels.data_format": "binary" });
  t.after(() => binary.stop());
  const format = { ...PROTOBUF_FORMAT, value: (data) => Buffer.from(data) };
  const client = await connectClient(t, binary.address, binary.sign({ sub: "ann" }), [HTTP_STREAM], { format });
  const subscription = await subscribe(client, "doc");
  const updates = [Buffer.from("\n\0\r\n {"), Buffer.from(Array.from({ length: 5000 }, (_, number) => number % 256))];
  for (const update of updates) await client.publish("doc", update);
  assert.deepEqual(await receiveData(subscription, updates.length), updates);
});

for (const fallback of [HTTP_STREAM, SSE]) {
  test(`a client whose proxy refuses WebSockets falls back to ${fallback.transport}`, async (t) => {
    const proxy = await startHttpProxy(t, [hub.address]);
    const client = await connectClient(t, proxy.address, hub.sign({ sub: "ann" }), [WEBSOCKET, fallback]);
    assert.equal(client.connectedEvent.transport, fallback.transport);
    await expectPublication(hub, await subscribe(client, `fallback-${fallback.transport}`), "here");
  });

  for (const [release, Centrifuge] of Object.entries({
    3.1: Centrifuge31,
    4.1: Centrifuge41,
    "5.0": Centrifuge50,
    5.3: Centrifuge53,
  })) {
    test(`release ${release} works over ${fallback.transport}`, async (t) => {
      const format = { ...JSON_FORMAT, Centrifuge };
      const client = await connectClient(t, hub.address, hub.sign({ sub: "ann" }), [fallback], { format });
      const subscription = createSubscription(client, `release-${release}-${fallback.transport}`);
      subscription.subscribe();
      await subscription.events.waitFor("subscribed");
      await expectPublication(hub, subscription, "here");
    });
  }
}

test("EventSource receives the publications of one channel and recovers them", async (t) => {
  const proxy = await startHttpProxy(t, [hub.address]);
  const source = new EventSource(`http://${proxy.address}${PATH_PREFIX}/v1/channels/events/events?token=${hub.sign({ sub: "ann" })}`);
  t.after(() => source.close());
  const received = [];
  let wake = () => {};
  const note = (entry) => (received.push(entry), wake());
  source.addEventListener("subscribe", ({ data }) => note(["subscribe", JSON.parse(data).recovered]));
  source.addEventListener("message", ({ data }) => note(["message", JSON.parse(data).data]));
  const next = async () => {
    while (received.length === 0) await new Promise((resolve) => (wake = resolve));
    return received.shift();
  };
  const publish = (data) =>
    fetch(`http://${hub.address}${PATH_PREFIX}/v1/channels/events/messages`, {
      method: "POST",
      headers: { "X-API-Key": hub.key, "Content-Type": "application/json" },
      body: JSON.stringify(data),
    });
  assert.deepEqual(await next(), ["subscribe", undefined]);
  await publish(1);
  assert.deepEqual(await next(), ["message", 1]);
  proxy.cut();
  await publish(2);
  assert.deepEqual(await next(), ["subscribe", true]);
  assert.deepEqual(await next(), ["message", 2]);
});
