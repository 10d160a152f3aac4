// How npm `centrifuge` reacts to controls of the server API, to a hub that stops or restarts, and to one that does not answer.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { api, connectClient, expectPublication, startHub, withDeadline, subscribe } from "./support.mjs";

let hub;
before(async () => (hub = await startHub({ "server.ping_interval": "1s", "server.pong_timeout": "500ms" })));
after(() => hub.stop());

test("disconnect closes with 3503 for good, and the range of a custom code decides whether the client reconnects", async (t) => {
  const ann = await connectClient(t, hub, "sent away");
  await api(hub, "disconnect", { user: "sent away" });
  assert.equal((await ann.events.waitFor("disconnected")).code, 3503);
  for (const [code, event] of [
    [3011, "connecting"], [3999, "disconnected"], [4000, "connecting"], [4500, "disconnected"],
  ]) {
    const ann = await connectClient(t, hub, "moved");
    await api(hub, "disconnect", { user: "moved", disconnect: { code, reason: "moved" } });
    assert.deepEqual(await ann.events.waitFor(event), { code, reason: "moved" });
    ann.disconnect();
  }
});

test("unsubscribe ends one subscription with 2000, and others continue", async (t) => {
  const ann = await connectClient(t, hub, "two channels");
  const [news, sport] = [await subscribe(ann, "news"), await subscribe(ann, "sport")];
  await api(hub, "unsubscribe", { user: "two channels", channel: "news" });
  const { code, reason } = await news.events.waitFor("unsubscribed");
  assert.deepEqual([code, reason], [2000, "unsubscribed by the server"]);
  await expectPublication(hub, sport, 1);
  news.subscribe();
  await news.events.waitFor("subscribed");
  await expectPublication(hub, news, 2);
});

test("unsubscribe ends a server-side subscription, too", async (t) => {
  const ann = await connectClient(t, hub, "x", { token: hub.sign({ sub: "server-side", channels: ["own"] }) });
  await ann.events.waitFor("subscribed");
  await api(hub, "unsubscribe", { user: "server-side", channel: "own" });
  assert.equal((await ann.events.waitFor("unsubscribed")).channel, "own");
});

test("refresh keeps the client connected, and refresh with expired makes it reconnect", async (t) => {
  let asked = 0;
  const getToken = async () => (asked++, hub.sign({ sub: "refreshed" }));
  const ann = await connectClient(t, hub, "refreshed", { token: "", getToken });
  const news = await subscribe(ann, "orders");
  await api(hub, "refresh", { user: "refreshed", expire_at: Math.floor(Date.now() / 1000) + 60 });
  await expectPublication(hub, news, 1);
  await api(hub, "refresh", { user: "refreshed", expired: true });
  assert.equal((await ann.events.waitFor("connecting")).code, 3005);
  await ann.events.waitFor("connected");
  await news.events.waitFor("subscribed");
  await expectPublication(hub, news, 2);
  assert.equal(asked, 1, "the token is still valid");
});

test("a stopping hub closes with 3001, and clients reconnect to its successor with their subscriptions", async (t) => {
  const first = await startHub({ "api.key": "the API key of these tests, long enough" });
  const own = await connectClient(t, first, "ann");
  const claims = { sub: "bob", channels: ["server-side"] };
  const door = await connectClient(t, first, "bob", { token: "", query: `?token=${first.sign(claims)}` });
  const [news, doors] = [await subscribe(own, "news"), await subscribe(door, "news")];
  const stopped = first.stop();
  for (const client of [own, door]) {
    const { code, reason } = await client.events.waitFor("connecting");
    assert.deepEqual([code, reason], [3001, "shutdown"]);
  }
  await stopped;
  const second = await startHub({ "server.bind": first.address, "api.key": "the API key of these tests, long enough" });
  t.after(() => second.stop());
  for (const client of [own, door]) await client.events.waitFor("connected");
  for (const subscription of [news, doors]) await subscription.events.waitFor("subscribed");
  await api(second, "publish", { channel: "news", data: "of the second" });
  for (const subscription of [news, doors]) {
    assert.equal((await subscription.events.waitFor("publication")).data, "of the second");
  }
  await api(second, "publish", { channel: "server-side", data: "after the restart" });
  assert.equal((await door.events.waitFor("publication")).channel, "server-side");
});

test("a client reconnects to the successor of a killed hub", async (t) => {
  const first = await startHub({ "api.key": "the API key of these tests, long enough" });
  const ann = await connectClient(t, first, "ann");
  const news = await subscribe(ann, "news");
  await first.stop("SIGKILL");
  assert.equal((await ann.events.waitFor("connecting")).code, 1);
  const second = await startHub({ "server.bind": first.address, "api.key": "the API key of these tests, long enough" });
  t.after(() => second.stop());
  await news.events.waitFor("subscribed");
  await expectPublication(second, news, "back");
});

test("a client that answers pings stays connected through several pong timeouts", async (t) => {
  const pings = [];
  let third;
  const thirdPing = new Promise((resolve) => (third = resolve));
  class Counting extends WebSocket {
    send(text) {
      if (text === "{}" && pings.push(text) === 3) third();
      super.send(text);
    }
  }
  const ann = await connectClient(t, hub, "ann", { websocket: Counting });
  const news = await subscribe(ann, "pings");
  await withDeadline(thirdPing, "three pongs");
  await expectPublication(hub, news, 1);
  assert.ok(!ann.events.has("connecting"));
});

test("a client that does not answer pings is closed with 3012 and reconnects", async (t) => {
  class Mute extends WebSocket {
    send(text) {
      if (text !== "{}") super.send(text);
    }
  }
  const ann = await connectClient(t, hub, "ann", { websocket: Mute });
  assert.deepEqual(await ann.events.waitFor("connecting"), { code: 3012, reason: "no pong" });
  await ann.events.waitFor("connected");
});

test("a client notices a frozen hub by its missing pings and reconnects when it continues", async (t) => {
  const frozen = await startHub({ "server.ping_interval": "1s" });
  t.after(() => (process.kill(frozen.pid, "SIGCONT"), frozen.stop()));
  const ann = await connectClient(t, frozen, "ann", { maxServerPingDelay: 500, timeout: 1000 });
  process.kill(frozen.pid, "SIGSTOP");
  assert.deepEqual(await ann.events.waitFor("connecting"), { code: 2, reason: "no ping" });
  process.kill(frozen.pid, "SIGCONT");
  await ann.events.waitFor("connected");
});
