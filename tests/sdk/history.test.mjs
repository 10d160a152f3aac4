// npm `centrifuge` and channels with history and presence: history pages, tags, filters, presence, joins and leaves.

import assert from "node:assert/strict";
import { after, before } from "node:test";

import { startProxy } from "./proxy.mjs";
import { api, connectClient, startHub, testInBothFormats, subscribe, createSubscription, receiveData } from "./support.mjs";

let hub;
before(async () => {
  hub = await startHub({
    "channels.history_size": 10, "channels.allow_history": "user", "channels.presence": "true", "channels.join_leave": "true",
    "channels.allow_presence": "user",
  });
});
after(() => hub.stop());

testInBothFormats("a history is read page by page, forwards and backwards", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  for (let number = 1; number <= 12; number++) await api(hub, "publish", { channel, data: { number } });
  const page = async (options) => {
    const { publications, offset, epoch } = await ann.history(channel, options);
    for (const { data, offset } of publications) assert.deepEqual(format.value(data), { number: offset });
    return { offsets: publications.map(({ offset }) => offset), offset, epoch };
  };
  const { offsets, offset, epoch } = await page();
  assert.deepEqual([offsets, offset], [[], 12]);
  assert.match(epoch, /^.+$/);
  const since = (offset) => ({ offset, epoch });
  for (const [options, expected] of [
    [{ limit: 100 }, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]],
    [{ limit: 3 }, [3, 4, 5]],
    [{ limit: 3, since: since(5) }, [6, 7, 8]],
    [{ limit: 3, since: since(11) }, [12]],
    [{ limit: 3, since: since(12) }, []],
    [{ limit: 3, reverse: true }, [12, 11, 10]],
    [{ limit: 3, since: since(10), reverse: true }, [9, 8, 7]],
    [{ limit: 3, since: since(4), reverse: true }, [3]],
    [{ limit: 3, since: since(3), reverse: true }, []],
  ]) {
    assert.deepEqual(await page(options), { offsets: expected, offset: 12, epoch }, JSON.stringify(options));
  }
  const news = await subscribe(ann, channel);
  assert.equal((await news.history({ limit: 1 })).publications.length, 1);
  await api(hub, "history_remove", { channel });
  assert.deepEqual(await page({ limit: 100 }), { offsets: [], offset: 12, epoch });
});

testInBothFormats("history returns the publisher's info and the tags", async (t, format, channel) => {
  const token = hub.sign({ sub: "ann", info: { name: "Ann" } });
  const ann = await connectClient(t, hub, "ann", { format, token });
  const news = await subscribe(ann, channel);
  await news.publish(format.data("of ann"));
  await api(hub, "publish", { channel, data: "of REST", tags: { kind: "news", empty: "" } });
  for (const [own, tagged] of [
    [await news.events.waitFor("publication"), await news.events.waitFor("publication")], (await news.history({ limit: 2 })).publications,
  ]) {
    const { client, user, connInfo } = own.info;
    assert.deepEqual([client, user, format.value(connInfo)], [ann.connectedEvent.client, "ann", { name: "Ann" }]);
    assert.deepEqual([format.value(own.data), own.tags ?? {}, tagged.info ?? null], ["of ann", {}, null]);
    assert.deepEqual([format.value(tagged.data), { ...tagged.tags }], ["of REST", { kind: "news", empty: "" }]);
  }
});

testInBothFormats("a publication that skips the history is delivered but not stored", async (t, format, channel) => {
  const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel, { recoverable: true });
  await api(hub, "publish", { channel, data: 1 });
  await api(hub, "publish", { channel, data: 2, skip_history: true });
  await api(hub, "publish", { channel, data: 3 });
  assert.deepEqual(await receiveData(news, 3), [1, 2, 3]);
  const { publications, offset } = await news.history({ limit: 9 });
  assert.deepEqual([publications.map(({ data }) => format.value(data)), offset], [[1, 3], 2]);
  assert.ok(!news.events.has("subscribing"));
});

testInBothFormats("a publication with a used idempotency key returns the first result and is not delivered again", async (t, format, channel) => {
  const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel);
  const once = { channel, data: "once", idempotency_key: "key 1" };
  assert.deepEqual(await api(hub, "publish", once), await api(hub, "publish", once));
  await api(hub, "publish", { channel, data: "other" });
  assert.deepEqual(await receiveData(news, 2), ["once", "other"]);
});

testInBothFormats("an excluded connection does not receive the publication", async (t, format, channel) => {
  const [ann, bob] = [await connectClient(t, hub, "ann", { format }), await connectClient(t, hub, "bob", { format })];
  const [anns, bobs] = [await subscribe(ann, channel, { positioned: true }), await subscribe(bob, channel, { positioned: true })];
  await api(hub, "publish", { channel, data: "not to ann", exclude: ann.connectedEvent.client });
  await api(hub, "publish", { channel, data: "to both" });
  assert.deepEqual([await receiveData(anns, 1), await receiveData(bobs, 2)], [["to both"], ["not to ann", "to both"]]);
  assert.ok(!anns.events.has("subscribing"));
});

