// Expiring tokens: npm `centrifuge` refreshes them in time, or the hub ends the session.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { UnauthorizedError } from "centrifuge";

import { api, createClient, connectClient, expectPublication, startHub, withDeadline, subscribe, createSubscription } from "./support.mjs";

// The hub sends clients half of the remaining lifetime of a short token as its ttl, at least one second.
let hub;
before(async () => (hub = await startHub()));
after(() => hub.stop());

/** Returns a getToken that records its calls, and `call(n)`, which resolves at call number n. */
function counted(sign) {
  const calls = [];
  const waiting = [];
  const call = (n) => (waiting[n] ??= resolvers());
  const getToken = async (context) => {
    calls.push(context);
    call(calls.length).resolve();
    return sign(calls.length);
  };
  return { calls, getToken, call: (n) => withDeadline(call(n).promise, `call ${n} of getToken`) };
}

function resolvers() {
  let resolve;
  const promise = new Promise((it) => (resolve = it));
  return { promise, resolve };
}

test("a client refreshes repeatedly before its token expires and stays connected", async (t) => {
  const tokens = counted(() => hub.sign({ sub: "ann" }, { ttl: 3 }));
  const ann = createClient(t, hub, { getToken: tokens.getToken });
  ann.connect();
  await ann.events.waitFor("connected");
  const news = await subscribe(ann, "refreshed");
  await tokens.call(5);
  await expectPublication(hub, news, "after more than one token");
  assert.ok(!ann.events.has("connecting") && !ann.events.has("error"));
});

test("a client with a token in the URL refreshes with getToken", async (t) => {
  const tokens = counted(() => hub.sign({ sub: "ann" }));
  const first = hub.sign({ sub: "ann" }, { ttl: 3 });
  const ann = createClient(t, hub, { query: `?token=${first}`, token: first, getToken: tokens.getToken });
  ann.connect();
  await ann.events.waitFor("connected");
  await tokens.call(1);
  await expectPublication(hub, await subscribe(ann, "url"), 1);
  assert.ok(!ann.events.has("connecting"));
});

test("a refresh disconnects for good with UnauthorizedError, an invalid or another user's token", async (t) => {
  for (const [second, code] of [
    [() => Promise.reject(new UnauthorizedError("")), 1],
    [async () => "a.b.c", 3500],
    [async () => hub.sign({ sub: "bob" }), 3500],
  ]) {
    const answers = [async () => hub.sign({ sub: "ann" }, { ttl: 3 }), second];
    const ann = createClient(t, hub, { getToken: () => answers.shift()() });
    ann.connect();
    await ann.events.waitFor("connected");
    assert.equal((await ann.events.waitFor("disconnected")).code, code);
  }
});

test("a client that refreshes with an expired token gets 3005, and reconnects with a new token", async (t) => {
  const answers = [
    async () => hub.sign({ sub: "ann" }, { ttl: 3 }),
    async () => hub.sign({ sub: "ann", exp: 1_600_000_000 }),
    async () => hub.sign({ sub: "ann" }),
  ];
  const ann = createClient(t, hub, { getToken: () => answers.shift()() });
  ann.connect();
  await ann.events.waitFor("connected");
  assert.equal((await ann.events.waitFor("connecting")).code, 3005);
  await ann.events.waitFor("connected");
  assert.ok(!ann.events.has("disconnected"));
});

test("a client that refreshes too late gets 3005, then 109, and reconnects with a new token", async (t) => {
  // Refreshes of the open connection get no answer. On a busy machine it may expire before the client asks for one.
  const stuck = resolvers();
  let ttl = 2;
  const ann = createClient(t, hub, {
    getToken: () => (ann.state === "connected" ? stuck.promise : hub.sign({ sub: "ann" }, { ttl })),
  });
  ann.connect();
  await ann.events.waitFor("connected");
  ttl = 60;
  const news = await subscribe(ann, "late");
  const { code, reason } = await ann.events.waitFor("connecting");
  assert.deepEqual([code, reason], [3005, "connection expired"]);
  assert.equal((await ann.events.waitFor("error")).error.code, 109);
  await ann.events.waitFor("connected");
  await news.events.waitFor("subscribed");
  await expectPublication(hub, news, "back");
  stuck.resolve(hub.sign({ sub: "ann" }));
});

