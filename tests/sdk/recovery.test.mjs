// Connections that are cut under npm `centrifuge`: what was missed comes, all of it, in order and once; or the client is told.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { line } from "./line.mjs";
import { api, client, connected, hub as start, inBothFormats, soon, subscribed, subscription, values } from "./support.mjs";

const REMEMBERING = { "channels.history_size": 10, "channels.allow_history": "user" };

let hub;
before(async () => (hub = await start({ ...REMEMBERING, "limits.recovered_publications": 8 })));
after(() => hub.stop());

/** Publications of these numbers, one after the other. */
async function publish(hub, channel, from, to) {
  for (let number = from; number <= to; number++) await api(hub, "publish", { channel, data: number });
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, number) => from + number);

/** A subscription that has heard 1 and 2 over a line. */
async function listening(t, hub, format, channel, options = { recoverable: true }) {
  const wire = await line(t, hub);
  const news = await subscribed(await connected(t, wire, "ann", { format }), channel, options);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await values(news, 2), [1, 2]);
  return { wire, news };
}

/** What a subscription is told when it is there again. */
async function mended(wire, news) {
  wire.mend();
  const { wasRecovering, recovered, hasRecoveredPublications } = await news.heard.next("subscribed");
  return [wasRecovering, recovered, hasRecoveredPublications];
}

inBothFormats("who was cut off hears what was missed, in order and once, and then what comes", async (t, format, channel) => {
  const { wire, news } = await listening(t, hub, format, channel);
  wire.cut();
  assert.equal((await news.heard.next("subscribing")).code, 1);
  await publish(hub, channel, 3, 9);
  assert.deepEqual(await mended(wire, news), [true, true, true]);
  for (const number of numbers(3, 9)) {
    const { data, offset } = await news.heard.next("publication");
    assert.deepEqual([format.value(data), offset], [number, number]);
  }
  await publish(hub, channel, 10, 11);
  assert.deepEqual(await values(news, 2), [10, 11]);
  wire.cut();
  await news.heard.next("subscribing");
  assert.deepEqual(await mended(wire, news), [true, true, false]);
  await publish(hub, channel, 12, 12);
  assert.deepEqual(await values(news, 1), [12]);
});

inBothFormats("nothing is lost or said twice by a line that is cut again and again while others publish", async (t, format, channel) => {
  const wide = await start({ "channels.history_size": 1000 });
  t.after(() => wide.stop());
  const { wire, news } = await listening(t, wide, format, channel);
  const heard = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  news.on("publication", ({ data }) => heard.push(format.value(data)) && format.value(data) === 300 && done());
  const published = publish(wide, channel, 3, 300);
  for (let cuts = 0; cuts < 5; cuts++) {
    const subscribing = new Promise((resolve) => news.once("subscribing", resolve));
    const again = new Promise((resolve) => news.once("subscribed", resolve));
    wire.cut();
    await soon(subscribing, "subscribing");
    wire.mend();
    assert.equal((await soon(again, "subscribed")).recovered, true);
  }
  await published;
  await soon(all, "the last publication");
  assert.deepEqual(heard, numbers(3, 300));
});

inBothFormats("what cannot be recovered is not: more than is kept or given at once, a history removed", async (t, format, channel) => {
  const { wire, news } = await listening(t, hub, format, channel);
  const away = async (from, to) => {
    wire.cut();
    await news.heard.next("subscribing");
    await publish(hub, channel, from, to);
  };
  for (const [from, to] of [[3, 13], [14, 22]]) {
    await away(from, to);
    assert.deepEqual(await mended(wire, news), [true, false, false], `${from} to ${to}`);
  }
  await away(23, 24);
  await api(hub, "history_remove", { channel });
  assert.deepEqual(await mended(wire, news), [true, false, false]);
  await publish(hub, channel, 25, 25);
  assert.deepEqual(await values(news, 1), [25]);
  await away(26, 26);
  assert.deepEqual(await mended(wire, news), [true, true, true]);
  assert.deepEqual(await values(news, 1), [26]);
});

inBothFormats("a hub that was started anew has another epoch, and says that nothing is recovered", async (t, format, channel) => {
  const key = { "api.key": "the API key of these tests, long enough" };
  const first = await start({ ...REMEMBERING, ...key });
  const { news, wire } = await listening(t, first, format, channel);
  wire.cut();
  await first.stop("SIGKILL");
  const second = await start({ ...REMEMBERING, ...key, "server.bind": first.address });
  t.after(() => second.stop());
  await publish(second, channel, 1, 2);
  assert.deepEqual(await mended(wire, news), [true, false, false]);
  await publish(second, channel, 3, 3);
  assert.deepEqual(await values(news, 1), [3]);
});

inBothFormats("a position that was kept elsewhere is one to come back from", async (t, format, channel) => {
  const ann = await connected(t, hub, "ann", { format });
  await publish(hub, channel, 1, 4);
  const { epoch } = await ann.history(channel);
  const news = subscription(ann, channel, { since: { offset: 2, epoch } });
  news.subscribe();
  assert.equal((await news.heard.next("subscribed")).recovered, true);
  assert.deepEqual(await values(news, 2), [3, 4]);
});

