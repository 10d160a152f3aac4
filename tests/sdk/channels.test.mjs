// What npm `centrifuge` does with channels: listens, publishes, and is told no.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { api, client, connected, hub as start, soon, subscribed, subscription } from "./support.mjs";

let hub;
before(async () => (hub = await start()));
after(() => hub.stop());

/** The data of so many publications. */
async function data(subscription, count) {
  const all = [];
  while (all.length < count) all.push((await subscription.heard.next("publication")).data);
  return all;
}

test("two clients hear their own and each other's publications, and those of REST", async (t) => {
  const [ann, bob] = [await connected(t, hub, "ann"), await connected(t, hub, "bob")];
  const [anns, bobs] = [await subscribed(ann, "two"), await subscribed(bob, "two")];
  await anns.publish("of ann");
  await bobs.publish("of bob");
  await bob.publish("two", "of the client");
  await api(hub, "publish", { channel: "two", data: "of REST" });
  const all = ["of ann", "of bob", "of the client", "of REST"];
  assert.deepEqual(await data(anns, 4), all);
  assert.deepEqual(await data(bobs, 4), all);
});

test("a publication says whose it is, and what the token shows of her; REST's says nothing", async (t) => {
  const ann = await connected(t, hub, "ann", { token: hub.sign({ sub: "ann", info: { name: "Ann" } }) });
  const news = await subscribed(ann, "whose");
  await news.publish(1);
  const { info, channel } = await news.heard.next("publication");
  assert.deepEqual(info, { client: ann.greeting.client, user: "ann", connInfo: { name: "Ann" } });
  assert.equal(channel, "whose");
  await api(hub, "publish", { channel: "whose", data: 2 });
  assert.equal((await news.heard.next("publication")).info, undefined);
});

test("data of every kind arrives as it was sent", async (t) => {
  const news = await subscribed(await connected(t, hub), "kinds");
  const kinds = [
    null, true, false, 0, -0.5, 1e300, 2 ** 53 - 1, "", "text", "zwei\nZeilen\r\n\t\"\\", "\u2028\u2029\u0000\u001f",
    "Grüße, 世界, 🦊, \ud83d", [], {}, [[[null]]], { "": { "a b": [1, { "ü": "\n" }] } }, "x".repeat(30_000),
  ];
  for (const kind of kinds) await news.publish(kind);
  assert.deepEqual(await data(news, kinds.length), kinds);
});

test("numbers beyond 2^53 and JSON over several lines reach a plain client as they were written", async (t) => {
  const socket = new WebSocket(`ws://${hub.address}/socket?token=${hub.sign({ sub: "plain" })}`);
  t.after(() => socket.close());
  const frames = [];
  let woken = () => {};
  socket.onmessage = ({ data }) => (frames.push(...data.split("\n")), woken());
  const hear = async () => {
    while (!frames.length) await soon(new Promise((resolve) => (woken = resolve)), "a frame");
    return frames.shift();
  };
  assert.match(await hear(), /"connect"/);
  socket.send('{"id":1,"subscribe":{"channel":"exact"}}');
  assert.equal(await hear(), '{"id":1,"subscribe":{}}');
  const news = await subscribed(await connected(t, hub), "exact");
  const body = '{"channel":"exact","data":{"n":\r\n[12345678901234567890,1.10]}}';
  await fetch(`http://${hub.address}/api/publish`, { method: "POST", headers: { "X-API-Key": hub.key }, body });
  assert.equal(await hear(), '{"push":{"channel":"exact","pub":{"data":{"n":  [12345678901234567890,1.10]}}}}');
  assert.deepEqual(await data(news, 1), [{ n: [12345678901234567890, 1.1] }]);
});

test("who has unsubscribed hears nothing, and who subscribes again hears what comes then", async (t) => {
  const ann = await connected(t, hub);
  const news = await subscribed(ann, "again");
  news.unsubscribe();
  assert.deepEqual(await news.heard.next("unsubscribed"), { channel: "again", code: 0, reason: "unsubscribe called" });
  await api(hub, "publish", { channel: "again", data: "missed" });
  news.subscribe();
  await news.ready(5000);
  await news.publish("heard");
  assert.deepEqual(await data(news, 1), ["heard"]);
  news.unsubscribe();
  news.subscribe();
  news.unsubscribe();
  news.subscribe();
  await news.ready(5000);
  await news.publish("still");
  assert.deepEqual(await data(news, 1), ["still"]);
});

test("a token's channels are the client's own: subscribed with their data, and heard", async (t) => {
  const claims = { sub: "ann", channels: ["brought"], subs: { told: { data: { hello: 1 } } } };
  const ann = client(t, hub, { token: hub.sign(claims) });
  ann.connect();
  const [first, second] = [await ann.heard.next("subscribed"), await ann.heard.next("subscribed")];
  assert.deepEqual([first.channel, second.channel, second.data], ["brought", "told", { hello: 1 }]);
  await api(hub, "publish", { channel: "brought", data: "to you" });
  await ann.publish("told", "to me");
  const [one, two] = [await ann.heard.next("publication"), await ann.heard.next("publication")];
  assert.deepEqual([one.channel, one.data, two.channel, two.data], ["brought", "to you", "told", "to me"]);
});

