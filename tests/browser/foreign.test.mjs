// The code that the page shows, on a blank page of somebody else: three lines, and nothing that answers pings.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect as dial } from "node:net";
import { test } from "node:test";
import { connect, fine, logIn, newcomer, publish, stranger, tab, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** A client that takes everything and answers no ping; resolves when the hub has closed it for that. */
function deaf(hub) {
  const [host, port] = hub.address.split(":");
  const key = randomBytes(16).toString("base64");
  return new Promise((resolve, reject) => {
    const socket = dial(Number(port), host);
    let heard = "";
    socket.on("data", (bytes) => (heard += bytes.toString("latin1")));
    socket.on("error", reject);
    socket.on("end", () => resolve(heard));
    socket.write(
      `GET /socket?token=${hub.sign({ sub: "deaf" })} HTTP/1.1\r\nHost: ${hub.address}\r\nUpgrade: websocket\r\n` +
        `Connection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
  });
}

test("the code of every door works on a stranger's page and lives through pings that it does not answer", () =>
  withHub({ settings: { "server.ping_interval": "300ms", "server.pong_timeout": "250ms" } }, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    await page.getByLabel("Show my token").check();
    const outside = await stranger();
    const pages = [];
    for (const door of ["message", "subprotocol", "ticket", "query", "connect"]) {
      await connect(page, door);
      const code = await page.locator("#code").textContent();
      assert.ok(code.split("\n").length <= (door === "ticket" ? 4 : 3), code);
      const other = await tab(outside.url, { expects: /^(?!.*Error)/ });
      // What it prints is what it has heard.
      other.heard = [];
      other.on("console", (message) => other.heard.push(message.text()));
      await other.evaluate(`(async () => { ${code}\nwindow.ws = ws; })()`);
      pages.push([door, other]);
      await page.getByRole("button", { name: "Disconnect" }).click();
    }
    const hear = (text) =>
      Promise.all(
        pages.map(async ([door, other]) => {
          if (!other.heard.some((line) => line.includes(text))) {
            await other.waitForEvent("console", { predicate: (message) => message.text().includes(text) });
          }
          assert.equal(await other.evaluate("ws.readyState"), 1, door);
        }),
      );
    await Promise.all(pages.map(([, other]) => other.waitForFunction("ws.readyState === 1")));
    // Each of these has lived through an interval and a timeout: so have the pages.
    for (let times = 0; times < 2; times += 1) assert.match(await deaf(hub), /3012|no pong/);
    await publish(hub, "news", "still here");
    await hear("still here");
    for (const [, other] of pages) await other.context().close();
    fine(page);
    outside.close();
  }));

test("the curl line of a publish does what it says", () =>
  withHub({}, async (hub) => {
    const { execFileSync } = await import("node:child_process");
    const page = await newcomer(hub);
    await logIn(page);
    await connect(page);
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
    fine(page);
  }));
