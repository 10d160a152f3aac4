// npm `centrifuge` and channels: subscribing, publishing, and errors.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { api, createClient, connectClient, startHub, withDeadline, subscribe, createSubscription, receiveData } from "./support.mjs";

let hub;
before(async () => (hub = await startHub()));
after(() => hub.stop());

test("two clients receive their own, each other's and REST publications", async (t) => {
  const [ann, bob] = [await connectClient(t, hub, "ann"), await connectClient(t, hub, "bob")];
  const [anns, bobs] = [await subscribe(ann, "two"), await subscribe(bob, "two")];
  await anns.publish("of ann");
  await bobs.publish("of bob");
  await bob.publish("two", "of the client");
  await api(hub, "publish", { channel: "two", data: "of REST" });
  const all = ["of ann", "of bob", "of the client", "of REST"];
  assert.deepEqual(await receiveData(anns, 4), all);
  assert.deepEqual(await receiveData(bobs, 4), all);
});

test("a client's publication carries its client id, user and token info; one over REST carries none", async (t) => {
  const ann = await connectClient(t, hub, "ann", { token: hub.sign({ sub: "ann", info: { name: "Ann" } }) });
  const news = await subscribe(ann, "whose");
  await news.publish(1);
  const { info, channel } = await news.events.waitFor("publication");
  assert.deepEqual(info, { client: ann.connectedEvent.client, user: "ann", connInfo: { name: "Ann" } });
  assert.equal(channel, "whose");
  await api(hub, "publish", { channel: "whose", data: 2 });
  assert.equal((await news.events.waitFor("publication")).info, undefined);
});

test("every kind of JSON data arrives unchanged", async (t) => {
  const news = await subscribe(await connectClient(t, hub), "kinds");
  const kinds = [
    null, true, false, 0, -0.5, 1e300, 2 ** 53 - 1, "", "text", "zwei\nZeilen\r\n\t\"\\", "\u2028\u2029\u0000\u001f",
    "Grüße, 世界, 🦊, \ud83d", [], {}, [[[null]]], { "": { "a b": [1, { "ü": "\n" }] } }, "x".repeat(30_000),
  ];
  for (const kind of kinds) await news.publish(kind);
  assert.deepEqual(await receiveData(news, kinds.length), kinds);
});

test("a plain client receives large numbers digit for digit and multi-line JSON on one line", async (t) => {
  const socket = new WebSocket(`ws://${hub.address}/socket?token=${hub.sign({ sub: "plain" })}`);
  t.after(() => socket.close());
  const frames = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => (frames.push(...data.split("\n")), wake());
  const nextLine = async () => {
    while (!frames.length) await withDeadline(new Promise((resolve) => (wake = resolve)), "a frame");
    return frames.shift();
  };
  assert.match(await nextLine(), /"connect"/);
  socket.send('{"id":1,"subscribe":{"channel":"exact"}}');
  assert.equal(await nextLine(), '{"id":1,"subscribe":{}}');
  const news = await subscribe(await connectClient(t, hub), "exact");
  const body = '{"channel":"exact","data":{"n":\r\n[12345678901234567890,1.10]}}';
  await fetch(`http://${hub.address}/api/publish`, { method: "POST", headers: { "X-API-Key": hub.key }, body });
  assert.equal(await nextLine(), '{"push":{"channel":"exact","pub":{"data":{"n":  [12345678901234567890,1.10]}}}}');
  assert.deepEqual(await receiveData(news, 1), [{ n: [12345678901234567890, 1.1] }]);
});

test("an unsubscribed client receives nothing until it subscribes again", async (t) => {
  const ann = await connectClient(t, hub);
  const news = await subscribe(ann, "again");
  news.unsubscribe();
  assert.deepEqual(await news.events.waitFor("unsubscribed"), { channel: "again", code: 0, reason: "unsubscribe called" });
  await api(hub, "publish", { channel: "again", data: "missed" });
  news.subscribe();
  await news.ready(5000);
  await news.publish("heard");
  assert.deepEqual(await receiveData(news, 1), ["heard"]);
  news.unsubscribe();
  news.subscribe();
  news.unsubscribe();
  news.subscribe();
  await news.ready(5000);
  await news.publish("still");
  assert.deepEqual(await receiveData(news, 1), ["still"]);
});

test("channels of the connection token become server-side subscriptions with their data", async (t) => {
  const claims = { sub: "ann", channels: ["server-side"], subs: { "with-data": { data: { hello: 1 } } } };
  const ann = createClient(t, hub, { token: hub.sign(claims) });
  ann.connect();
  const [first, second] = [await ann.events.waitFor("subscribed"), await ann.events.waitFor("subscribed")];
  assert.deepEqual([first.channel, second.channel, second.data], ["server-side", "with-data", { hello: 1 }]);
  await api(hub, "publish", { channel: "server-side", data: "to you" });
  await ann.publish("with-data", "to me");
  const [one, two] = [await ann.events.waitFor("publication"), await ann.events.waitFor("publication")];
  assert.deepEqual([one.channel, one.data, two.channel, two.data], ["server-side", "to you", "with-data", "to me"]);
});

