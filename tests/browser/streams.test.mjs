// The transports without WebSockets in a real browser, on a page of another origin: EventSource, and the npm SDK where no
// WebSocket gets through.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { openTab, publish, startBlankPage, waitUntil, withBrowser, withHub } from "./support.mjs";

withBrowser();

const SDK = fileURLToPath(new URL("node_modules/centrifuge/dist/centrifuge.js", import.meta.url));
const HISTORY = { "channels.history_size": 20, "channels.history_ttl": "1m" };

/** Calls a method of the server API. */
async function call(hub, method, params) {
  const answer = await fetch(`http://${hub.address}/api/${method}`, {
    method: "POST",
    headers: { "x-api-key": hub.key },
    body: JSON.stringify(params),
  });
  const { error } = await answer.json();
  assert.equal(error, undefined);
}

/** Runs `run` with a hub that has a history, and a blank page of another origin. */
const withBlankPage = (settings, run) =>
  withHub({ settings: { ...HISTORY, ...settings } }, async (hub) => {
    const blank = await startBlankPage();
    try {
      await run(hub, await openTab(blank.url, { expects: /Failed to load resource|WebSocket connection to/ }));
    } finally {
      blank.close();
    }
  });

/** Opens the events of the channel news in the page, which keeps what it receives in `received`. */
const openEvents = (page, hub, token) =>
  page.evaluate((url) => {
    window.received = [];
    window.opened = 0;
    window.source = new EventSource(url);
    source.onopen = () => (opened += 1);
    source.onmessage = ({ data }) => received.push(JSON.parse(data).data);
    return new Promise((resolve) => source.addEventListener("subscribe", resolve, { once: true }));
  }, `http://${hub.address}/v1/channels/news/events?token=${token}`);

test("an EventSource receives publications, and after a disconnect those that it has missed, once and in order", () =>
  withBlankPage({}, async (hub, page) => {
    await openEvents(page, hub, hub.sign({ sub: "ann" }));
    await publish(hub, "news", 1);
    await page.waitForFunction("received.length === 1");
    await call(hub, "disconnect", { user: "ann" });
    await waitUntil("the connection ends", () => page.evaluate("source.readyState === EventSource.CONNECTING || opened > 1"));
    await publish(hub, "news", { line: "a\nb", sign: "ä😀" });
    await publish(hub, "news", 3);
    await page.waitForFunction("received.length === 3");
    await publish(hub, "news", 4);
    await page.waitForFunction("received.length === 4");
    assert.deepEqual(await page.evaluate("received"), [1, { line: "a\nb", sign: "ä😀" }, 3, 4]);
    assert.equal(await page.evaluate("opened"), 2);
  }));

test("an EventSource whose token expires does not come back with it", () =>
  withBlankPage({}, async (hub, page) => {
    await openEvents(page, hub, hub.sign({ sub: "ann" }, { ttl: 3 }));
    await page.waitForFunction("source.readyState === EventSource.CLOSED");
    await publish(hub, "news", "late");
    assert.deepEqual(await page.evaluate("[received, opened]"), [[], 1]);
  }));

test("an EventSource that a full hub refuses comes back by itself when there is room", () =>
  withBlankPage({ "limits.connections": 1 }, async (hub, page) => {
    await openEvents(page, hub, hub.sign({ sub: "ann" }));
    await page.evaluate((url) => {
      window.first = source;
      window.errors = 0;
      window.subscribed = 0;
      window.second = new EventSource(url);
      second.onerror = () => (errors += 1);
      second.addEventListener("subscribe", () => (subscribed += 1));
    }, `http://${hub.address}/v1/channels/news/events?token=${hub.sign({ sub: "bob" })}`);
    await page.waitForFunction("errors > 0");
    assert.equal(await page.evaluate("second.readyState === EventSource.CONNECTING"), true);
    await page.evaluate("first.close()");
    await page.waitForFunction("subscribed === 1");
  }));

for (const [transport, path] of [["http_stream", "/connection/http_stream"], ["sse", "/connection/sse"]]) {
  test(`the SDK falls back to ${transport} in a browser: it subscribes, publishes, and recovers after a disconnect`, () =>
    withBlankPage({}, async (hub, page) => {
      await page.addScriptTag({ path: SDK });
      await page.evaluate(
        ([address, token, transport, path]) => {
          window.received = [];
          window.states = [];
          // The health check upgrades no connection.
          const endpoints = [
            { transport: "websocket", endpoint: `ws://${address}/healthz` },
            { transport, endpoint: `http://${address}${path}` },
          ];
          window.client = new Centrifuge(endpoints, { token, emulationEndpoint: `http://${address}/emulation`, minReconnectDelay: 300 });
          client.on("connected", (context) => states.push(context.transport));
          window.subscription = client.newSubscription("news", { recoverable: true });
          subscription.on("publication", ({ data }) => received.push(data));
          subscription.on("subscribed", ({ wasRecovering, recovered }) => states.push([wasRecovering, recovered]));
          subscription.subscribe();
          client.connect();
        },
        [hub.address, hub.sign({ sub: "ann" }), transport, path],
      );
      await page.waitForFunction("states.length === 2");
      await page.evaluate("client.publish('news', 'from the browser')");
      await page.waitForFunction("received.length === 1");
      await call(hub, "disconnect", { user: "ann", disconnect: { code: 3100, reason: "try again" } });
      await publish(hub, "news", "meanwhile");
      await page.waitForFunction("states.length === 4 && received.length === 2");
      assert.deepEqual(await page.evaluate("received"), ["from the browser", "meanwhile"]);
      assert.deepEqual(await page.evaluate("states"), [transport, [false, false], transport, [true, true]]);
    }));
}
