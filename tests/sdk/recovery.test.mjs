// Recovery with npm `centrifuge`: after a cut connection, the client receives every missed publication once and in order, or
// learns that recovery failed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { line } from "./line.mjs";
import { api, client, connected, hub as start, inBothFormats, withDeadline, subscribed, subscription, values } from "./support.mjs";

const WITH_HISTORY = { "channels.history_size": 10, "channels.allow_history": "user" };

let hub;
before(async () => (hub = await start({ ...WITH_HISTORY, "limits.recovered_publications": 8 })));
after(() => hub.stop());

/** Publishes the numbers from `from` to `to`, one after another. */
async function publish(hub, channel, from, to) {
  for (let number = from; number <= to; number++) await api(hub, "publish", { channel, data: number });
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, number) => from + number);

/** Returns a subscription over a line that can be cut; it has received 1 and 2. */
async function subscribeOverLine(t, hub, format, channel, options = { recoverable: true }) {
  const wire = await line(t, hub);
  const news = await subscribed(await connected(t, wire, "ann", { format }), channel, options);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await values(news, 2), [1, 2]);
  return { wire, news };
}

/** Restores the line. Returns what the subscribed event says about recovery. */
async function restore(wire, news) {
  wire.mend();
  const { wasRecovering, recovered, hasRecoveredPublications } = await news.events.next("subscribed");
  return [wasRecovering, recovered, hasRecoveredPublications];
}

inBothFormats("a reconnecting client receives every missed publication once and in order, then live ones", async (t, format, channel) => {
  const { wire, news } = await subscribeOverLine(t, hub, format, channel);
  wire.cut();
  assert.equal((await news.events.next("subscribing")).code, 1);
  await publish(hub, channel, 3, 9);
  assert.deepEqual(await restore(wire, news), [true, true, true]);
  for (const number of numbers(3, 9)) {
    const { data, offset } = await news.events.next("publication");
    assert.deepEqual([format.value(data), offset], [number, number]);
  }
  await publish(hub, channel, 10, 11);
  assert.deepEqual(await values(news, 2), [10, 11]);
  wire.cut();
  await news.events.next("subscribing");
  assert.deepEqual(await restore(wire, news), [true, true, false]);
  await publish(hub, channel, 12, 12);
  assert.deepEqual(await values(news, 1), [12]);
});

inBothFormats("repeated cuts during publishing lose and repeat nothing", async (t, format, channel) => {
  const wide = await start({ "channels.history_size": 1000 });
  t.after(() => wide.stop());
  const { wire, news } = await subscribeOverLine(t, wide, format, channel);
  const received = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  news.on("publication", ({ data }) => received.push(format.value(data)) && format.value(data) === 300 && done());
  const published = publish(wide, channel, 3, 300);
  for (let cuts = 0; cuts < 5; cuts++) {
    const subscribing = new Promise((resolve) => news.once("subscribing", resolve));
    const again = new Promise((resolve) => news.once("subscribed", resolve));
    wire.cut();
    await withDeadline(subscribing, "subscribing");
    wire.mend();
    assert.equal((await withDeadline(again, "subscribed")).recovered, true);
  }
  await published;
  await withDeadline(all, "the last publication");
  assert.deepEqual(received, numbers(3, 300));
});

inBothFormats("recovery fails beyond the history size or the recovery limit, and after history_remove", async (t, format, channel) => {
  const { wire, news } = await subscribeOverLine(t, hub, format, channel);
  const away = async (from, to) => {
    wire.cut();
    await news.events.next("subscribing");
    await publish(hub, channel, from, to);
  };
  for (const [from, to] of [[3, 13], [14, 22]]) {
    await away(from, to);
    assert.deepEqual(await restore(wire, news), [true, false, false], `${from} to ${to}`);
  }
  await away(23, 24);
  await api(hub, "history_remove", { channel });
  assert.deepEqual(await restore(wire, news), [true, false, false]);
  await publish(hub, channel, 25, 25);
  assert.deepEqual(await values(news, 1), [25]);
  await away(26, 26);
  assert.deepEqual(await restore(wire, news), [true, true, true]);
  assert.deepEqual(await values(news, 1), [26]);
});

inBothFormats("a restarted hub has another epoch, and recovery fails", async (t, format, channel) => {
  const key = { "api.key": "the API key of these tests, long enough" };
  const first = await start({ ...WITH_HISTORY, ...key });
  const { news, wire } = await subscribeOverLine(t, first, format, channel);
  wire.cut();
  await first.stop("SIGKILL");
  const second = await start({ ...WITH_HISTORY, ...key, "server.bind": first.address });
  t.after(() => second.stop());
  await publish(second, channel, 1, 2);
  assert.deepEqual(await restore(wire, news), [true, false, false]);
  await publish(second, channel, 3, 3);
  assert.deepEqual(await values(news, 1), [3]);
});

inBothFormats("a client recovers from a position that it stored elsewhere", async (t, format, channel) => {
  const ann = await connected(t, hub, "ann", { format });
  await publish(hub, channel, 1, 4);
  const { epoch } = await ann.history(channel);
  const news = subscription(ann, channel, { since: { offset: 2, epoch } });
  news.subscribe();
  assert.equal((await news.events.next("subscribed")).recovered, true);
  assert.deepEqual(await values(news, 2), [3, 4]);
});