inBothFormats("a client that loads its state itself is told 112 when it has to do so again", async (t, format, channel) => {
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
  await news.heard.next("subscribing");
  await publish(hub, channel, 7, 17);
  assert.deepEqual(await mended(wire, news), [true, true, false]);
  await publish(hub, channel, 18, 18);
  assert.deepEqual([await values(news, 1), loaded], [[18], [5, 17]]);
});

inBothFormats("where a channel is a cache, who comes gets the newest publication and nothing older", async (t, format, channel) => {
  const cache = await start({ ...REMEMBERING, "channels.force_recovery": true, "channels.force_recovery_mode": "cache" });
  t.after(() => cache.stop());
  const { wire, news } = await listening(t, cache, format, channel, {});
  wire.cut();
  await news.heard.next("subscribing");
  await publish(cache, channel, 3, 20);
  assert.deepEqual(await mended(wire, news), [true, true, true]);
  await publish(cache, channel, 21, 21);
  assert.deepEqual(await values(news, 2), [20, 21]);
  const fresh = subscription(await connected(t, cache, "bob", { format }), channel, { since: { offset: 0, epoch: "" } });
  fresh.subscribe();
  assert.equal((await fresh.heard.next("subscribed")).recovered, true);
  assert.deepEqual(await values(fresh, 1), [21]);
});

/** A hub that keeps little: long publications in some channels cost another its history. */
const forgetful = { ...REMEMBERING, "limits.history_bytes": 65_536, "limits.publication_bytes": 16_384 };

async function forget(hub) {
  const channels = ["one", "two", "three", "four", "five", "six"];
  // More than once: who was used in the same millisecond is as old.
  for (let time = 0; time < 3; time++) await api(hub, "broadcast", { channels, data: "x".repeat(16_000) });
}

inBothFormats("a live gap ends a positioned subscription with 2500, and it subscribes again by itself", async (t, format, channel) => {
  const hub = await start(forgetful);
  t.after(() => hub.stop());
  const ann = await connected(t, hub, "ann", { format });
  for (const [name, options] of [["positioned", { positioned: true }], ["recoverable", { recoverable: true }]]) {
    const news = await subscribed(ann, `${channel}-${name}`, options);
    await publish(hub, news.channel, 1, 1);
    assert.deepEqual(await values(news, 1), [1]);
    await forget(hub);
    await publish(hub, news.channel, 2, 2);
    assert.equal((await news.heard.next("subscribing")).code, 2500);
    const { wasRecovering, recovered } = await news.heard.next("subscribed");
    assert.deepEqual([wasRecovering, recovered], [name === "recoverable", false]);
    await publish(hub, news.channel, 3, 3);
    assert.deepEqual(await values(news, 1), [3]);
  }
  assert.ok(!ann.heard.had("connecting"));
});

inBothFormats("a silent channel is held against its history, and a loss is found without a publication", async (t, format, channel) => {
  const hub = await start({ ...forgetful, "server.position_check_interval": "200ms" });
  t.after(() => hub.stop());
  const news = await subscribed(await connected(t, hub, "ann", { format }), channel, { positioned: true });
  await publish(hub, channel, 1, 1);
  assert.deepEqual(await values(news, 1), [1]);
  await forget(hub);
  assert.equal((await news.heard.next("subscribing")).code, 2500);
  await news.heard.next("subscribed");
});

inBothFormats("a token's channels are recovered with the connection, and a gap in one ends it with 3010", async (t, format, channel) => {
  const hub = await start({ ...forgetful, "channels.force_recovery": true });
  t.after(() => hub.stop());
  const wire = await line(t, hub);
  const ann = client(t, wire, { format, token: hub.sign({ sub: "ann", channels: [channel] }) });
  ann.connect();
  const first = await ann.heard.next("subscribed");
  assert.deepEqual([first.recoverable, first.positioned, first.wasRecovering], [true, true, false]);
  await publish(hub, channel, 1, 2);
  assert.deepEqual(await values(ann, 2), [1, 2]);
  wire.cut();
  await ann.heard.next("connecting");
  await publish(hub, channel, 3, 5);
  wire.mend();
  const { recovered, hasRecoveredPublications } = await ann.heard.next("subscribed");
  assert.deepEqual([recovered, hasRecoveredPublications], [true, true]);
  assert.deepEqual(await values(ann, 3), [3, 4, 5]);
  await forget(hub);
  await publish(hub, channel, 6, 6);
  assert.equal((await ann.heard.next("connecting")).code, 3010);
  const again = await ann.heard.next("subscribed");
  assert.deepEqual([again.wasRecovering, again.recovered], [true, false]);
  await publish(hub, channel, 7, 7);
  assert.deepEqual(await values(ann, 1), [7]);
});

test("a client that unsubscribes and comes again gets what was missed, too", async (t) => {
  const { news } = await listening(t, hub, undefined, "left");
  news.unsubscribe();
  await publish(hub, "left", 3, 4);
  news.subscribe();
  assert.equal((await news.heard.next("subscribed")).recovered, true);
  assert.deepEqual(await values(news, 2), [3, 4]);
});
