// What npm `centrifuge` makes of the server API's orders, of a hub that goes and comes back, and of one that says nothing.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { api, connected, hub as start, soon, subscribed } from "./support.mjs";

let hub;
before(async () => (hub = await start({ "server.ping_interval": "1s", "server.pong_timeout": "500ms" })));
after(() => hub.stop());

/** Resolves when a publication sent now has come. */
async function hears(hub, subscription, data) {
  await api(hub, "publish", { channel: subscription.channel, data });
  assert.equal((await subscription.heard.next("publication")).data, data);
}

test("a disconnect order is 3503 for good, and a backend's own code says by its range whether to come back", async (t) => {
  const ann = await connected(t, hub, "sent away");
  await api(hub, "disconnect", { user: "sent away" });
  assert.equal((await ann.heard.next("disconnected")).code, 3503);
  for (const [code, event] of [
    [3000, "connecting"], [3999, "disconnected"], [4000, "connecting"], [4500, "disconnected"],
  ]) {
    const ann = await connected(t, hub, "moved");
    await api(hub, "disconnect", { user: "moved", disconnect: { code, reason: "moved" } });
    assert.deepEqual(await ann.heard.next(event), { code, reason: "moved" });
    ann.disconnect();
  }
});

test("an unsubscribe order is 2000, and the subscription stays away while others go on", async (t) => {
  const ann = await connected(t, hub, "two channels");
  const [news, sport] = [await subscribed(ann, "news"), await subscribed(ann, "sport")];
  await api(hub, "unsubscribe", { user: "two channels", channel: "news" });
  const { code, reason } = await news.heard.next("unsubscribed");
  assert.deepEqual([code, reason], [2000, "unsubscribed by the server"]);
  await hears(hub, sport, 1);
  news.subscribe();
  await news.heard.next("subscribed");
  await hears(hub, news, 2);
});

test("an unsubscribe order takes a token's channel, too", async (t) => {
  const ann = await connected(t, hub, "x", { token: hub.sign({ sub: "brought", channels: ["own"] }) });
  await ann.heard.next("subscribed");
  await api(hub, "unsubscribe", { user: "brought", channel: "own" });
  assert.equal((await ann.heard.next("unsubscribed")).channel, "own");
});

test("a refresh order leaves the client where it is, and one that says expired sends it for a new token", async (t) => {
  let asked = 0;
  const getToken = async () => (asked++, hub.sign({ sub: "refreshed" }));
  const ann = await connected(t, hub, "refreshed", { token: "", getToken });
  const news = await subscribed(ann, "orders");
  await api(hub, "refresh", { user: "refreshed", expire_at: Math.floor(Date.now() / 1000) + 60 });
  await hears(hub, news, 1);
  await api(hub, "refresh", { user: "refreshed", expired: true });
  assert.equal((await ann.heard.next("connecting")).code, 3005);
  await ann.heard.next("connected");
  await news.heard.next("subscribed");
  await hears(hub, news, 2);
  assert.equal(asked, 1, "the token is good still");
});

test("a hub that stops says 3001, and clients come back to the next one at its place with all they had", async (t) => {
  const first = await start({ "api.key": "the API key of these tests, long enough" });
  const own = await connected(t, first, "ann");
  const claims = { sub: "bob", channels: ["brought"] };
  const door = await connected(t, first, "bob", { token: "", query: `?token=${first.sign(claims)}` });
  const [news, doors] = [await subscribed(own, "news"), await subscribed(door, "news")];
  const stopped = first.stop();
  for (const client of [own, door]) {
    const { code, reason } = await client.heard.next("connecting");
    assert.deepEqual([code, reason], [3001, "shutdown"]);
  }
  await stopped;
  const second = await start({ "server.bind": first.address, "api.key": "the API key of these tests, long enough" });
  t.after(() => second.stop());
  for (const client of [own, door]) await client.heard.next("connected");
  for (const subscription of [news, doors]) await subscription.heard.next("subscribed");
  await api(second, "publish", { channel: "news", data: "of the second" });
  for (const subscription of [news, doors]) {
    assert.equal((await subscription.heard.next("publication")).data, "of the second");
  }
  await api(second, "publish", { channel: "brought", data: "brought again" });
  assert.equal((await door.heard.next("publication")).channel, "brought");
});

test("a hub that is killed is come back to as well", async (t) => {
  const first = await start({ "api.key": "the API key of these tests, long enough" });
  const ann = await connected(t, first, "ann");
  const news = await subscribed(ann, "news");
  await first.stop("SIGKILL");
  assert.equal((await ann.heard.next("connecting")).code, 1);
  const second = await start({ "server.bind": first.address, "api.key": "the API key of these tests, long enough" });
  t.after(() => second.stop());
  await news.heard.next("subscribed");
  await hears(second, news, "back");
});

test("a client that answers pings stays, past several times the time for a pong", async (t) => {
  const pings = [];
  let third;
  const thirdPing = new Promise((resolve) => (third = resolve));
  class Counting extends WebSocket {
    send(text) {
      if (text === "{}" && pings.push(text) === 3) third();
      super.send(text);
    }
  }
  const ann = await connected(t, hub, "ann", { websocket: Counting });
  const news = await subscribed(ann, "pings");
  await soon(thirdPing, "three pongs");
  await hears(hub, news, 1);
  assert.ok(!ann.heard.had("connecting"));
});

test("a client that does not answer pings is 3012 and comes back", async (t) => {
  class Mute extends WebSocket {
    send(text) {
      if (text !== "{}") super.send(text);
    }
  }
  const ann = await connected(t, hub, "ann", { websocket: Mute });
  assert.deepEqual(await ann.heard.next("connecting"), { code: 3012, reason: "no pong" });
  await ann.heard.next("connected");
});

test("a hub that is frozen is noticed by its silence, and come back to when it wakes", async (t) => {
  const frozen = await start({ "server.ping_interval": "1s" });
  t.after(() => (process.kill(frozen.pid, "SIGCONT"), frozen.stop()));
  const ann = await connected(t, frozen, "ann", { maxServerPingDelay: 500, timeout: 1000 });
  process.kill(frozen.pid, "SIGSTOP");
  assert.deepEqual(await ann.heard.next("connecting"), { code: 2, reason: "no ping" });
  process.kill(frozen.pid, "SIGCONT");
  await ann.heard.next("connected");
});
