// Recovery with npm `centrifuge`: after a cut connection, the client receives every missed publication once and in order, or
// learns that recovery failed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startProxy } from "./proxy.mjs";
import { HAS_NODES, api, createClient, connectClient, startHub, testInBothFormats, withDeadline, subscribe, createSubscription, receiveData } from "./support.mjs";

const WITH_HISTORY = { "channels.history_size": 10, "channels.allow_history": "user" };

let hub;
before(async () => (hub = await startHub({ ...WITH_HISTORY, "limits.recovered_publications": 8 })));
after(() => hub.stop());

/** Publishes the numbers from `from` to `to`, one after another. */
async function publish(hub, channel, from, to) {
  for (let number = from; number <= to; number++) await api(hub, "publish", { channel, data: number });
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, number) => from + number);

/** Returns a subscription over a proxy that can be cut; it has received 1 and 2. */
async function subscribeThroughProxy(t, hub, format, channel, options = { recoverable: true }) {
  const proxy = await startProxy(t, hub);
  const news = await subscribe(await connectClient(t, proxy, "ann", { format }), channel, options);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await receiveData(news, 2), [1, 2]);
  return { proxy, news };
}

/** Restores the proxy. Returns what the subscribed event says about recovery. */
async function restore(proxy, news) {
  proxy.restore();
  const { wasRecovering, recovered, hasRecoveredPublications } = await news.events.waitFor("subscribed");
  return [wasRecovering, recovered, hasRecoveredPublications];
}

testInBothFormats("a reconnecting client receives every missed publication once and in order, then live ones", async (t, format, channel) => {
  const { proxy, news } = await subscribeThroughProxy(t, hub, format, channel);
  proxy.cut();
  assert.equal((await news.events.waitFor("subscribing")).code, 1);
  await publish(hub, channel, 3, 9);
  assert.deepEqual(await restore(proxy, news), [true, true, true]);
  for (const number of numbers(3, 9)) {
    const { data, offset } = await news.events.waitFor("publication");
    assert.deepEqual([format.value(data), offset], [number, number]);
  }
  await publish(hub, channel, 10, 11);
  assert.deepEqual(await receiveData(news, 2), [10, 11]);
  proxy.cut();
  await news.events.waitFor("subscribing");
  assert.deepEqual(await restore(proxy, news), [true, true, false]);
  await publish(hub, channel, 12, 12);
  assert.deepEqual(await receiveData(news, 1), [12]);
});

testInBothFormats("repeated cuts during publishing lose and repeat nothing", async (t, format, channel) => {
  const wide = await startHub({ "channels.history_size": 1000 });
  t.after(() => wide.stop());
  const { proxy, news } = await subscribeThroughProxy(t, wide, format, channel);
  const received = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  news.on("publication", ({ data }) => received.push(format.value(data)) && format.value(data) === 300 && done());
  const published = publish(wide, channel, 3, 300);
  for (let cuts = 0; cuts < 5; cuts++) {
    const subscribing = new Promise((resolve) => news.once("subscribing", resolve));
    const again = new Promise((resolve) => news.once("subscribed", resolve));
    proxy.cut();
    await withDeadline(subscribing, "subscribing");
    proxy.restore();
    assert.equal((await withDeadline(again, "subscribed")).recovered, true);
  }
  await published;
  await withDeadline(all, "the last publication");
  assert.deepEqual(received, numbers(3, 300));
});

testInBothFormats("several large recoveries at once succeed on the first connection of a client behind a slow link", async (t, format, channel) => {
  const limits = { "limits.outbox_bytes": 1_048_576, "api.publication_bytes": 65_536 };
  const wide = await startHub({ "channels.history_size": 100, ...limits });
  t.after(() => wide.stop());
  const proxy = await startProxy(t, wide, { bytesPerSecond: 1_000_000 });
  const client = await connectClient(t, proxy, "ann", { format });
  const subscriptions = [];
  for (const name of ["a", "b", "c", "d"]) subscriptions.push(await subscribe(client, `${channel}-${name}`, { recoverable: true }));
  proxy.cut();
  await client.events.waitFor("connecting");
  for (const { channel } of subscriptions) {
    // Half an outbox in each channel.
    for (let number = 1; number <= 8; number++) await api(wide, "publish", { channel, data: [number, "x".repeat(60_000)] });
  }
  proxy.restore();
  await client.events.waitFor("connected");
  for (const subscription of subscriptions) {
    const { recovered, wasRecovering } = await subscription.events.waitFor("subscribed");
    assert.deepEqual([wasRecovering, recovered], [true, true]);
    assert.deepEqual((await receiveData(subscription, 8)).map(([number]) => number), numbers(1, 8));
    await publish(wide, subscription.channel, 9, 9);
    assert.deepEqual(await receiveData(subscription, 1), [9]);
    assert.ok(!subscription.events.has("subscribed"), "subscribed once");
  }
  assert.ok(!client.events.has("connecting"), "not closed");
});