test("a client without getToken disconnects as unauthorized before its token expires", async (t) => {
  for (const options of [(token) => ({ token }), (token) => ({ query: `?token=${token}` })]) {
    const ann = createClient(t, hub, options(hub.sign({ sub: "ann" }, { ttl: 3 })));
    ann.connect();
    assert.equal((await ann.events.waitFor("error")).type, "configuration");
    assert.equal((await ann.events.waitFor("disconnected")).code, 1);
  }
});

test("a subscription token permits its channel, and getToken gets the channel name", async (t) => {
  const ann = await connectClient(t, hub);
  const tokens = counted(() => hub.sign({ sub: "ann", channel: "$secret" }));
  const secret = await subscribe(ann, "$secret", { getToken: tokens.getToken });
  assert.deepEqual(tokens.calls, [{ channel: "$secret" }]);
  await expectPublication(hub, secret, "psst");
});

test("a subscription token is refreshed before it expires, and the subscription continues", async (t) => {
  const ann = await connectClient(t, hub);
  const tokens = counted(() => hub.sign({ sub: "ann", channel: "$renewed" }, { ttl: 3 }));
  const secret = await subscribe(ann, "$renewed", { getToken: tokens.getToken });
  await tokens.call(5);
  await expectPublication(hub, secret, "after more than one token");
  assert.ok(!secret.events.has("unsubscribed") && !secret.events.has("subscribing"));
});

test("a subscription with an expired token ends with 2501 and subscribes again with a new one", async (t) => {
  const ann = await connectClient(t, hub);
  const answers = [
    async () => hub.sign({ sub: "ann", channel: "$ended" }, { ttl: 2 }),
    () => new Promise(() => {}),
    async () => hub.sign({ sub: "ann", channel: "$ended", exp: 1_600_000_000 }),
    async () => hub.sign({ sub: "ann", channel: "$ended" }),
  ];
  const options = { getToken: () => answers.shift()(), minResubscribeDelay: 20 };
  const secret = createSubscription(ann, "$ended", options);
  secret.subscribe();
  await secret.events.waitFor("subscribed");
  assert.equal((await secret.events.waitFor("subscribing")).code, 2501);
  // Its current token has expired, and so has the next one.
  for (const code of [109, 109]) assert.equal((await secret.events.waitFor("error")).error.code, code);
  await secret.events.waitFor("subscribed");
  await expectPublication(hub, secret, "back");
});

test("an invalid subscription token fails with 103, and one of another channel or user closes with 3500", async (t) => {
  const ann = await connectClient(t, hub);
  for (const [getToken, code] of [
    [async () => "a.b.c", 103],
    [async () => hub.sign({ sub: "ann", channel: "$x" }, { secret: "another secret than the hub's, long enough" }), 103],
    [async () => hub.sign({ sub: "ann" }), 103],
    [() => Promise.reject(new UnauthorizedError("")), 1],
  ]) {
    const secret = createSubscription(ann, "$x", { getToken });
    secret.subscribe();
    assert.equal((await secret.events.waitFor("unsubscribed")).code, code);
    ann.removeSubscription(secret);
  }
  await expectPublication(hub, await subscribe(ann, "stays"), 1);
  for (const claims of [{ sub: "ann", channel: "$y" }, { sub: "bob", channel: "$x" }]) {
    const thief = await connectClient(t, hub);
    createSubscription(thief, "$x", { getToken: async () => hub.sign(claims) }).subscribe();
    assert.equal((await thief.events.waitFor("disconnected")).code, 3500);
  }
});

test("added and removed channels of a refreshed token reach the client as events", async (t) => {
  const claims = [{ sub: "ann", channels: ["old"] }, { sub: "ann", channels: ["new"] }];
  const ann = createClient(t, hub, { getToken: async () => hub.sign(claims.shift() ?? { sub: "ann" }, { ttl: claims.length ? 3 : 60 }) });
  ann.connect();
  assert.equal((await ann.events.waitFor("subscribed")).channel, "old");
  assert.equal((await ann.events.waitFor("unsubscribed")).channel, "old");
  assert.equal((await ann.events.waitFor("subscribed")).channel, "new");
  await api(hub, "publish", { channel: "new", data: 1 });
  assert.equal((await ann.events.waitFor("publication")).channel, "new");
});
