// Deltas: npm `centrifuge` restores the publications from fewer bytes.

import assert from "node:assert/strict";
import { after, before } from "node:test";

import { line } from "./line.mjs";
import { api, connected, hub as start, inBothFormats, subscribed, values } from "./support.mjs";

let hub;
before(async () => (hub = await start({ "channels.history_size": 20, "channels.allowed_delta_types": '["fossil"]' })));
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

inBothFormats("live deltas restore the publications with a fraction of the bytes", async (t, format, channel) => {
  const [thin, wide] = [await line(t, hub), await line(t, hub)];
  const small = await subscribed(await connected(t, thin, "ann", { format }), channel, { delta: "fossil" });
  const full = await subscribed(await connected(t, wide, "bob", { format }), channel);
  await publish(channel, boards(1, 30));
  for (const news of [small, full]) assert.deepEqual(await values(news, 30), boards(1, 30));
  const { numFullPayloads, numDeltaPayloads } = small.deltaStats();
  assert.deepEqual([numFullPayloads, numDeltaPayloads], [1, 29]);
  assert.ok(thin.bytes * 4 < wide.bytes, `${thin.bytes} and ${wide.bytes}`);
});

inBothFormats("recovered publications are sent as deltas, and live deltas continue from them", async (t, format, channel) => {
  const wire = await line(t, hub);
  const options = { delta: "fossil", recoverable: true };
  const news = await subscribed(await connected(t, wire, "ann", { format }), channel, options);
  await publish(channel, boards(1, 3));
  assert.deepEqual(await values(news, 3), boards(1, 3));
  wire.cut();
  await news.events.next("subscribing");
  await publish(channel, boards(4, 14));
  const before = wire.bytes;
  wire.mend();
  assert.equal((await news.events.next("subscribed")).recovered, true);
  assert.deepEqual(await values(news, 11), boards(4, 14));
  assert.ok((wire.bytes - before) * 3 < 11 * Buffer.byteLength(JSON.stringify(board(1))), `${wire.bytes - before}`);
  await publish(channel, boards(15, 18));
  assert.deepEqual(await values(news, 4), boards(15, 18));
  wire.cut();
  await news.events.next("subscribing");
  await publish(channel, boards(19, 50));
  wire.mend();
  assert.equal((await news.events.next("subscribed")).recovered, false);
  await publish(channel, boards(51, 53));
  assert.deepEqual(await values(news, 3), boards(51, 53));
});

inBothFormats("full publications, deltas and publications without history may alternate", async (t, format, channel) => {
  const news = await subscribed(await connected(t, hub, "ann", { format }), channel, { delta: "fossil", positioned: true });
  const all = [
    [board(1), true], [board(2), true], [board(3), false], [board(4), true], [null, true], ["", true], ["\ud83e\udd8a".repeat(50), true],
    ["\ud83e\udd8b".repeat(50), true], [[], true], [board(5), true], [board(5), true],
  ];
  for (const [data, delta] of all) await api(hub, "publish", { channel, data, delta });
  await api(hub, "publish", { channel, data: board(6), delta: true, skip_history: true });
  await api(hub, "publish", { channel, data: board(7), delta: true });
  assert.deepEqual(await values(news, all.length + 2), [...all.map(([data]) => data), board(6), board(7)]);
  assert.ok(news.deltaStats().numDeltaPayloads > 3 && !news.events.has("subscribing"));
});

inBothFormats("a later subscriber starts with a full publication", async (t, format, channel) => {
  const early = await subscribed(await connected(t, hub, "ann", { format }), channel, { delta: "fossil" });
  await publish(channel, boards(1, 3));
  const late = await subscribed(await connected(t, hub, "bob", { format }), channel, { delta: "fossil" });
  await publish(channel, boards(4, 6));
  assert.deepEqual([await values(early, 6), await values(late, 3)], [boards(1, 6), boards(4, 6)]);
  assert.equal(late.deltaStats().numFullPayloads, 1);
});

inBothFormats("a channel without deltas sends full publications to a subscriber that requests deltas", async (t, format, channel) => {
  const plain = await start({ "channels.history_size": 20 });
  t.after(() => plain.stop());
  const news = await subscribed(await connected(t, plain, "ann", { format }), channel, { delta: "fossil" });
  for (const data of boards(1, 3)) await api(plain, "publish", { channel, data, delta: true });
  assert.deepEqual(await values(news, 3), boards(1, 3));
  assert.equal(news.deltaStats().numPublications, 0);
});
