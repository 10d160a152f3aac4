// Plain sessions: clients without a library that never answer pings in their code, together with SDK clients.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { SOCKETS, api, connectClient, startHub, withDeadline, subscribe } from "./support.mjs";

let hub;
before(async () => (hub = await startHub({ "server.ping_interval": "1s", "server.pong_timeout": "500ms" })));
after(() => hub.stop());

/** Returns a function that resolves with the next line that the socket receives. */
function lines(t, socket) {
  const received = [];
  let wake = () => {};
  socket.addEventListener("message", ({ data }) => (received.push(...data.split("\n").map(JSON.parse)), wake()));
  socket.addEventListener("close", ({ code }) => (received.push({ closed: code }), wake()));
  t.after(() => socket.close());
  return async () => {
    while (!received.length) await withDeadline(new Promise((resolve) => (wake = resolve)), "a line");
    return received.shift();
  };
}

const token = () => hub.sign({ sub: "plain" });
const ways = {
  "the URL": (WebSocket) => new WebSocket(`ws://${hub.address}/connection/websocket?token=${token()}`),
  "a subprotocol": (WebSocket) => new WebSocket(`ws://${hub.address}/connection/websocket`, ["wardcast.v1", token()]),
  "the first message": (WebSocket) => {
    const socket = new WebSocket(`ws://${hub.address}/connection/websocket`);
    socket.onopen = () => socket.send(`Authorization: Bearer ${token()}`);
    return socket;
  },
};

test("plain clients of every way to send a token exchange messages with an SDK and outlive WebSocket pings", async (t) => {
  const all = [];
  for (const [socketName, WebSocket] of Object.entries(SOCKETS)) {
    for (const [door, open] of Object.entries(ways)) {
      const socket = open(WebSocket);
      const nextLine = lines(t, socket);
      const connectedEvent = await nextLine();
      assert.equal(connectedEvent.push?.connect?.ping, undefined, "a plain session uses WebSocket pings");
      socket.send('{"id":1,"subscribe":{"channel":"news"}}');
      assert.deepEqual(await nextLine(), { id: 1, subscribe: {} });
      all.push({ name: `${door} (${socketName})`, socket, nextLine });
    }
  }
  // The first ping is sent after a random delay of at most half an interval: at the third ping here, every other client has had two.
  const watch = new SOCKETS.ws(`ws://${hub.address}/?token=${token()}`);
  t.after(() => watch.close());
  let pings = 0;
  await withDeadline(new Promise((resolve) => watch.on("ping", () => ++pings === 3 && resolve())), "three pings");
  const news = await subscribe(await connectClient(t, hub), "news");
  await news.publish("of the SDK");
  for (const { name, nextLine } of all) assert.equal((await nextLine()).push?.pub.data, "of the SDK", name);
  assert.equal((await news.events.waitFor("publication")).data, "of the SDK");
  for (const { name, socket } of all) {
    socket.send(JSON.stringify({ id: 2, publish: { channel: "news", data: name } }));
    const { data, info } = await news.events.waitFor("publication");
    assert.deepEqual([data, info.user], [name, "plain"]);
  }
});

test("a plain client receives only the data of a publication over REST", async (t) => {
  const socket = new SOCKETS.ws(`ws://${hub.address}/?token=${hub.sign({ sub: "plain", channels: ["server-side"] })}`);
  const nextLine = lines(t, socket);
  assert.deepEqual((await nextLine()).push.connect.subs, { "server-side": {} });
  await api(hub, "publish", { channel: "server-side", data: 1 });
  assert.deepEqual(await nextLine(), { push: { channel: "server-side", pub: { data: 1 } } });
});
