// npm `centrifuge` in JSON and in Protobuf: connecting, exchanging messages between formats, refresh, errors, API controls.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { FORMATS, SOCKETS, api, createClient, connectClient, startHub, testInBothFormats, withDeadline, subscribe, createSubscription, receiveData } from "./support.mjs";

let hub;
before(async () => (hub = await startHub({ "channels.history_size": 10, "server.ping_interval": "1s", "server.pong_timeout": "500ms" })));
after(() => hub.stop());

for (const [name, websocket] of Object.entries(SOCKETS)) {
  testInBothFormats(`a client connects with a token option, URL or getToken and publishes to itself (${name})`, async (t, format, channel) => {
    const token = hub.sign({ sub: "ann" });
    for (const options of [{ token }, { query: `?token=${token}` }, { getToken: async () => token }]) {
      const ann = createClient(t, hub, { format, websocket, ...options });
      ann.connect();
      await ann.events.waitFor("connected");
      const news = await subscribe(ann, channel);
      await news.publish(format.data({ by: "ann" }));
      assert.deepEqual(await receiveData(news, 1), [{ by: "ann" }]);
    }
  });
}

test("clients of both formats receive each other's data unchanged", async (t) => {
  const subscribers = [];
  for (const format of FORMATS) {
    subscribers.push([await subscribe(await connectClient(t, hub, format.name, { format }), "both"), format]);
  }
  const kinds = [null, false, 0, -0.5, "", "zwei\nZeilen\r\n\t\"\\", "\u2028\u0000", "Grüße, 世界, 🦊", [], {}, { a: [1, { "": "\n" }] }];
  for (const [news, format] of subscribers) {
    for (const kind of kinds) await news.publish(format.data(kind));
  }
  for (const [news] of subscribers) assert.deepEqual(await receiveData(news, 2 * kinds.length), [...kinds, ...kinds]);
});

testInBothFormats("data that is not JSON fails with 107", async (t, format, channel) => {
  const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel);
  if (format.name === "Protobuf") {
    for (const data of ["", "{", "1 2", "\ufeff1"]) await assert.rejects(news.publish(Buffer.from(data)), { code: 107 }, data);
    await assert.rejects(news.publish(Buffer.from([0x22, 0xff, 0x22])), { code: 107 });
  }
  await news.publish(format.data("fine"));
  assert.deepEqual(await receiveData(news, 1), ["fine"]);
});

testInBothFormats("refused commands fail with their codes, and the client stays connected", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  for (const [name, code] of [["nowhere:1", 102], ["$secret", 103], ["dialog#bob,eve", 103], ["a*", 107]]) {
    const refused = createSubscription(ann, name);
    refused.subscribe();
    assert.equal((await refused.events.waitFor("unsubscribed")).code, code, name);
  }
  for (const [call, code] of [
    [() => ann.publish("nowhere:1", format.data(1)), 102], [() => ann.history(channel, { limit: 1 }), 103],
    [() => ann.presence(channel), 108], [() => ann.presenceStats(channel), 108], [() => ann.rpc("method", format.data({})), 108],
  ]) {
    await assert.rejects(call(), { code });
  }
  await ann.send(format.data("not available"));
  assert.equal((await ann.events.waitFor("disconnected")).code, 3508);
  const thief = createClient(t, hub, { format, token: "a.b.c" });
  thief.connect();
  assert.equal((await thief.events.waitFor("disconnected")).code, 3500);
});

testInBothFormats("connection and subscription tokens are refreshed while pings are exchanged", async (t, format, channel) => {
  const calls = { client: 0, subscription: 0 };
  const secret = `$${channel}`;
  const ann = createClient(t, hub, { format, getToken: async () => (calls.client++, hub.sign({ sub: "ann" }, { ttl: 3 })) });
  ann.connect();
  await ann.events.waitFor("connected");
  let third;
  const done = new Promise((resolve) => (third = resolve));
  const getToken = async () => {
    if (++calls.subscription === 3) third();
    return hub.sign({ sub: "ann", channel: secret }, { ttl: 3 });
  };
  const news = await subscribe(ann, secret, { getToken });
  await withDeadline(done, "three tokens");
  await api(hub, "publish", { channel: secret, data: "still" });
  assert.deepEqual(await receiveData(news, 1), ["still"]);
  assert.ok(calls.client > 2 && !ann.events.has("connecting") && !news.events.has("subscribing"));
});