test("a token's channels come through the door of the URL, too", async (t) => {
  const ann = client(t, hub, { query: `?token=${hub.sign({ sub: "ann", channels: ["brought"] })}` });
  ann.connect();
  assert.equal((await ann.heard.next("subscribed")).channel, "brought");
  await api(hub, "publish", { channel: "brought", data: 1 });
  assert.equal((await ann.heard.next("publication")).data, 1);
});

test("what is refused ends a subscription with its code: 102, 103, 105, 106, 107", async (t) => {
  const narrow = await start({ "limits.channels_per_session": 2 });
  t.after(() => narrow.stop());
  const ann = client(t, narrow, { token: narrow.sign({ sub: "ann", channels: ["brought"] }) });
  ann.connect();
  await ann.heard.next("connected");
  await subscribed(ann, "second");
  for (const [channel, code] of [
    ["nowhere:1", 102], ["dialog#bob,eve", 103], ["$secret", 103], ["brought", 105], ["third", 106], ["a*", 107],
    ["x".repeat(256), 107], ["a\nb", 107],
  ]) {
    const refused = subscription(ann, channel);
    refused.subscribe();
    const unsubscribed = await refused.heard.next("unsubscribed");
    assert.equal(unsubscribed.code, code, `${channel}: ${JSON.stringify(unsubscribed)}`);
    await assert.rejects(refused.ready(), { code: 7 });
  }
  assert.equal(ann.state, "connected");
});

test("what is refused rejects a publication with its code, and the next one is fine", async (t) => {
  const narrow = await start({ "channels.allow_publish": "subscriber", "limits.publication_bytes": 100 });
  t.after(() => narrow.stop());
  const ann = await connected(t, narrow);
  await subscribed(ann, "news");
  for (const [channel, data, code] of [
    ["nowhere:1", 1, 102], ["sport", 1, 103], ["news", "x".repeat(99), 106], ["a*", 1, 107],
  ]) {
    await assert.rejects(ann.publish(channel, data), { code }, channel);
  }
  assert.deepEqual(await ann.publish("news", 1), {});
});

test("a message over the limit ends the client, as its SDK wants it", async (t) => {
  const ann = await connected(t, hub);
  await assert.rejects(ann.publish("news", "x".repeat(100_000)));
  assert.equal((await ann.heard.next("disconnected")).code, 3);
});

test("presence, history and rpc are 108, and the client goes on", async (t) => {
  const ann = await connected(t, hub);
  const news = await subscribed(ann, "empty");
  for (const call of [
    () => ann.presence("empty"), () => ann.presenceStats("empty"), () => ann.history("empty", { limit: 1 }),
    () => ann.rpc("method", {}), () => news.presence(), () => news.presenceStats(),
    () => news.history({ limit: 10, since: { offset: 1, epoch: "e" }, reverse: true }),
  ]) {
    await assert.rejects(call(), { code: 108, message: "not available" });
  }
  await news.publish(1);
  assert.deepEqual(await data(news, 1), [1]);
});

test("send is 3508, since nobody takes it", async (t) => {
  const ann = await connected(t, hub);
  await ann.send({ to: "nobody" });
  assert.equal((await ann.heard.next("disconnected")).code, 3508);
});

test("a subscription that asks for what the hub does not have is an ordinary one", async (t) => {
  const options = { positioned: true, recoverable: true, joinLeave: true, delta: "fossil", data: { a: 1 } };
  const news = subscription(await connected(t, hub), "fancy", options);
  news.subscribe();
  const context = await news.heard.next("subscribed");
  assert.deepEqual([context.positioned, context.recoverable, context.wasRecovering], [false, false, false]);
  await news.publish({ b: 2 });
  assert.deepEqual(await data(news, 1), [{ b: 2 }]);
});

test("a batch of commands in one frame is answered one by one", async (t) => {
  const ann = await connected(t, hub);
  const news = await subscribed(ann, "batch");
  ann.startBatching();
  const numbers = Array.from({ length: 50 }, (_, number) => number);
  const answers = numbers.map((number) => news.publish(number));
  const refused = assert.rejects(ann.publish("a*", 1), { code: 107 });
  ann.stopBatching();
  assert.equal((await Promise.all(answers)).length, 50);
  await refused;
  assert.deepEqual(await data(news, 50), numbers);
});

test("128 subscriptions in the frame of the connect command are all there", async (t) => {
  const ann = client(t, hub, { token: hub.sign({ sub: "ann" }) });
  const all = Array.from({ length: 128 }, (_, number) => subscription(ann, `many${number}`));
  for (const one of all) one.subscribe();
  ann.connect();
  for (const one of all) await one.heard.next("subscribed");
  await api(hub, "broadcast", { channels: all.map((one) => one.channel), data: "all" });
  for (const one of all) assert.equal((await one.heard.next("publication")).data, "all");
});
