// Server-side subscriptions with npm `centrifuge`: personal channels, and what the server API gave before a reconnect.

import assert from "node:assert/strict";
import { after, before } from "node:test";

import { startProxy } from "./proxy.mjs";
import { api, connectClient, createClient, receiveData, startHub, subscribe, testInBothFormats } from "./support.mjs";

let hub;
before(async () => {
  hub = await startHub({
    "channels.history_size": 20, "channels.subscribe_to_personal": "true", "channels.allowed_delta_types": '["fossil"]',
    "channels.delta_publish": "true",
  });
});
after(() => hub.stop());

/** Resolves with the event of the subscription to this channel; each client has its personal one, too. */
async function waitForSubscription(client, channel) {
  for (;;) {
    const subscribed = await client.events.waitFor("subscribed");
    if (subscribed.channel === channel) return subscribed;
  }
}

testInBothFormats("a user receives what is published to its personal channel, also what it missed", async (t, format, user) => {
  const proxy = await startProxy(t, hub);
  const ann = createClient(t, proxy, { format, token: hub.sign({ sub: user }) });
  ann.connect();
  assert.equal((await ann.events.waitFor("subscribed")).channel, `#${user}`);
  await api(hub, "publish", { channel: `#${user}`, data: 1 });
  assert.deepEqual(await receiveData(ann, 1), [1]);
  proxy.cut();
  await ann.events.waitFor("connecting");
  for (const data of [2, 3]) await api(hub, "publish", { channel: `#${user}`, data });
  proxy.restore();
  const { channel, recovered } = await ann.events.waitFor("subscribed");
  assert.deepEqual([channel, recovered], [`#${user}`, true]);
  assert.deepEqual(await receiveData(ann, 2), [2, 3]);
});

testInBothFormats("a subscription of the server API survives a reconnect, until the API ends it", async (t, format, user) => {
  const [proxy, channel] = [await startProxy(t, hub), `$secret-${user}`];
  const ann = await connectClient(t, proxy, user, { format });
  const publish = (data) => api(hub, "publish", { channel, data });
  await api(hub, "subscribe", { user, channel, override: { force_recovery: { value: true } } });
  await waitForSubscription(ann, channel);
  await publish(1);
  assert.deepEqual(await receiveData(ann, 1), [1]);
  proxy.cut();
  await ann.events.waitFor("connecting");
  await publish(2);
  proxy.restore();
  assert.equal((await waitForSubscription(ann, channel)).recovered, true);
  assert.deepEqual(await receiveData(ann, 1), [2]);
  proxy.cut();
  await ann.events.waitFor("connecting");
  await api(hub, "unsubscribe", { user, channel });
  proxy.restore();
  assert.equal((await ann.events.waitFor("unsubscribed")).channel, channel);
});

testInBothFormats("publications of clients are deltas where the namespace says so", async (t, format, channel) => {
  const [ann, bob] = [await connectClient(t, hub, "ann", { format }), await connectClient(t, hub, "bob", { format })];
  const news = await subscribe(ann, channel, { delta: "fossil" });
  const texts = [1, 2, 3].map((number) => `${number}: ${"the same words in all of them ".repeat(20)}`);
  for (const text of texts) await bob.publish(channel, format.data(text));
  assert.deepEqual(await receiveData(news, 3), texts);
  const { numFullPayloads, numDeltaPayloads } = news.deltaStats();
  assert.deepEqual([numFullPayloads, numDeltaPayloads], [1, 2]);
});
