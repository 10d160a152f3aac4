// A newcomer on the demo page.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, fine, hears, logIn, newcomer, paste, publish, subscribed, tab, told, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** A refused request shows in the console as an error; there it is expected. */
const REFUSED = /status of 4\d\d|WebSocket connection to .* failed/;
const DOORS = ["message", "subprotocol", "ticket", "query", "connect"];

test("three clicks after the terminal's address there is a message, and nothing was refused", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    assert.equal(new URL(page.url()).hash, "", "the password stays in the address bar");
    assert.equal(await page.evaluate(() => document.activeElement.id), "login");
    await page.getByRole("button", { name: "Log in", exact: true }).click();
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await page.getByRole("button", { name: "Publish hello" }).click();
    await hears(page, '{"text":"hello"}');
    await publish(hub, "news", { from: "the backend" });
    await hears(page, '{"from":"the backend"}');
    fine(page);
  }));

test("the token gets in through every door that a browser has, and every cookie stays where it is", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    for (const door of DOORS) {
      await connect(page, door);
      await publish(hub, "news", { through: door });
      await hears(page, `{"through":"${door}"}`);
      assert.match(await page.locator("#connect-summary").textContent(), /token sent by/);
      await page.getByRole("button", { name: "Disconnect" }).click();
      assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    }
    assert.deepEqual(await page.context().cookies(), []);
    for (const off of ["cookie", "header"]) assert.ok(await page.locator(`input[value=${off}][name=way]`).isDisabled(), off);
    fine(page);
  }));

test("a closed door is shown with why, and another is taken", () =>
  withHub({ settings: { "auth.doors": '["query"]' } }, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    await page.locator("#ways-more summary").click();
    const ticket = page.locator("label.choice", { has: page.locator("input[value=ticket]") });
    assert.match(await ticket.textContent(), /Disabled on this hub/);
    await connect(page);
    assert.equal(await page.locator("#connect-summary").textContent(), "token sent by query string");
    fine(page);
  }));

test("a reload keeps the token or loses it, as was chosen, and a log out forgets it everywhere", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    for (const [keep, survives] of [["memory", false], ["session", true], ["local", true], ["cookie", true]]) {
      if (keep !== "memory") await page.getByLabel("Password").first().fill("right horse");
      await page.getByLabel("User").fill("demo");
      if (!(await page.locator("#storages").isVisible())) await page.locator("#step-identity summary").click();
      await page.locator(`input[name=storage][value=${keep}]`).check();
      await logIn(page);
      const stored = await page.evaluate(() => [sessionStorage, localStorage].map((store) => store.getItem("wardcast.token")?.split(".").length ?? 0));
      assert.deepEqual(stored, [keep === "session" ? 3 : 0, keep === "local" ? 3 : 0], keep);
      const cookies = await page.context().cookies();
      assert.equal(cookies.length, keep === "cookie" ? 1 : 0, keep);
      if (keep === "cookie") assert.ok(cookies[0].httpOnly && cookies[0].secure && cookies[0].sameSite === "Strict");
      await page.reload();
      await page.locator("#version", { hasText: "v" }).waitFor();
      assert.equal(await page.getByRole("button", { name: "Log out" }).isVisible(), survives, keep);
      if (!survives) continue;
      await connect(page);
      await publish(hub, "news", { kept: keep });
      await hears(page, `{"kept":"${keep}"}`);
      await Promise.all([page.waitForResponse(/auth\/logout/), page.getByRole("button", { name: "Log out" }).click()]);
      assert.deepEqual(await page.context().cookies(), [], keep);
      const left = await page.evaluate(() => [...Object.keys(sessionStorage), ...Object.keys(localStorage)]);
      assert.deepEqual(left, ["wardcast.choices"], keep);
    }
    fine(page);
  }));

test("with the cookie no script ever holds the token, and a refresh brings a new one by a new connection", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    const [answer] = await Promise.all([page.waitForResponse(/auth\/login/), logIn(page, "cookie")]);
    assert.deepEqual(Object.keys(await answer.json()).sort(), ["expires_in", "token_type"]);
    await connect(page);
    assert.equal(await page.locator("#connect-summary").textContent(), "token sent by cookie");
    assert.ok(await page.locator("input[value=rest]").isDisabled());
    await page.getByRole("button", { name: "Refresh the token" }).click();
    await told(page, "The cookie was renewed");
    await subscribed(page).nth(1).waitFor({ state: "attached" });
    await publish(hub, "news", "after the refresh");
    await hears(page, "after the refresh");
    fine(page);
  }));