testInBothFormats("recovery fails beyond the history size or the recovery limit, and after history_remove", async (t, format, channel) => {
  const { proxy, news } = await subscribeThroughProxy(t, hub, format, channel);
  const away = async (from, to) => {
    proxy.cut();
    await news.events.waitFor("subscribing");
    await publish(hub, channel, from, to);
  };
  for (const [from, to] of [[3, 13], [14, 22]]) {
    await away(from, to);
    assert.deepEqual(await restore(proxy, news), [true, false, false], `${from} to ${to}`);
  }
  await away(23, 24);
  await api(hub, "history_remove", { channel });
  assert.deepEqual(await restore(proxy, news), [true, false, false]);
  await publish(hub, channel, 25, 25);
  assert.deepEqual(await receiveData(news, 1), [25]);
  await away(26, 26);
  assert.deepEqual(await restore(proxy, news), [true, true, true]);
  assert.deepEqual(await receiveData(news, 1), [26]);
});

testInBothFormats("histories that were lost have another epoch, and recovery fails", async (t, format, channel) => {
  const settings = { ...WITH_HISTORY, "api.key": "the API key of these tests, long enough" };
  let hub = await startHub(settings);
  t.after(() => hub.stop());
  const { news, proxy } = await subscribeThroughProxy(t, hub, format, channel);
  proxy.cut();
  await news.events.waitFor("subscribing");
  if (HAS_NODES) {
    hub.loseState();
  } else {
    await hub.stop("SIGKILL");
    hub = await startHub({ ...settings, "server.bind": hub.address });
  }
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await restore(proxy, news), [true, false, false]);
  await publish(hub, channel, 3, 3);
  assert.deepEqual(await receiveData(news, 1), [3]);
});

testInBothFormats("a client recovers from a position that it stored elsewhere", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  await publish(hub, channel, 1, 4);
  const { epoch } = await ann.history(channel);
  const news = createSubscription(ann, channel, { since: { offset: 2, epoch } });
  news.subscribe();
  assert.equal((await news.events.waitFor("subscribed")).recovered, true);
  assert.deepEqual(await receiveData(news, 2), [3, 4]);
});

testInBothFormats("a client with getState loads its state again after 112", async (t, format, channel) => {
  const loaded = [];
  const getState = async () => {
    const { offset, epoch } = await ann.history(channel);
    loaded.push(offset);
    return { offset, epoch };
  };
  const proxy = await startProxy(t, hub);
  await publish(hub, channel, 1, 5);
  const ann = await connectClient(t, proxy, "ann", { format });
  const news = await subscribe(ann, channel, { getState, minResubscribeDelay: 10, maxResubscribeDelay: 20 });
  await publish(hub, channel, 6, 6);
  assert.deepEqual(await receiveData(news, 1), [6]);
  proxy.cut();
  await news.events.waitFor("subscribing");
  await publish(hub, channel, 7, 17);
  assert.deepEqual(await restore(proxy, news), [true, true, false]);
  await publish(hub, channel, 18, 18);
  assert.deepEqual([await receiveData(news, 1), loaded], [[18], [5, 17]]);
});

testInBothFormats("in cache mode a subscriber receives only the newest publication", async (t, format, channel) => {
  const cache = await startHub({ ...WITH_HISTORY, "channels.force_recovery": true, "channels.force_recovery_mode": "cache" });
  t.after(() => cache.stop());
  const { proxy, news } = await subscribeThroughProxy(t, cache, format, channel, {});
  proxy.cut();
  await news.events.waitFor("subscribing");
  await publish(cache, channel, 3, 20);
  assert.deepEqual(await restore(proxy, news), [true, true, true]);
  await publish(cache, channel, 21, 21);
  assert.deepEqual(await receiveData(news, 2), [20, 21]);
  const fresh = createSubscription(await connectClient(t, cache, "bob", { format }), channel, { since: { offset: 0, epoch: "" } });
  fresh.subscribe();
  assert.equal((await fresh.events.waitFor("subscribed")).recovered, true);
  assert.deepEqual(await receiveData(fresh, 1), [21]);
});