testInBothFormats("expired tokens fail with 109, and the next ones are accepted", async (t, format, channel) => {
  const secret = `$${channel}`;
  const tokens = [hub.sign({ sub: "ann", exp: 1_600_000_000 }), hub.sign({ sub: "ann" })];
  const ann = createClient(t, hub, { format, getToken: async () => tokens.shift() });
  ann.connect();
  assert.equal((await ann.events.waitFor("error")).error.code, 109);
  await ann.events.waitFor("connected");
  const opens = { sub: "ann", channel: secret };
  const opening = [hub.sign({ ...opens, exp: 1_600_000_000 }), hub.sign(opens)];
  const news = createSubscription(ann, secret, { getToken: async () => opening.shift(), minResubscribeDelay: 20 });
  news.subscribe();
  assert.equal((await news.events.waitFor("error")).error.code, 109);
  await news.events.waitFor("subscribed");
});

testInBothFormats("the server API subscribes a user with data and recovery, and unsubscribes it", async (t, format, channel) => {
  const ann = await connectClient(t, hub, channel, { format });
  await api(hub, "publish", { channel, data: 1 });
  const { offset, epoch } = await api(hub, "publish", { channel, data: 2 });
  await api(hub, "publish", { channel, data: 3 });
  await api(hub, "subscribe", { user: channel, channel, data: { hello: 1 }, recover_since: { offset, epoch } });
  const given = await ann.events.waitFor("subscribed");
  assert.deepEqual([given.channel, format.value(given.data), given.recoverable], [channel, { hello: 1 }, true]);
  await api(hub, "publish", { channel, data: 4 });
  assert.deepEqual(await receiveData(ann, 2), [3, 4]);
  await api(hub, "unsubscribe", { user: channel, channel });
  assert.equal((await ann.events.waitFor("unsubscribed")).channel, channel);
  await api(hub, "publish", { channel, data: 5 });
  await api(hub, "subscribe", { user: channel, client: ann.connectedEvent.client, channel });
  assert.equal((await ann.events.waitFor("subscribed")).channel, channel);
  await api(hub, "publish", { channel, data: 6 });
  assert.deepEqual(await receiveData(ann, 1), [6]);
});

testInBothFormats("channels of the token are subscribed on connect, and a refresh adds and removes channels", async (t, format, channel) => {
  const [old, young] = [`${channel}-old`, `${channel}-young`];
  const claims = [{ sub: "ann", subs: { [old]: { data: { a: 1 } } } }, { sub: "ann", channels: [young] }];
  const getToken = async () => hub.sign(claims.shift() ?? { sub: "ann" }, { ttl: claims.length ? 3 : 60 });
  const ann = createClient(t, hub, { format, getToken });
  ann.connect();
  const { channel: first, data } = await ann.events.waitFor("subscribed");
  assert.deepEqual([first, format.value(data)], [old, { a: 1 }]);
  assert.equal((await ann.events.waitFor("unsubscribed")).channel, old);
  assert.equal((await ann.events.waitFor("subscribed")).channel, young);
  await ann.publish(young, format.data("news"));
  assert.deepEqual(await receiveData(ann, 1), ["news"]);
});

testInBothFormats("unsubscribe, refresh and disconnect of the server API reach the client", async (t, format, channel) => {
  const ann = await connectClient(t, hub, channel, { format });
  const [news, sport] = [await subscribe(ann, `${channel}-news`), await subscribe(ann, `${channel}-sport`)];
  await api(hub, "unsubscribe", { user: channel, channel: news.channel });
  assert.equal((await news.events.waitFor("unsubscribed")).code, 2000);
  await api(hub, "refresh", { user: channel, expire_at: Math.floor(Date.now() / 1000) + 60 });
  await api(hub, "publish", { channel: sport.channel, data: 1 });
  assert.deepEqual(await receiveData(sport, 1), [1]);
  await api(hub, "disconnect", { user: channel, disconnect: { code: 4000, reason: "moved" } });
  assert.deepEqual(await ann.events.waitFor("connecting"), { code: 4000, reason: "moved" });
  await ann.events.waitFor("connected");
  await api(hub, "disconnect", { user: channel, whitelist: ["another client"] });
  assert.equal((await ann.events.waitFor("disconnected")).code, 3503);
});