test("a refresh gives the session more time over the open socket, by password or by a pasted token", () =>
  withHub({}, async (hub) => {
    for (const door of ["message", "connect"]) {
      const page = await tab(`http://${hub.address}/`);
      await paste(page, hub.sign({ sub: "demo" }, { ttl: 60 }));
      await connect(page, door);
      assert.match(await page.locator("#expiry-time").textContent(), /^(1:00|0:5\d)$/);
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await page.getByLabel("Newer token").fill(hub.sign({ sub: "demo" }, { ttl: 7200 }));
      await page.getByRole("dialog").getByRole("button", { name: "Refresh" }).click();
      await told(page, "The session has a new token");
      assert.match(await page.locator("#expiry-time").textContent(), /^(1 h 59|2 h 00) min$/);
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await page.getByLabel("Password of demo").fill("right horse");
      await page.getByRole("dialog").getByRole("button", { name: "Refresh" }).click();
      await page.locator("#expiry-time", { hasText: /^1[45]:/ }).waitFor();
      // A plain session is greeted again, an SDK session gets its reply.
      const [what, times] = door === "message" ? ["connected", 3] : ["refresh done", 2];
      await page.locator("#log .label", { hasText: what }).nth(times - 1).waitFor();
      assert.equal(await page.locator("#log .out .label", { hasText: /^(token|connect)$/ }).count(), door === "message" ? 3 : 1);
      fine(page);
      await page.context().close();
    }
  }));

test("no token and no password is shown unless it is asked for", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page, "session");
    const token = await page.evaluate(() => sessionStorage.getItem("wardcast.token"));
    for (const door of DOORS) {
      await connect(page, door);
      await page.getByRole("button", { name: "Disconnect" }).click();
    }
    await page.getByLabel("Raw").check();
    const text = await page.evaluate(() => document.body.textContent);
    assert.ok(!text.includes(token) && !text.includes("right horse"));
    await page.getByLabel("Show my token").check();
    assert.ok((await page.locator("#code").textContent()).includes(token));
    fine(page);
  }));

test("what others publish is text, however it looks", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    await connect(page);
    await page.getByLabel("Raw").check();
    const hostile = ['<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", "</code><svg onload=window.hit=1>", "\u202e\u0000 ${1} `", { constructor: 1, __proto__: null }, "x".repeat(60_000)];
    for (const data of hostile) await publish(hub, "news", data);
    await publish(hub, "news", "the last");
    await hears(page, "the last");
    const found = await page.evaluate(() => [window.hit, document.querySelectorAll("#log img, #log svg, #log script").length]);
    assert.deepEqual(found, [undefined, 0]);
    assert.ok((await page.locator("#log").textContent()).includes('onerror="window.hit=1"') || (await page.locator("#log").textContent()).includes('onerror=\\"window.hit=1\\"'));
    fine(page);
  }));

test("the log keeps its last lines, waits while it is paused, and can be filtered and cleared", () =>
  withHub({ settings: { "limits.publications_per_second": "0" } }, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    await connect(page);
    for (let at = 0; at < 520; at += 1) await publish(hub, "news", { at });
    await hears(page, '{"at":519}');
    assert.equal(await page.locator("#log li").count(), 500);
    await page.getByRole("button", { name: "Pause" }).click();
    await publish(hub, "news", "meanwhile");
    await page.locator("#log-count", { hasText: "1 waiting" }).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await hears(page, "meanwhile");
    await page.getByLabel("Filter the log").fill("meanwhile");
    assert.equal(await page.locator("#log li:visible").count(), 1);
    await page.getByRole("button", { name: "Clear" }).click();
    assert.equal(await page.locator("#log li").count(), 0);
    fine(page);
  }));

test("a session subscribes, publishes over socket and REST, and is told what it may not", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub, { expects: REFUSED });
    await logIn(page);
    await connect(page);
    await page.getByLabel("Channel to subscribe to").fill("chat room");
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: "Unsubscribe from chat room" }).waitFor();
    await page.getByLabel("Channel", { exact: true }).fill("chat room");
    await page.getByLabel(/^Data/).fill("not JSON, and <b>fine</b>");
    await page.getByLabel("REST", { exact: true }).check();
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await hears(page, '"not JSON, and <b>fine</b>"');
    await page.getByRole("button", { name: "Unsubscribe from chat room" }).click();
    await page.locator("#log .label", { hasText: "unsubscribe done" }).waitFor();
    for (const [channel, title] of [["nowhere:1", "No namespace"], ["a*", "cannot read the request"]]) {
      await page.getByLabel("Channel to subscribe to").fill(channel);
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await told(page, title);
    }
    fine(page);
  }));
