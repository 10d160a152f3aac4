// Deltas: npm `centrifuge` restores the publications from fewer bytes.

import assert from "node:assert/strict";
import { after, before } from "node:test";

import { startProxy } from "./proxy.mjs";
import { api, connectClient, startHub, testInBothFormats, subscribe, receiveData } from "./support.mjs";

let hub;
before(async () => (hub = await startHub({ "channels.history_size": 20, "channels.allowed_delta_types": '["fossil"]' })));
after(() => hub.stop());

/** Returns large data of which little changes from tick to tick. */
const board = (tick) => ({
  rows: Array.from({ length: 60 }, (_, row) => ({ name: `Zeile ${row} – 世界 🦊`, price: row === tick % 60 ? tick : 0 })),
  tick,
});
const boards = (from, to) => Array.from({ length: to - from + 1 }, (_, number) => board(from + number));

async function publish(channel, all) {
  for (const data of all) await api(hub, "publish", { channel, data, delta: true });
}

testInBothFormats("live deltas restore the publications with a fraction of the bytes", async (t, format, channel) => {
  const [thin, wide] = [await startProxy(t, hub), await startProxy(t, hub)];
  const small = await subscribe(await connectClient(t, thin, "ann", { format }), channel, { delta: "fossil" });
  const full = await subscribe(await connectClient(t, wide, "bob", { format }), channel);
  await publish(channel, boards(1, 30));
  for (const news of [small, full]) assert.deepEqual(await receiveData(news, 30), boards(1, 30));
  const { numFullPayloads, numDeltaPayloads } = small.deltaStats();
  assert.deepEqual([numFullPayloads, numDeltaPayloads], [1, 29]);
  assert.ok(thin.bytes * 4 < wide.bytes, `${thin.bytes} and ${wide.bytes}`);
});

testInBothFormats("recovered publications are sent as deltas, and live deltas continue from them", async (t, format, channel) => {
  const proxy = await startProxy(t, hub);
  const options = { delta: "fossil", recoverable: true };
  const news = await subscribe(await connectClient(t, proxy, "ann", { format }), channel, options);
  await publish(channel, boards(1, 3));
  assert.deepEqual(await receiveData(news, 3), boards(1, 3));
  proxy.cut();
  await news.events.waitFor("subscribing");
  await publish(channel, boards(4, 14));
  const before = proxy.bytes;
  proxy.restore();
  assert.equal((await news.events.waitFor("subscribed")).recovered, true);
  assert.deepEqual(await receiveData(news, 11), boards(4, 14));
  assert.ok((proxy.bytes - before) * 3 < 11 * Buffer.byteLength(JSON.stringify(board(1))), `${proxy.bytes - before}`);
  await publish(channel, boards(15, 18));
  assert.deepEqual(await receiveData(news, 4), boards(15, 18));
  proxy.cut();
  await news.events.waitFor("subscribing");
  await publish(channel, boards(19, 50));
  proxy.restore();
  assert.equal((await news.events.waitFor("subscribed")).recovered, false);
  await publish(channel, boards(51, 53));
  assert.deepEqual(await receiveData(news, 3), boards(51, 53));
});

testInBothFormats("full publications, deltas and publications without history may alternate", async (t, format, channel) => {
  const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel, { delta: "fossil", positioned: true });
  const all = [
    [board(1), true], [board(2), true], [board(3), false], [board(4), true], [null, true], ["", true], ["\ud83e\udd8a".repeat(50), true],
    ["\ud83e\udd8b".repeat(50), true], [[], true], [board(5), true], [board(5), true],
  ];
  for (const [data, delta] of all) await api(hub, "publish", { channel, data, delta });
  await api(hub, "publish", { channel, data: board(6), delta: true, skip_history: true });
  await api(hub, "publish", { channel, data: board(7), delta: true });
  assert.deepEqual(await receiveData(news, all.length + 2), [...all.map(([data]) => data), board(6), board(7)]);
  assert.ok(news.deltaStats().numDeltaPayloads > 3 && !news.events.has("subscribing"));
});

testInBothFormats("a later subscriber starts with a full publication", async (t, format, channel) => {
  const early = await subscribe(await connectClient(t, hub, "ann", { format }), channel, { delta: "fossil" });
  await publish(channel, boards(1, 3));
  const late = await subscribe(await connectClient(t, hub, "bob", { format }), channel, { delta: "fossil" });
  await publish(channel, boards(4, 6));
  assert.deepEqual([await receiveData(early, 6), await receiveData(late, 3)], [boards(1, 6), boards(4, 6)]);
  assert.equal(late.deltaStats().numFullPayloads, 1);
});

testInBothFormats("a channel without deltas sends full publications to a subscriber that requests deltas", async (t, format, channel) => {
  const plain = await startHub({ "channels.history_size": 20 });
  t.after(() => plain.stop());
  const news = await subscribe(await connectClient(t, plain, "ann", { format }), channel, { delta: "fossil" });
  for (const data of boards(1, 3)) await api(plain, "publish", { channel, data, delta: true });
  assert.deepEqual(await receiveData(news, 3), boards(1, 3));
  assert.equal(news.deltaStats().numPublications, 0);
});