test("channels of a token in the URL become server-side subscriptions, too", async (t) => {
  const ann = createClient(t, hub, { query: `?token=${hub.sign({ sub: "ann", channels: ["server-side"] })}` });
  ann.connect();
  assert.equal((await ann.events.waitFor("subscribed")).channel, "server-side");
  await api(hub, "publish", { channel: "server-side", data: 1 });
  assert.equal((await ann.events.waitFor("publication")).data, 1);
});

test("refused subscriptions end with 102, 103, 105, 106 or 107", async (t) => {
  const narrow = await startHub({ "limits.channels_per_session": 2 });
  t.after(() => narrow.stop());
  const ann = createClient(t, narrow, { token: narrow.sign({ sub: "ann", channels: ["server-side"] }) });
  ann.connect();
  await ann.events.waitFor("connected");
  await subscribe(ann, "second");
  for (const [channel, code] of [
    ["nowhere:1", 102], ["dialog#bob,eve", 103], ["$secret", 103], ["server-side", 105], ["third", 106], ["a*", 107],
    ["x".repeat(256), 107], ["a\nb", 107],
  ]) {
    const refused = createSubscription(ann, channel);
    refused.subscribe();
    const unsubscribed = await refused.events.waitFor("unsubscribed");
    assert.equal(unsubscribed.code, code, `${channel}: ${JSON.stringify(unsubscribed)}`);
    await assert.rejects(refused.ready(), { code: 7 });
  }
  assert.equal(ann.state, "connected");
});

test("refused publications fail with their code, and the next one succeeds", async (t) => {
  const narrow = await startHub({ "channels.allow_publish": "subscriber", "limits.publication_bytes": 100 });
  t.after(() => narrow.stop());
  const ann = await connectClient(t, narrow);
  await subscribe(ann, "news");
  for (const [channel, data, code] of [
    ["nowhere:1", 1, 102], ["sport", 1, 103], ["news", "x".repeat(99), 106], ["a*", 1, 107],
  ]) {
    await assert.rejects(ann.publish(channel, data), { code }, channel);
  }
  assert.deepEqual(await ann.publish("news", 1), {});
});

test("a message over the limit disconnects the client for good", async (t) => {
  const ann = await connectClient(t, hub);
  await assert.rejects(ann.publish("news", "x".repeat(100_000)));
  assert.equal((await ann.events.waitFor("disconnected")).code, 3);
});

test("presence, history and rpc fail with 108, and the client stays connected", async (t) => {
  const ann = await connectClient(t, hub);
  const news = await subscribe(ann, "empty");
  const [presence, history] = ["channels.presence is off", "channels.history_size is off"];
  for (const [call, why] of [
    [() => ann.presence("empty"), presence], [() => ann.presenceStats("empty"), presence],
    [() => ann.history("empty", { limit: 1 }), history], [() => ann.rpc("method", {}), "rpc needs a hook (hooks.rpc.endpoint)"],
    [() => news.presence(), presence], [() => news.presenceStats(), presence],
    [() => news.history({ limit: 10, since: { offset: 1, epoch: "e" }, reverse: true }), history],
  ]) {
    await assert.rejects(call(), { code: 108, message: `not available: ${why}` });
  }
  await news.publish(1);
  assert.deepEqual(await receiveData(news, 1), [1]);
});

test("the send command closes the connection with 3508", async (t) => {
  const ann = await connectClient(t, hub);
  await ann.send({ a: 1 });
  assert.equal((await ann.events.waitFor("disconnected")).code, 3508);
});

test("a subscription with options that the channel does not support is an ordinary one", async (t) => {
  const options = { positioned: true, recoverable: true, joinLeave: true, delta: "fossil", data: { a: 1 } };
  const news = createSubscription(await connectClient(t, hub), "with-options", options);
  news.subscribe();
  const context = await news.events.waitFor("subscribed");
  assert.deepEqual([context.positioned, context.recoverable, context.wasRecovering], [false, false, false]);
  await news.publish({ b: 2 });
  assert.deepEqual(await receiveData(news, 1), [{ b: 2 }]);
});

test("every command of a batch in one frame gets its reply", async (t) => {
  const ann = await connectClient(t, hub);
  const news = await subscribe(ann, "batch");
  ann.startBatching();
  const numbers = Array.from({ length: 50 }, (_, number) => number);
  const answers = numbers.map((number) => news.publish(number));
  const refused = assert.rejects(ann.publish("a*", 1), { code: 107 });
  ann.stopBatching();
  assert.equal((await Promise.all(answers)).length, 50);
  await refused;
  assert.deepEqual(await receiveData(news, 50), numbers);
});

test("128 subscriptions in the frame of the connect command all succeed", async (t) => {
  const ann = createClient(t, hub, { token: hub.sign({ sub: "ann" }) });
  const all = Array.from({ length: 128 }, (_, number) => createSubscription(ann, `many${number}`));
  for (const one of all) one.subscribe();
  ann.connect();
  for (const one of all) await one.events.waitFor("subscribed");
  await api(hub, "broadcast", { channels: all.map((one) => one.channel), data: "all" });
  for (const one of all) assert.equal((await one.events.waitFor("publication")).data, "all");
});
