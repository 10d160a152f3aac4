// How npm `centrifuge` connects, and how it reacts to refusals.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { UnauthorizedError } from "centrifuge";

import { SOCKETS, client, connected, hub as start } from "./support.mjs";

let hub;
before(async () => (hub = await start()));
after(() => hub.stop());

for (const [name, websocket] of Object.entries(SOCKETS)) {
  test(`a client with a token connects (${name})`, async (t) => {
    const { greeting } = await connected(t, hub, "ann", { websocket });
    assert.match(greeting.client, /^[0-9a-f-]{36}$/);
    assert.equal(greeting.transport, "websocket");
  });

  test(`a client with a token in the URL connects without a token option (${name})`, async (t) => {
    const it = client(t, hub, { websocket, query: `?token=${hub.sign({ sub: "ann" })}` });
    it.connect();
    await it.events.next("connected");
    assert.deepEqual(await it.publish("news", 1), {});
  });
}

test("a client without a token calls getToken", async (t) => {
  const it = client(t, hub, { getToken: async () => hub.sign({ sub: "ann" }) });
  it.connect();
  await it.ready(5000);
  assert.equal(it.state, "connected");
});

test("a token in the URL and one of the same user from getToken are accepted together", async (t) => {
  const it = client(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, getToken: async () => hub.sign({ sub: "ann" }) });
  it.connect();
  await it.events.next("connected");
});

test("a token in the URL and a token of another user close with 3500", async (t) => {
  const it = client(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, token: hub.sign({ sub: "bob" }) });
  it.connect();
  assert.equal((await it.events.next("disconnected")).code, 3500);
});

test("an invalid token closes with 3500, and the client does not reconnect", async (t) => {
  for (const token of [hub.sign({ sub: "ann" }, { secret: "another secret than the hub's, long enough" }), "nonsense", "a.b.c"]) {
    const it = client(t, hub, { token });
    it.connect();
    const { code, reason } = await it.events.next("disconnected");
    assert.deepEqual([code, reason, it.state], [3500, "invalid token", "disconnected"]);
  }
});

test("an expired token fails with 109, and the client connects with the next one from getToken", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const it = client(t, hub, { getToken: async () => tokens.shift() });
  it.connect();
  const { type, error } = await it.events.next("error");
  assert.deepEqual([type, error.code], ["connect", 109]);
  await it.events.next("connected");
  assert.equal(tokens.length, 0);
});

test("an expired token fails with 109 when subscribe commands share its frame", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const it = client(t, hub, { getToken: async () => tokens.shift() });
  const news = it.newSubscription("news");
  news.subscribe();
  it.connect();
  assert.equal((await it.events.next("error")).error.code, 109);
  await news.ready(5000);
});

test("an expired token without getToken disconnects the client for good", async (t) => {
  const it = client(t, hub, { token: hub.sign({ sub: "ann", exp: 1_600_000_000 }) });
  it.connect();
  const { code, reason } = await it.events.next("disconnected");
  assert.deepEqual([code, reason], [1, "unauthorized"]);
});

test("UnauthorizedError from getToken disconnects for good, and other errors are retried", async (t) => {
  const lost = client(t, hub, { getToken: () => Promise.reject(new UnauthorizedError("")) });
  lost.connect();
  assert.equal((await lost.events.next("disconnected")).code, 1);
  const answers = [() => Promise.reject(new Error("backend away")), async () => hub.sign({ sub: "ann" })];
  const found = client(t, hub, { getToken: () => answers.shift()() });
  found.connect();
  assert.equal((await found.events.next("error")).type, "connectToken");
  await found.events.next("connected");
});

test("an invalid token in the URL looks like a transport error and is retried", async (t) => {
  const it = client(t, hub, { query: "?token=a.b.c" });
  it.connect();
  for (let tries = 0; tries < 3; tries++) {
    const { type, transport } = await it.events.next("error");
    assert.deepEqual([type, transport], ["transport", "websocket"]);
  }
  assert.equal(it.state, "connecting");
});

test("an invalid token in the URL closes with 3500 if auth.reject is close", async (t) => {
  const telling = await start({ "auth.reject": "close" });
  t.after(() => telling.stop());
  for (const [claims, reason] of [[{ sub: "ann", exp: 1_600_000_000 }, "token expired"], [{ sub: 1 }, "invalid token"]]) {
    const it = client(t, telling, { query: `?token=${telling.sign(claims)}` });
    it.connect();
    const disconnected = await it.events.next("disconnected");
    assert.deepEqual([disconnected.code, disconnected.reason], [3500, reason]);
  }
});

test("a client without a token is closed with 3501 unless anonymous access is enabled", async (t) => {
  const nobody = client(t, hub);
  nobody.connect();
  assert.equal((await nobody.events.next("disconnected")).code, 3501);
  const open = await start({ "auth.anonymous": "always" });
  t.after(() => open.stop());
  const guest = client(t, open);
  guest.connect();
  await guest.events.next("connected");
});

test("one connection of a user too many is 3504", async (t) => {
  const narrow = await start({ "limits.connections_per_user": 1 });
  t.after(() => narrow.stop());
  await connected(t, narrow);
  const second = client(t, narrow, { token: narrow.sign({ sub: "ann" }) });
  second.connect();
  assert.equal((await second.events.next("disconnected")).code, 3504);
});

test("calls wait for the connection, and ready() says when it is there", async (t) => {
  const it = client(t, hub, { token: hub.sign({ sub: "ann" }) });
  await assert.rejects(it.ready(), { code: 3 });
  const published = it.publish("news", "early");
  it.connect();
  await it.ready(5000);
  assert.deepEqual(await published, {});
  it.disconnect();
  assert.equal((await it.events.next("disconnected")).code, 0);
});
