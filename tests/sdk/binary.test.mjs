// Binary data: npm `centrifuge` in Protobuf exchanges bytes unchanged, as the updates of Yjs are; in JSON it is refused.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";

import { startProxy } from "./proxy.mjs";
import { FORMATS, api, connectClient, createSubscription, startHub, subscribe } from "./support.mjs";

const PROTOBUF = FORMATS.find((format) => format.name === "Protobuf");

let hub;
before(async () => (hub = await startHub({ "channels.history_size": 100, "channels.data_format": "binary" })));
after(() => hub.stop());

/** Returns an update as Yjs encodes one: variable-length numbers of client and clock, then text and random ids. */
function yjsUpdate(clock) {
  const number = (value) => (value < 128 ? [value] : [128 | (value & 127), ...number(value >> 7)]);
  const text = Buffer.from(`Wort ${clock} 世界\n`);
  return Buffer.from([1, 1, ...number(0xdead00 + clock), ...number(clock), 4, 1, 1, 0x74, ...number(text.length), ...text, ...randomBytes(40), 0]);
}

async function receiveBytes(subscription, count) {
  const received = [];
  while (received.length < count) received.push(Buffer.from((await subscription.events.waitFor("publication")).data));
  return received;
}

test("updates arrive byte for byte, live and from the history", async (t) => {
  const ann = await subscribe(await connectClient(t, hub, "ann", { format: PROTOBUF }), "doc");
  const bob = await subscribe(await connectClient(t, hub, "bob", { format: PROTOBUF }), "doc", { recoverable: true });
  const updates = Array.from({ length: 50 }, (_, clock) => yjsUpdate(clock));
  for (const update of updates) await ann.publish(update);
  await api(hub, "publish", { channel: "doc", b64data: updates[0].toString("base64") });
  for (const subscription of [ann, bob]) assert.deepEqual(await receiveBytes(subscription, 51), [...updates, updates[0]]);
  const { publications } = await api(hub, "history", { channel: "doc", limit: 100 });
  assert.deepEqual(publications.map(({ b64data }) => Buffer.from(b64data, "base64")), [...updates, updates[0]]);
});

test("a large update takes at most 2 percent more on the wire", async (t) => {
  const proxy = await startProxy(t, hub);
  const ann = await connectClient(t, hub, "ann", { format: PROTOBUF });
  const news = await subscribe(await connectClient(t, proxy, "bob", { format: PROTOBUF }), "large");
  const before = proxy.bytes;
  const update = randomBytes(20_000);
  await ann.publish("large", update);
  assert.deepEqual(await receiveBytes(news, 1), [update]);
  assert.ok(proxy.bytes - before <= update.length * 1.02, `${proxy.bytes - before}`);
});

test("a JSON client is refused with 108 and stays connected", async (t) => {
  const ann = await connectClient(t, hub, "ann", { format: FORMATS.find((format) => format.name === "JSON") });
  const refused = createSubscription(ann, "doc");
  refused.subscribe();
  assert.equal((await refused.events.waitFor("unsubscribed")).code, 108);
  await assert.rejects(ann.publish("doc", 1), { code: 108 });
  assert.equal(ann.state, "connected");
});
