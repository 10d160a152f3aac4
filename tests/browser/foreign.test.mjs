// Runs the code that the demo page shows on a blank page of another origin: three lines that never answer pings.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect as dial } from "node:net";
import { test } from "node:test";
import { connect, assertNoProblems, logIn, openConnectedPage, openDemoPage, publish, startBlankPage, openTab, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** Opens a WebSocket that never answers pings. Resolves with everything it received when the hub has closed it. */
function readUntilPongTimeout(hub) {
  const [host, port] = hub.address.split(":");
  const key = randomBytes(16).toString("base64");
  return new Promise((resolve, reject) => {
    const socket = dial(Number(port), host);
    let received = "";
    socket.on("data", (bytes) => (received += bytes.toString("latin1")));
    socket.on("error", reject);
    socket.on("end", () => resolve(received));
    socket.write(
      `GET /socket?token=${hub.sign({ sub: "silent" })} HTTP/1.1\r\nHost: ${hub.address}\r\nUpgrade: websocket\r\n` +
        `Connection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
  });
}

test("shown code for every way to send a token works on another origin and outlives pings without answering them", () =>
  withHub({ settings: { "server.ping_interval": "2s", "server.pong_timeout": "1500ms" } }, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page);
    await page.getByLabel("Show my token").check();
    const blankPage = await startBlankPage();
    const pages = [];
    for (const way of ["message", "subprotocol", "ticket", "query", "connect"]) {
      await connect(page, way);
      const code = await page.locator("#code").textContent();
      assert.ok(code.split("\n").length <= (way === "ticket" ? 4 : 3), code);
      const other = await openTab(blankPage.url, { expects: /^(?!.*Error)/ });
      // The code prints each received message.
      other.printed = [];
      other.on("console", (message) => other.printed.push(message.text()));
      await other.evaluate(`(async () => { ${code}\nwindow.ws = ws; })()`);
      pages.push([way, other]);
      await page.getByRole("button", { name: "Disconnect" }).click();
    }
    const waitUntilPrinted = (text) =>
      Promise.all(
        pages.map(async ([way, other]) => {
          if (!other.printed.some((line) => line.includes(text))) {
            await other.waitForEvent("console", { predicate: (message) => message.text().includes(text) });
          }
          assert.equal(await other.evaluate("ws.readyState"), 1, way);
        }),
      );
    await Promise.all(pages.map(([, other]) => other.waitForFunction("ws.readyState === 1")));
    // Each of these is closed only after a ping interval and a pong timeout, so the pages have outlived both.
    for (let times = 0; times < 2; times += 1) assert.match(await readUntilPongTimeout(hub), /3012|no pong/);
    await publish(hub, "news", "still here");
    await waitUntilPrinted("still here");
    for (const [, other] of pages) await other.context().close();
    assertNoProblems(page);
    blankPage.close();
  }));

test("shown curl command publishes the same data", () =>
  withHub({}, async (hub) => {
    const { execFileSync } = await import("node:child_process");
    const page = await openConnectedPage(hub);
    await page.getByLabel(/^Data/).fill(`{"it's": "a $(quote) \\" test"}`);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.locator("#log li.pub").waitFor();
    await page.getByLabel("Show my token").check();
    await page.getByRole("tab", { name: "curl" }).click();
    const line = await page.locator("#code").textContent();
    assert.match(execFileSync("sh", ["-c", `${line} -sS`], { encoding: "utf8" }), /"result"|\{\}/);
    await page.locator("#log li.pub").nth(1).waitFor();
    const [first, second] = await page.locator("#log li.pub .detail").allTextContents();
    assert.equal(first, second);
    assertNoProblems(page);
  }));
