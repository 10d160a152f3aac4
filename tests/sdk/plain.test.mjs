// Three lines of JavaScript beside the SDKs: no library, no answering of pings in sight.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { SOCKETS, api, connected, hub as start, soon, subscribed } from "./support.mjs";

let hub;
before(async () => (hub = await start({ "server.ping_interval": "1s", "server.pong_timeout": "500ms" })));
after(() => hub.stop());

/** What a socket hears, line by line. */
function lines(t, socket) {
  const heard = [];
  let woken = () => {};
  socket.addEventListener("message", ({ data }) => (heard.push(...data.split("\n").map(JSON.parse)), woken()));
  socket.addEventListener("close", ({ code }) => (heard.push({ closed: code }), woken()));
  t.after(() => socket.close());
  return async () => {
    while (!heard.length) await soon(new Promise((resolve) => (woken = resolve)), "a line");
    return heard.shift();
  };
}

const token = () => hub.sign({ sub: "plain" });
const doors = {
  "the URL": (WebSocket) => new WebSocket(`ws://${hub.address}/connection/websocket?token=${token()}`),
  "a subprotocol": (WebSocket) => new WebSocket(`ws://${hub.address}/connection/websocket`, ["wardcast.v1", token()]),
  "the first message": (WebSocket) => {
    const socket = new WebSocket(`ws://${hub.address}/connection/websocket`);
    socket.onopen = () => socket.send(`Authorization: Bearer ${token()}`);
    return socket;
  },
};

test("plain clients of every door talk with an SDK, and outlive pings that they do not see", async (t) => {
  const all = [];
  for (const [socketName, WebSocket] of Object.entries(SOCKETS)) {
    for (const [door, open] of Object.entries(doors)) {
      const socket = open(WebSocket);
      const hear = lines(t, socket);
      const greeting = await hear();
      assert.equal(greeting.push?.connect?.ping, undefined, "pings are the WebSocket's own");
      socket.send('{"id":1,"subscribe":{"channel":"news"}}');
      assert.deepEqual(await hear(), { id: 1, subscribe: {} });
      all.push({ name: `${door} (${socketName})`, socket, hear });
    }
  }
  // A client's pings begin at a random point of half an interval: at its third the others have had two.
  const watch = new SOCKETS.ws(`ws://${hub.address}/?token=${token()}`);
  t.after(() => watch.close());
  let pings = 0;
  await soon(new Promise((resolve) => watch.on("ping", () => ++pings === 3 && resolve())), "three pings");
  const news = await subscribed(await connected(t, hub), "news");
  await news.publish("of the SDK");
  for (const { name, hear } of all) assert.equal((await hear()).push?.pub.data, "of the SDK", name);
  assert.equal((await news.heard.next("publication")).data, "of the SDK");
  for (const { name, socket } of all) {
    socket.send(JSON.stringify({ id: 2, publish: { channel: "news", data: name } }));
    const { data, info } = await news.heard.next("publication");
    assert.deepEqual([data, info.user], [name, "plain"]);
  }
});

test("what a plain client hears of a publication over REST is its data alone", async (t) => {
  const socket = new SOCKETS.ws(`ws://${hub.address}/?token=${hub.sign({ sub: "plain", channels: ["brought"] })}`);
  const hear = lines(t, socket);
  assert.deepEqual((await hear()).push.connect.subs, { brought: {} });
  await api(hub, "publish", { channel: "brought", data: 1 });
  assert.deepEqual(await hear(), { push: { channel: "brought", pub: { data: 1 } } });
});
