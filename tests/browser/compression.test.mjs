// permessage-deflate in a real browser, which offers it by itself.

import assert from "node:assert/strict";
import { test } from "node:test";
import { openTab, publish, startBlankPage, withBrowser, withHub } from "./support.mjs";

withBrowser();

const longData = (number) => ({ number, text: "the same words again and again ".repeat(1000) });

for (const [enabled, extensions] of [["true", "permessage-deflate"], ["false", ""]]) {
  test(`a browser with a hub whose server.compression.enabled is ${enabled} sends and receives long messages`, () =>
    withHub({ settings: { "server.compression.enabled": enabled } }, async (hub) => {
      const blank = await startBlankPage();
      try {
        const page = await openTab(blank.url);
        await page.evaluate((url) => {
          window.received = [];
          window.socket = new WebSocket(url);
          socket.onmessage = ({ data }) => received.push(...data.split("\n").map(JSON.parse));
          socket.onopen = () => socket.send('{"id":1,"subscribe":{"channel":"news"}}');
        }, `ws://${hub.address}/connection/websocket?token=${hub.sign({ sub: "ann" })}`);
        await page.waitForFunction("received.some(({ id }) => id === 1)");
        assert.match(await page.evaluate("socket.extensions"), extensions ? /^permessage-deflate/ : /^$/);
        await publish(hub, "news", longData(1));
        await page.evaluate((data) => socket.send(JSON.stringify({ id: 2, publish: { channel: "news", data } })), longData(2));
        await page.waitForFunction("received.filter(({ push }) => push?.pub).length === 2");
        const publications = await page.evaluate("received.filter(({ push }) => push?.pub).map(({ push }) => push.pub.data)");
        assert.deepEqual(publications, [longData(1), longData(2)]);
      } finally {
        blank.close();
      }
    }));
}
