// How npm `centrifuge` gets in, and what it makes of being kept out.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { UnauthorizedError } from "centrifuge";

import { SOCKETS, client, connected, hub as start } from "./support.mjs";

let hub;
before(async () => (hub = await start()));
after(() => hub.stop());

for (const [name, websocket] of Object.entries(SOCKETS)) {
  test(`a client with a token is connected (${name})`, async (t) => {
    const { greeting } = await connected(t, hub, "ann", { websocket });
    assert.match(greeting.client, /^[0-9a-f-]{36}$/);
    assert.equal(greeting.transport, "websocket");
  });

  test(`a URL with a token needs no token of the client (${name})`, async (t) => {
    const it = client(t, hub, { websocket, query: `?token=${hub.sign({ sub: "ann" })}` });
    it.connect();
    await it.heard.next("connected");
    assert.deepEqual(await it.publish("news", 1), {});
  });
}

test("a client asks its getToken when it has none", async (t) => {
  const it = client(t, hub, { getToken: async () => hub.sign({ sub: "ann" }) });
  it.connect();
  await it.ready(5000);
  assert.equal(it.state, "connected");
});

test("a URL's token and one of the same user's from getToken go together", async (t) => {
  const it = client(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, getToken: async () => hub.sign({ sub: "ann" }) });
  it.connect();
  await it.heard.next("connected");
});

test("a URL's token of one user and a token of another are 3500", async (t) => {
  const it = client(t, hub, { query: `?token=${hub.sign({ sub: "ann" })}`, token: hub.sign({ sub: "bob" }) });
  it.connect();
  assert.equal((await it.heard.next("disconnected")).code, 3500);
});

test("a bad token is 3500, and the client stays away", async (t) => {
  for (const token of [hub.sign({ sub: "ann" }, { secret: "the secret of somebody else" }), "nonsense", "a.b.c"]) {
    const it = client(t, hub, { token });
    it.connect();
    const { code, reason } = await it.heard.next("disconnected");
    assert.deepEqual([code, reason, it.state], [3500, "invalid token", "disconnected"]);
  }
});

test("an expired token is 109, and getToken's next one gets in", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const it = client(t, hub, { getToken: async () => tokens.shift() });
  it.connect();
  const { type, error } = await it.heard.next("error");
  assert.deepEqual([type, error.code], ["connect", 109]);
  await it.heard.next("connected");
  assert.equal(tokens.length, 0);
});

test("an expired token with subscriptions that wait is 109 too, though their commands are in the same frame", async (t) => {
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const it = client(t, hub, { getToken: async () => tokens.shift() });
  const news = it.newSubscription("news");
  news.subscribe();
  it.connect();
  assert.equal((await it.heard.next("error")).error.code, 109);
  await news.ready(5000);
});

test("an expired token without getToken is the end", async (t) => {
  const it = client(t, hub, { token: hub.sign({ sub: "ann", exp: 1_600_000_000 }) });
  it.connect();
  const { code, reason } = await it.heard.next("disconnected");
  assert.deepEqual([code, reason], [1, "unauthorized"]);
});

test("a getToken that says Unauthorized is the end, one that fails is asked again", async (t) => {
  const lost = client(t, hub, { getToken: () => Promise.reject(new UnauthorizedError("")) });
  lost.connect();
  assert.equal((await lost.heard.next("disconnected")).code, 1);
  const answers = [() => Promise.reject(new Error("backend away")), async () => hub.sign({ sub: "ann" })];
  const found = client(t, hub, { getToken: () => answers.shift()() });
  found.connect();
  assert.equal((await found.heard.next("error")).type, "connectToken");
  await found.heard.next("connected");
});

test("a URL with a bad token looks like a transport that fails, and is tried again", async (t) => {
  const it = client(t, hub, { query: "?token=a.b.c" });
  it.connect();
  for (let tries = 0; tries < 3; tries++) {
    const { type, transport } = await it.heard.next("error");
    assert.deepEqual([type, transport], ["transport", "websocket"]);
  }
  assert.equal(it.state, "connecting");
});

test("a URL with a bad token is 3500 where auth.reject is close", async (t) => {
  const telling = await start({ "auth.reject": "close" });
  t.after(() => telling.stop());
  for (const [claims, reason] of [[{ sub: "ann", exp: 1_600_000_000 }, "token expired"], [{ sub: 1 }, "invalid token"]]) {
    const it = client(t, telling, { query: `?token=${telling.sign(claims)}` });
    it.connect();
    const disconnected = await it.heard.next("disconnected");
    assert.deepEqual([disconnected.code, disconnected.reason], [3500, reason]);
  }
});

test("without a token the client is told 3501, unless everybody may come", async (t) => {
  const nobody = client(t, hub);
  nobody.connect();
  assert.equal((await nobody.heard.next("disconnected")).code, 3501);
  const open = await start({ "auth.anonymous": "always" });
  t.after(() => open.stop());
  const guest = client(t, open);
  guest.connect();
  await guest.heard.next("connected");
});

test("one connection of a user too many is 3504", async (t) => {
  const narrow = await start({ "limits.connections_per_user": 1 });
  t.after(() => narrow.stop());
  await connected(t, narrow);
  const second = client(t, narrow, { token: narrow.sign({ sub: "ann" }) });
  second.connect();
  assert.equal((await second.heard.next("disconnected")).code, 3504);
});

test("calls wait for the connection, and ready() says when it is there", async (t) => {
  const it = client(t, hub, { token: hub.sign({ sub: "ann" }) });
  await assert.rejects(it.ready(), { code: 3 });
  const published = it.publish("news", "early");
  it.connect();
  await it.ready(5000);
  assert.deepEqual(await published, {});
  it.disconnect();
  assert.equal((await it.heard.next("disconnected")).code, 0);
});