/** Settings with little memory: long publications in some channels evict the history of others. */
const LITTLE_MEMORY = { ...WITH_HISTORY, "limits.history_bytes": 65_536, "limits.publication_bytes": 16_384, "api.publication_bytes": 16_384 };

async function evictHistories(hub) {
  if (HAS_NODES) return hub.loseState();
  const channels = ["one", "two", "three", "four", "five", "six"];
  // Repeated, because a channel used in the same millisecond counts as equally old.
  for (let time = 0; time < 3; time++) await api(hub, "broadcast", { channels, data: "x".repeat(16_000) });
}

testInBothFormats("a live gap ends a positioned subscription with 2500, and the SDK subscribes again", async (t, format, channel) => {
  const hub = await startHub(LITTLE_MEMORY);
  t.after(() => hub.stop());
  const ann = await connectClient(t, hub, "ann", { format });
  for (const [name, options] of [["positioned", { positioned: true }], ["recoverable", { recoverable: true }]]) {
    const news = await subscribe(ann, `${channel}-${name}`, options);
    await publish(hub, news.channel, 1, 1);
    assert.deepEqual(await receiveData(news, 1), [1]);
    await evictHistories(hub);
    await publish(hub, news.channel, 2, 2);
    assert.equal((await news.events.waitFor("subscribing")).code, 2500);
    const { wasRecovering, recovered } = await news.events.waitFor("subscribed");
    assert.deepEqual([wasRecovering, recovered], [name === "recoverable", false]);
    await publish(hub, news.channel, 3, 3);
    assert.deepEqual(await receiveData(news, 1), [3]);
  }
  assert.ok(!ann.events.has("connecting"));
});

testInBothFormats("the position check finds a lost publication of a silent channel", async (t, format, channel) => {
  const hub = await startHub({ ...LITTLE_MEMORY, "server.position_check_interval": "200ms" });
  t.after(() => hub.stop());
  const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel, { positioned: true });
  await publish(hub, channel, 1, 1);
  assert.deepEqual(await receiveData(news, 1), [1]);
  await evictHistories(hub);
  assert.equal((await news.events.waitFor("subscribing")).code, 2500);
  await news.events.waitFor("subscribed");
});

testInBothFormats("server-side subscriptions recover on reconnect, and a gap closes the connection with 3010", async (t, format, channel) => {
  const hub = await startHub({ ...LITTLE_MEMORY, "channels.force_recovery": true });
  t.after(() => hub.stop());
  const proxy = await startProxy(t, hub);
  const ann = createClient(t, proxy, { format, token: hub.sign({ sub: "ann", channels: [channel] }) });
  ann.connect();
  const first = await ann.events.waitFor("subscribed");
  assert.deepEqual([first.recoverable, first.positioned, first.wasRecovering], [true, true, false]);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await receiveData(ann, 2), [1, 2]);
  proxy.cut();
  await ann.events.waitFor("connecting");
  await publish(hub, channel, 3, 5);
  proxy.restore();
  const { recovered, hasRecoveredPublications } = await ann.events.waitFor("subscribed");
  assert.deepEqual([recovered, hasRecoveredPublications], [true, true]);
  assert.deepEqual(await receiveData(ann, 3), [3, 4, 5]);
  await evictHistories(hub);
  await publish(hub, channel, 6, 6);
  assert.equal((await ann.events.waitFor("connecting")).code, 3010);
  const again = await ann.events.waitFor("subscribed");
  assert.deepEqual([again.wasRecovering, again.recovered], [true, false]);
  await publish(hub, channel, 7, 7);
  assert.deepEqual(await receiveData(ann, 1), [7]);
});

test("a client that unsubscribes and subscribes again recovers, too", async (t) => {
  const { news } = await subscribeThroughProxy(t, hub, undefined, "left");
  news.unsubscribe();
  await publish(hub, "left", 3, 4);
  news.subscribe();
  assert.equal((await news.events.waitFor("subscribed")).recovered, true);
  assert.deepEqual(await receiveData(news, 2), [3, 4]);
});
