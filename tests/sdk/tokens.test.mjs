// Tokens that end: npm `centrifuge` gets new ones in time, or is told to.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { UnauthorizedError } from "centrifuge";

import { api, client, connected, hub as start, soon, subscribed, subscription } from "./support.mjs";

// Clients are told half of what a short token has left, at least a second.
let hub;
before(async () => (hub = await start()));
after(() => hub.stop());

/** Resolves when a publication sent now has come: the client is still there. */
async function hears(hub, subscription, data) {
  await api(hub, "publish", { channel: subscription.channel, data });
  assert.equal((await subscription.heard.next("publication")).data, data);
}

/** A getToken that counts, and whose call number N can be waited for. */
function counted(sign) {
  const calls = [];
  const waiting = [];
  const call = (n) => (waiting[n] ??= resolvers());
  const getToken = async (context) => {
    calls.push(context);
    call(calls.length).resolve();
    return sign(calls.length);
  };
  return { calls, getToken, call: (n) => soon(call(n).promise, `call ${n} of getToken`) };
}

function resolvers() {
  let resolve;
  const promise = new Promise((it) => (resolve = it));
  return { promise, resolve };
}

test("a client refreshes before its token ends, again and again, and stays connected", async (t) => {
  const tokens = counted(() => hub.sign({ sub: "ann" }, { ttl: 3 }));
  const ann = client(t, hub, { getToken: tokens.getToken });
  ann.connect();
  await ann.heard.next("connected");
  const news = await subscribed(ann, "refreshed");
  await tokens.call(5);
  await hears(hub, news, "after more than one token");
  assert.ok(!ann.heard.had("connecting") && !ann.heard.had("error"));
});

test("who came by the URL's token refreshes by getToken", async (t) => {
  const tokens = counted(() => hub.sign({ sub: "ann" }));
  const first = hub.sign({ sub: "ann" }, { ttl: 3 });
  const ann = client(t, hub, { query: `?token=${first}`, token: first, getToken: tokens.getToken });
  ann.connect();
  await ann.heard.next("connected");
  await tokens.call(1);
  await hears(hub, await subscribed(ann, "url"), 1);
  assert.ok(!ann.heard.had("connecting"));
});

test("a refresh that is refused for good: Unauthorized, a bad token, an expired one, another user's", async (t) => {
  for (const [second, code] of [
    [() => Promise.reject(new UnauthorizedError("")), 1],
    [async () => "a.b.c", 3500],
    [async () => hub.sign({ sub: "ann", exp: 1_600_000_000 }), 109],
    [async () => hub.sign({ sub: "bob" }), 3500],
  ]) {
    const answers = [async () => hub.sign({ sub: "ann" }, { ttl: 3 }), second];
    const ann = client(t, hub, { getToken: () => answers.shift()() });
    ann.connect();
    await ann.heard.next("connected");
    assert.equal((await ann.heard.next("disconnected")).code, code);
  }
});

test("a client that does not refresh in time is 3005, then 109, and comes back with a new token", async (t) => {
  const stuck = resolvers();
  const answers = [async () => hub.sign({ sub: "ann" }, { ttl: 2 }), () => stuck.promise, async () => hub.sign({ sub: "ann" })];
  const ann = client(t, hub, { getToken: () => answers.shift()() });
  ann.connect();
  await ann.heard.next("connected");
  const news = await subscribed(ann, "late");
  const { code, reason } = await ann.heard.next("connecting");
  assert.deepEqual([code, reason], [3005, "connection expired"]);
  assert.equal((await ann.heard.next("error")).error.code, 109);
  await ann.heard.next("connected");
  await news.heard.next("subscribed");
  await hears(hub, news, "back");
  stuck.resolve(hub.sign({ sub: "ann" }));
});

