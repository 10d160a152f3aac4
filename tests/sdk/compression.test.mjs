// permessage-deflate: Node's `ws` offers it, as browsers do, and a client with it and one without receive the same.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { WebSocket } from "ws";

import { api, connectClient, receiveData, startHub, subscribe, testInBothFormats } from "./support.mjs";
import { startProxy } from "./proxy.mjs";

let hub;
before(async () => (hub = await startHub({ "server.compression.enabled": "true" })));
after(() => hub.stop());

/** Data that becomes much shorter. */
const longData = (number) => ({ number, text: "the same words again and again ".repeat(1000) });

class UncompressedWebSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { perMessageDeflate: false });
  }
}

testInBothFormats("a client that offers compression receives what others receive in a tenth of the bytes", async (t, format, channel) => {
  const bytes = {};
  for (const [name, websocket] of Object.entries({ compressed: WebSocket, plain: UncompressedWebSocket })) {
    const proxy = await startProxy(t, hub);
    const client = await connectClient(t, proxy, name, { format, websocket });
    const subscription = await subscribe(client, `${channel}-${name}`);
    for (let number = 1; number <= 5; number++) await api(hub, "publish", { channel: subscription.channel, data: longData(number) });
    assert.deepEqual(await receiveData(subscription, 5), [1, 2, 3, 4, 5].map(longData));
    // Its own commands are compressed, too: `ws` compresses messages of 1 KiB and more.
    await subscription.publish(format.data(longData(6)));
    assert.deepEqual(await receiveData(subscription, 1), [longData(6)]);
    bytes[name] = proxy.bytes;
  }
  assert.ok(bytes.plain > 6 * 31_000, JSON.stringify(bytes));
  assert.ok(bytes.compressed < bytes.plain / 10, JSON.stringify(bytes));
});

test("a hub without the option does not answer the offer", async (t) => {
  const plain = await startHub();
  t.after(() => plain.stop());
  for (const [it, expected] of [[hub, "permessage-deflate"], [plain, ""]]) {
    const socket = new WebSocket(`ws://${it.address}/connection/websocket?token=${it.sign({ sub: "ann" })}`);
    await new Promise((resolve, reject) => ((socket.onopen = resolve), (socket.onerror = reject)));
    assert.equal(socket.extensions, expected);
    socket.close();
  }
});