testInBothFormats("history since a position of another epoch fails with 112, one of the future is empty, and one without a limit returns all", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  await api(hub, "publish", { channel, data: 1 });
  const { epoch } = await ann.history(channel);
  for (const since of [{ offset: 1, epoch: "no epoch" }, { offset: 0, epoch: "12345678" }]) {
    await assert.rejects(ann.history(channel, { limit: 1, since }), { code: 112 }, JSON.stringify(since));
  }
  assert.deepEqual((await ann.history(channel, { limit: 1, since: { offset: 2, epoch } })).publications, []);
  // A negative limit is none.
  const { publications } = await ann.history(channel, { limit: -1 });
  assert.deepEqual(publications.map(({ data }) => format.value(data)), [1]);
});

testInBothFormats("history and presence fail with 103 without permission and with 108 where they are disabled", async (t, format, channel) => {
  const closed = await startHub({ "channels.history_size": 10, "channels.presence": "true" });
  const without = await startHub({ "channels.allow_history": "user", "channels.allow_presence": "user" });
  t.after(() => Promise.all([closed.stop(), without.stop()]));
  for (const [hub, code] of [[closed, 103], [without, 108]]) {
    const news = await subscribe(await connectClient(t, hub, "ann", { format }), channel);
    for (const call of [() => news.history({ limit: 1 }), () => news.presence(), () => news.presenceStats()]) {
      await assert.rejects(call(), { code });
    }
  }
  const caps = [{ channels: [channel], allow: ["prs", "hst"] }];
  const token = closed.sign({ sub: "eve", caps });
  const eve = await connectClient(t, closed, "eve", { format, token });
  assert.equal((await eve.history(channel, { limit: 1 })).offset, 0);
  assert.deepEqual(Object.keys((await eve.presence(channel)).clients).length, 1);
});

testInBothFormats("presence returns every subscriber with the info of its tokens", async (t, format, channel) => {
  const secret = `$${channel}`;
  const claims = { ann: { sub: "ann", info: { name: "Ann" } }, bob: { sub: "bob" } };
  const ann = await connectClient(t, hub, "ann", { format, token: hub.sign(claims.ann) });
  const [bob, again] = [await connectClient(t, hub, "bob", { format }), await connectClient(t, hub, "bob", { format })];
  for (const [client, sub] of [[ann, "ann"], [bob, "bob"], [again, "bob"]]) {
    await subscribe(client, secret, { token: hub.sign({ sub, channel: secret, info: { of: sub } }) });
  }
  const { clients } = await ann.presence(secret);
  const ids = [ann, bob, again].map((client) => client.connectedEvent.client);
  assert.deepEqual(Object.keys(clients).sort(), [...ids].sort());
  const shown = ({ client, user, connInfo, chanInfo }) => [client, user, connInfo?.length === 0 ? undefined : connInfo, chanInfo]
    .map((part, at) => (at > 1 && part !== undefined ? format.value(part) : part));
  assert.deepEqual(shown(clients[ids[0]]), [ids[0], "ann", { name: "Ann" }, { of: "ann" }]);
  assert.deepEqual(shown(clients[ids[1]]), [ids[1], "bob", undefined, { of: "bob" }]);
  const { numClients, numUsers } = await bob.presenceStats(secret);
  assert.deepEqual([numClients, numUsers], [3, 2]);
  again.removeSubscription(again.getSubscription(secret));
  await again.publish("elsewhere", format.data(1));
  assert.deepEqual({ ...(await bob.presenceStats(secret)) }, { numClients: 2, numUsers: 2 });
});

testInBothFormats("only subscribers that request joins and leaves receive them", async (t, format, channel) => {
  const watching = await subscribe(await connectClient(t, hub, "watch", { format }), channel, { joinLeave: true });
  const deaf = await subscribe(await connectClient(t, hub, "deaf", { format }), channel);
  const ann = await connectClient(t, hub, "ann", { format, token: hub.sign({ sub: "ann", info: { name: "Ann" } }) });
  const news = await subscribe(ann, channel);
  const next = async (event, user) => {
    let context;
    while (context?.info.user !== user) context = await watching.events.waitFor(event);
    return context;
  };
  const { info } = await next("join", "ann");
  assert.deepEqual([info.client, format.value(info.connInfo)], [ann.connectedEvent.client, { name: "Ann" }]);
  news.unsubscribe();
  assert.equal((await next("leave", "ann")).info.client, ann.connectedEvent.client);
  news.subscribe();
  await next("join", "ann");
  ann.disconnect();
  await next("leave", "ann");
  await deaf.publish(format.data("end"));
  assert.deepEqual(await receiveData(deaf, 1), ["end"]);
  assert.ok(!deaf.events.has("join") && !deaf.events.has("leave"));
});