test("a client that has no getToken is unauthorized when its token is about to end", async (t) => {
  for (const options of [(token) => ({ token }), (token) => ({ query: `?token=${token}` })]) {
    const ann = client(t, hub, options(hub.sign({ sub: "ann" }, { ttl: 3 })));
    ann.connect();
    assert.equal((await ann.heard.next("error")).type, "configuration");
    assert.equal((await ann.heard.next("disconnected")).code, 1);
  }
});

test("a subscription token opens its channel, and getToken is told which", async (t) => {
  const ann = await connected(t, hub);
  const tokens = counted(() => hub.sign({ sub: "ann", channel: "$secret" }));
  const secret = await subscribed(ann, "$secret", { getToken: tokens.getToken });
  assert.deepEqual(tokens.calls, [{ channel: "$secret" }]);
  await hears(hub, secret, "psst");
});

test("a subscription token is refreshed before it ends, and the subscription stays", async (t) => {
  const ann = await connected(t, hub);
  const tokens = counted(() => hub.sign({ sub: "ann", channel: "$renewed" }, { ttl: 3 }));
  const secret = await subscribed(ann, "$renewed", { getToken: tokens.getToken });
  await tokens.call(5);
  await hears(hub, secret, "after more than one token");
  assert.ok(!secret.heard.had("unsubscribed") && !secret.heard.had("subscribing"));
});

test("a subscription whose token ends unrefreshed is 2501, and subscribes again with a new one", async (t) => {
  const ann = await connected(t, hub);
  const answers = [
    async () => hub.sign({ sub: "ann", channel: "$ended" }, { ttl: 2 }),
    () => new Promise(() => {}),
    async () => hub.sign({ sub: "ann", channel: "$ended", exp: 1_600_000_000 }),
    async () => hub.sign({ sub: "ann", channel: "$ended" }),
  ];
  const options = { getToken: () => answers.shift()(), minResubscribeDelay: 20 };
  const secret = subscription(ann, "$ended", options);
  secret.subscribe();
  await secret.heard.next("subscribed");
  assert.equal((await secret.heard.next("subscribing")).code, 2501);
  // The token that it still has is over, and so is the next one.
  for (const code of [109, 109]) assert.equal((await secret.heard.next("error")).error.code, code);
  await secret.heard.next("subscribed");
  await hears(hub, secret, "back");
});

test("a bad subscription token is 103 and the connection stays; another channel's or user's is 3500", async (t) => {
  const ann = await connected(t, hub);
  for (const [getToken, code] of [
    [async () => "a.b.c", 103],
    [async () => hub.sign({ sub: "ann", channel: "$x" }, { secret: "the secret of somebody else" }), 103],
    [async () => hub.sign({ sub: "ann" }), 103],
    [() => Promise.reject(new UnauthorizedError("")), 1],
  ]) {
    const secret = subscription(ann, "$x", { getToken });
    secret.subscribe();
    assert.equal((await secret.heard.next("unsubscribed")).code, code);
    ann.removeSubscription(secret);
  }
  await hears(hub, await subscribed(ann, "stays"), 1);
  for (const claims of [{ sub: "ann", channel: "$y" }, { sub: "bob", channel: "$x" }]) {
    const thief = await connected(t, hub);
    subscription(thief, "$x", { getToken: async () => hub.sign(claims) }).subscribe();
    assert.equal((await thief.heard.next("disconnected")).code, 3500);
  }
});

test("new claims that bring and take channels reach the client as events", async (t) => {
  const claims = [{ sub: "ann", channels: ["old"] }, { sub: "ann", channels: ["new"] }];
  const ann = client(t, hub, { getToken: async () => hub.sign(claims.shift() ?? { sub: "ann" }, { ttl: claims.length ? 3 : 60 }) });
  ann.connect();
  assert.equal((await ann.heard.next("subscribed")).channel, "old");
  assert.equal((await ann.heard.next("unsubscribed")).channel, "old");
  assert.equal((await ann.heard.next("subscribed")).channel, "new");
  await api(hub, "publish", { channel: "new", data: 1 });
  assert.equal((await ann.heard.next("publication")).channel, "new");
});