inBothFormats("a client with getState loads its state again after 112", async (t, format, channel) => {
  const loaded = [];
  const getState = async () => {
    const { offset, epoch } = await ann.history(channel);
    loaded.push(offset);
    return { offset, epoch };
  };
  const wire = await line(t, hub);
  await publish(hub, channel, 1, 5);
  const ann = await connected(t, wire, "ann", { format });
  const news = await subscribed(ann, channel, { getState, minResubscribeDelay: 10, maxResubscribeDelay: 20 });
  await publish(hub, channel, 6, 6);
  assert.deepEqual(await values(news, 1), [6]);
  wire.cut();
  await news.events.next("subscribing");
  await publish(hub, channel, 7, 17);
  assert.deepEqual(await restore(wire, news), [true, true, false]);
  await publish(hub, channel, 18, 18);
  assert.deepEqual([await values(news, 1), loaded], [[18], [5, 17]]);
});

inBothFormats("in cache mode a subscriber receives only the newest publication", async (t, format, channel) => {
  const cache = await start({ ...WITH_HISTORY, "channels.force_recovery": true, "channels.force_recovery_mode": "cache" });
  t.after(() => cache.stop());
  const { wire, news } = await subscribeOverLine(t, cache, format, channel, {});
  wire.cut();
  await news.events.next("subscribing");
  await publish(cache, channel, 3, 20);
  assert.deepEqual(await restore(wire, news), [true, true, true]);
  await publish(cache, channel, 21, 21);
  assert.deepEqual(await values(news, 2), [20, 21]);
  const fresh = subscription(await connected(t, cache, "bob", { format }), channel, { since: { offset: 0, epoch: "" } });
  fresh.subscribe();
  assert.equal((await fresh.events.next("subscribed")).recovered, true);
  assert.deepEqual(await values(fresh, 1), [21]);
});

/** Settings with little memory: long publications in some channels evict the history of others. */
const LITTLE_MEMORY = { ...WITH_HISTORY, "limits.history_bytes": 65_536, "limits.publication_bytes": 16_384 };

async function evictHistories(hub) {
  const channels = ["one", "two", "three", "four", "five", "six"];
  // Repeated, because a channel used in the same millisecond counts as equally old.
  for (let time = 0; time < 3; time++) await api(hub, "broadcast", { channels, data: "x".repeat(16_000) });
}

inBothFormats("a live gap ends a positioned subscription with 2500, and the SDK subscribes again", async (t, format, channel) => {
  const hub = await start(LITTLE_MEMORY);
  t.after(() => hub.stop());
  const ann = await connected(t, hub, "ann", { format });
  for (const [name, options] of [["positioned", { positioned: true }], ["recoverable", { recoverable: true }]]) {
    const news = await subscribed(ann, `${channel}-${name}`, options);
    await publish(hub, news.channel, 1, 1);
    assert.deepEqual(await values(news, 1), [1]);
    await evictHistories(hub);
    await publish(hub, news.channel, 2, 2);
    assert.equal((await news.events.next("subscribing")).code, 2500);
    const { wasRecovering, recovered } = await news.events.next("subscribed");
    assert.deepEqual([wasRecovering, recovered], [name === "recoverable", false]);
    await publish(hub, news.channel, 3, 3);
    assert.deepEqual(await values(news, 1), [3]);
  }
  assert.ok(!ann.events.has("connecting"));
});

inBothFormats("the position check finds a lost publication of a silent channel", async (t, format, channel) => {
  const hub = await start({ ...LITTLE_MEMORY, "server.position_check_interval": "200ms" });
  t.after(() => hub.stop());
  const news = await subscribed(await connected(t, hub, "ann", { format }), channel, { positioned: true });
  await publish(hub, channel, 1, 1);
  assert.deepEqual(await values(news, 1), [1]);
  await evictHistories(hub);
  assert.equal((await news.events.next("subscribing")).code, 2500);
  await news.events.next("subscribed");
});

inBothFormats("server-side subscriptions recover on reconnect, and a gap closes the connection with 3010", async (t, format, channel) => {
  const hub = await start({ ...LITTLE_MEMORY, "channels.force_recovery": true });
  t.after(() => hub.stop());
  const wire = await line(t, hub);
  const ann = client(t, wire, { format, token: hub.sign({ sub: "ann", channels: [channel] }) });
  ann.connect();
  const first = await ann.events.next("subscribed");
  assert.deepEqual([first.recoverable, first.positioned, first.wasRecovering], [true, true, false]);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await values(ann, 2), [1, 2]);
  wire.cut();
  await ann.events.next("connecting");
  await publish(hub, channel, 3, 5);
  wire.mend();
  const { recovered, hasRecoveredPublications } = await ann.events.next("subscribed");
  assert.deepEqual([recovered, hasRecoveredPublications], [true, true]);
  assert.deepEqual(await values(ann, 3), [3, 4, 5]);
  await evictHistories(hub);
  await publish(hub, channel, 6, 6);
  assert.equal((await ann.events.next("connecting")).code, 3010);
  const again = await ann.events.next("subscribed");
  assert.deepEqual([again.wasRecovering, again.recovered], [true, false]);
  await publish(hub, channel, 7, 7);
  assert.deepEqual(await values(ann, 1), [7]);
});

test("a client that unsubscribes and subscribes again recovers, too", async (t) => {
  const { news } = await subscribeOverLine(t, hub, undefined, "left");
  news.unsubscribe();
  await publish(hub, "left", 3, 4);
  news.subscribe();
  assert.equal((await news.events.next("subscribed")).recovered, true);
  assert.deepEqual(await values(news, 2), [3, 4]);
});