testInBothFormats("forced joins and leaves reach every subscriber, also of server-side subscriptions", async (t, format, channel) => {
  const forced = await startHub({ "channels.join_leave": "true", "channels.force_push_join_leave": "true" });
  t.after(() => forced.stop());
  const token = forced.sign({ sub: "owner", channels: [channel] });
  const owner = await connectClient(t, forced, "owner", { format, token });
  const news = await subscribe(await connectClient(t, forced, "ann", { format }), channel);
  const bob = await connectClient(t, forced, "bob", { format });
  const bobs = await subscribe(bob, channel);
  bobs.unsubscribe();
  for (const listener of [owner, news]) {
    for (const event of ["join", "leave"]) {
      let context;
      while (context?.info.user !== "bob") context = await listener.events.waitFor(event);
      assert.deepEqual([context.channel, context.info.client], [channel, bob.connectedEvent.client]);
    }
  }
});

testInBothFormats("a client that reconnects quickly appears once in presence", async (t, format, channel) => {
  const proxy = await startProxy(t, hub);
  const ann = await connectClient(t, proxy, "ann", { format });
  const news = await subscribe(ann, channel);
  for (let times = 0; times < 3; times++) {
    proxy.cut();
    await news.events.waitFor("subscribing");
    proxy.restore();
    await news.events.waitFor("subscribed");
  }
  const { client } = await ann.events.waitFor("connected").then(async (first) => {
    let last = first;
    while (ann.events.has("connected")) last = await ann.events.waitFor("connected");
    return last;
  });
  // The hub may still be removing the entry of the previous connection.
  let clients;
  do ({ clients } = await news.presence());
  while (Object.keys(clients).length > 1);
  assert.deepEqual(Object.keys(clients), [client]);
});

const ticks = [
  [{ ticker: "BTC", price: "9" }, 1], [{ ticker: "ETH", price: "10" }, 2], [{ ticker: "BTC", price: "10.5" }, 3], [undefined, 4],
  [{ ticker: "DOGE" }, 5], [{ ticker: "end" }, 6],
];
const leaf = (key, cmp, val) => ({ key, cmp, val });
const filters = {
  "is equal": [leaf("ticker", "eq", "BTC"), [1, 3]],
  "is greater": [leaf("price", "gte", "10"), [2, 3]],
  "is one of": [{ key: "ticker", cmp: "in", vals: ["ETH", "DOGE"] }, [2, 5]],
  "is there": [{ key: "price", cmp: "ex" }, [1, 2, 3]],
  "is both": [{ op: "and", nodes: [leaf("ticker", "sw", "B"), leaf("price", "lt", "10")] }, [1]],
  "is either": [{ op: "or", nodes: [leaf("ticker", "ct", "OG"), leaf("price", "lt", "10")] }, [1, 5]],
  "is not": [{ op: "not", nodes: [leaf("ticker", "eq", "BTC")] }, [2, 4, 5]],
};

testInBothFormats("a tags filter passes matching publications, live and recovered", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  await api(hub, "publish", { channel, data: 0 });
  const { epoch } = await ann.history(channel);
  const end = { op: "or", nodes: [leaf("ticker", "eq", "end")] };
  const live = [];
  for (const [name, [tagsFilter, expected]] of Object.entries(filters)) {
    const it = await connectClient(t, hub, name, { format });
    const filter = { ...end, nodes: [...end.nodes, tagsFilter] };
    live.push([await subscribe(it, channel, { tagsFilter: filter, positioned: true }), [...expected, 6], name]);
  }
  for (const [tags, data] of ticks) await api(hub, "publish", { channel, data, tags });
  for (const [news, expected, name] of live) {
    const received = [];
    while (received.at(-1) !== 6) received.push(...(await receiveData(news, 1)));
    assert.deepEqual(received, expected, name);
    assert.ok(!news.events.has("subscribing"), "a filtered publication is not a gap");
  }
  for (const [name, [tagsFilter, expected]] of Object.entries(filters)) {
    const news = createSubscription(await connectClient(t, hub, name, { format }), channel, { tagsFilter, since: { offset: 1, epoch } });
    news.subscribe();
    assert.equal((await news.events.waitFor("subscribed")).recovered, true);
    const left = expected.filter((number) => number !== 6);
    const recovered = await receiveData(news, left.length);
    assert.deepEqual(recovered, left, name);
  }
});

testInBothFormats("an invalid tags filter ends the subscription with 107", async (t, format, channel) => {
  const ann = await connectClient(t, hub, "ann", { format });
  let deep = leaf("a", "eq", "b");
  for (let levels = 0; levels < 90; levels++) deep = { op: "not", nodes: [deep] };
  const broad = { op: "or", nodes: Array.from({ length: 200 }, () => leaf("a", "eq", "b")) };
  for (const [number, tagsFilter] of [leaf("a", "like", "b"), { op: "xor", nodes: [leaf("a", "eq", "b")] }, deep, broad].entries()) {
    const news = createSubscription(ann, `${channel}-${number}`, { tagsFilter });
    news.subscribe();
    assert.equal((await news.events.waitFor("unsubscribed")).code, 107);
  }
  assert.equal(ann.state, "connected");
});
