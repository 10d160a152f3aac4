// How npm `centrifuge` connects, and how it reacts to refusals.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { UnauthorizedError } from "centrifuge";

import { SOCKETS, createClient, connectClient, startHub } from "./support.mjs";

let hub;
before(async () => (hub = await startHub()));
after(() => hub.stop());

for (const [name, websocket] of Object.entries(SOCKETS)) {
  test(`a client with a token connects (${name})`, async (t) => {
    const { connectedEvent } = await connectClient(t, hub, "ann", { websocket });
    assert.match(connectedEvent.client, /^[0-9a-f-]{36}$/);
    assert.equal(connectedEvent.transport, "websocket");
  });

  test(`a client with a token in the URL connects without a token option (${name})`, async (t) => {
    const client = createClient(t, hub, { websocket, query: `?token=${hub.sign({ sub: "ann" })}` });
    client.connect();
    await client.events.waitFor("connected");
    assert.deepEqual(await client.publish("news", 1), {});
  });
}

test("a client without a token calls getToken", async (t) => {
  const client = createClient(t, hub, { getToken: async () => hub.sign({ sub: "ann" }) });
  client.connect();
  await client.ready(5000);
  assert.equal(client.state, "connected");
});

test("a token in the URL and one of the same user from getToken are accepted together", async (t) => {
  const client = createClient(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, getToken: async () => hub.sign({ sub: "ann" }) });
  client.connect();
  await client.events.waitFor("connected");
});

test("a token in the URL and a token of another user close with 3500", async (t) => {
  const client = createClient(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, token: hub.sign({ sub: "bob" }) });
  client.connect();
  assert.equal((await client.events.waitFor("disconnected")).code, 3500);
});

test("an invalid token closes with 3500, and the client does not reconnect", async (t) => {
  for (const token of [hub.sign({ sub: "ann" }, { secret: "another secret than the hub's, long enough" }), "nonsense", "a.b.c"]) {
    const client = createClient(t, hub, { token });
    client.connect();
    const { code, reason } = await client.events.waitFor("disconnected");
    assert.deepEqual([code, reason, client.state], [3500, "invalid token", "disconnected"]);
  }
});

test("an expired token fails with 109, and the client connects with the next one from getToken", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const client = createClient(t, hub, { getToken: async () => tokens.shift() });
  client.connect();
  const { type, error } = await client.events.waitFor("error");
  assert.deepEqual([type, error.code], ["connect", 109]);
  await client.events.waitFor("connected");
  assert.equal(tokens.length, 0);
});

test("an expired token fails with 109 when subscribe commands share its frame", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const client = createClient(t, hub, { getToken: async () => tokens.shift() });
  const news = client.newSubscription("news");
  news.subscribe();
  client.connect();
  assert.equal((await client.events.waitFor("error")).error.code, 109);
  await news.ready(5000);
});

test("an expired token without getToken disconnects the client for good", async (t) => {
  const client = createClient(t, hub, { token: hub.sign({ sub: "ann", exp: 1_600_000_000 }) });
  client.connect();
  const { code, reason } = await client.events.waitFor("disconnected");
  assert.deepEqual([code, reason], [1, "unauthorized"]);
});

test("UnauthorizedError from getToken disconnects for good, and other errors are retried", async (t) => {
  const lost = createClient(t, hub, { getToken: () => Promise.reject(new UnauthorizedError("")) });
  lost.connect();
  assert.equal((await lost.events.waitFor("disconnected")).code, 1);
  const answers = [() => Promise.reject(new Error("backend away")), async () => hub.sign({ sub: "ann" })];
  const found = createClient(t, hub, { getToken: () => answers.shift()() });
  found.connect();
  assert.equal((await found.events.waitFor("error")).type, "connectToken");
  await found.events.waitFor("connected");
});

test("an invalid token in the URL looks like a transport error and is retried", async (t) => {
  const client = createClient(t, hub, { query: "?token=a.b.c" });
  client.connect();
  for (let tries = 0; tries < 3; tries++) {
    const { type, transport } = await client.events.waitFor("error");
    assert.deepEqual([type, transport], ["transport", "websocket"]);
  }
  assert.equal(client.state, "connecting");
});

test("an invalid token in the URL closes with 3500 if auth.reject is close", async (t) => {
  const closing = await startHub({ "auth.reject": "close" });
  t.after(() => closing.stop());
  for (const [claims, reason] of [[{ sub: "ann", exp: 1_600_000_000 }, "token expired"], [{ sub: 1 }, "invalid token"]]) {
    const client = createClient(t, closing, { query: `?token=${closing.sign(claims)}` });
    client.connect();
    const disconnected = await client.events.waitFor("disconnected");
    assert.deepEqual([disconnected.code, disconnected.reason], [3500, reason]);
  }
});

test("a client without a token is closed with 3501 unless anonymous access is enabled", async (t) => {
  const anonymous = createClient(t, hub);
  anonymous.connect();
  assert.equal((await anonymous.events.waitFor("disconnected")).code, 3501);
  const open = await startHub({ "auth.anonymous": "always" });
  t.after(() => open.stop());
  const guest = createClient(t, open);
  guest.connect();
  await guest.events.waitFor("connected");
});

test("one connection of a user too many is 3504", async (t) => {
  const narrow = await startHub({ "limits.connections_per_user": 1 });
  t.after(() => narrow.stop());
  await connectClient(t, narrow);
  const second = createClient(t, narrow, { token: narrow.sign({ sub: "ann" }) });
  second.connect();
  assert.equal((await second.events.waitFor("disconnected")).code, 3504);
});

test("calls wait for the connection, and ready() resolves when it is open", async (t) => {
  const client = createClient(t, hub, { token: hub.sign({ sub: "ann" }) });
  await assert.rejects(client.ready(), { code: 3 });
  const published = client.publish("news", "early");
  client.connect();
  await client.ready(5000);
  assert.deepEqual(await published, {});
  client.disconnect();
  assert.equal((await client.events.waitFor("disconnected")).code, 0);
});
