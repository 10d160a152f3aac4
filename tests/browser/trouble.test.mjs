// What goes wrong on the demo page, and what it says to do next.

import assert from "node:assert/strict";
import { test } from "node:test";
import { again, connect, connected, eventually, fine, hears, logIn, newcomer, paste, publish, subscribed, tab, told, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** A refused request shows in the console as an error; there it is expected. */
const REFUSED = /status of [45]\d\d|WebSocket connection to .* failed|ERR_(CONNECTION_REFUSED|INTERNET_DISCONNECTED|CONNECTION_RESET|NETWORK_CHANGED)/;

test("a wrong password and too many of them say what to do", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub, { expects: REFUSED });
    await page.getByLabel("Password").first().fill("wrong horse");
    const button = page.getByRole("button", { name: "Log in", exact: true });
    await button.click();
    await told(page, "Wrong user or password");
    for (let tries = 0; tries < 5; tries += 1) await Promise.all([page.waitForResponse(/auth\/login/), button.click()]);
    await told(page, "Too many failed logins");
    assert.match(await page.locator("#notice-text").textContent(), /Wait \d+ seconds?, then try again/);
    fine(page);
  }));

test("an expired token says so, and one that is no token", () =>
  withHub({}, async (hub) => {
    const page = await tab(`http://${hub.address}/`);
    await paste(page, "not a token");
    await told(page, "That is not a token");
    await paste(page, hub.sign({ sub: "ann" }, { ttl: -60 }));
    await told(page, "The token has expired");
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await told(page, "The token has expired");
    await page.getByRole("button", { name: "Sign in again" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "pasted");
    fine(page);
  }));

test("a session ends with its token, and the page says why", () =>
  withHub({}, async (hub) => {
    const page = await tab(`http://${hub.address}/`);
    await paste(page, hub.sign({ sub: "ann" }, { ttl: 3 }));
    await connect(page);
    await told(page, "The token has expired");
    assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    assert.equal(await page.locator("#expiry-time").textContent(), "expired");
    fine(page);
  }));

test("a forged token is told from an expired one at every door, though a browser is told nothing of the handshake", () =>
  withHub({}, async (hub) => {
    for (const door of ["message", "subprotocol", "ticket", "query", "connect"]) {
      const page = await tab(`http://${hub.address}/`, { expects: REFUSED });
      await paste(page, hub.sign({ sub: "ann" }, { secret: "another secret than the one of the hub" }));
      await page.locator("#ways-more summary").click();
      await page.locator(`input[name=way][value=${door}]`).check();
      await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
      await told(page, "The hub does not accept this token");
      assert.match(await page.locator("#notice-text").textContent(), /Log in again with the password that its terminal prints now/);
      assert.equal(await page.locator("#state-text").textContent(), "Not connected");
      fine(page);
      await page.context().close();
    }
  }));

test("a hub that is restarted under the page has it back, with its subscriptions", () =>
  withHub({}, async (hub) => {
    for (const [door, signal] of [["message", "SIGTERM"], ["query", "SIGKILL"], ["connect", "SIGKILL"]]) {
      const page = await newcomer(hub, { expects: REFUSED });
      await logIn(page);
      await connect(page, door);
      await page.getByLabel("Channel to subscribe to").fill("sport");
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await page.getByRole("button", { name: "Unsubscribe from sport" }).waitFor();
      await hub.stop(signal);
      await told(page, "The hub does not answer");
      const next = await again(hub);
      await connected(page);
      await told(page, "Connected again, to another or restarted hub");
      // Asked for until the hub has them: `ready` is before the subscriptions.
      await subscribed(page).nth(3).waitFor({ state: "attached" });
      await publish(next, "sport", { after: signal });
      await hears(page, `{"after":"${signal}"}`);
      fine(page);
      await page.context().close();
      Object.assign(hub, next);
    }
  }));

test("a restart with other secrets asks for a login, and keeps the subscriptions", () =>
  withHub({}, async (hub) => {
    for (const door of ["message", "subprotocol"]) {
      const page = await newcomer(hub, { expects: REFUSED });
      await logIn(page);
      await connect(page, door);
      await page.getByLabel("Channel to subscribe to").fill("sport");
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await page.getByRole("button", { name: "Unsubscribe from sport" }).waitFor();
      await hub.stop("SIGKILL");
      const next = await again(hub, { secret: `a secret of the next run, for the door ${door}` });
      await told(page, "The hub does not accept this token");
      await page.getByRole("button", { name: "Sign in again" }).click();
      await logIn(page);
      await connect(page);
      await subscribed(page).nth(3).waitFor({ state: "attached" });
      await publish(next, "sport", "kept");
      await hears(page, "kept");
      fine(page);
      await page.context().close();
      Object.assign(hub, next);
    }
  }));

test("the address of a new run, opened in the same tab, logs in anew, and a stranger's link does nothing by itself", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page, "session");
    await connect(page);
    await page.evaluate(() => (location.hash = "#login=mallory:of%20mallory"));
    await told(page, "mallory");
    assert.equal(new URL(page.url()).hash, "");
    await connected(page);
    await publish(hub, "news", "still here");
    await hears(page, "still here");
    await page.evaluate(() => (location.hash = "#login=demo:right%20horse"));
    await told(page, "demo");
    await page.getByRole("button", { name: "Log out and use it" }).click();
    await page.getByText("Filled in from this page's address").waitFor();
    assert.equal(new URL(page.url()).hash, "");
    await logIn(page);
    fine(page);
  }));

test("a stale cookie of another run does not lock out what comes through another door", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub, { expects: REFUSED });
    const value = hub.sign({ sub: "demo" }, { secret: "another secret than the one of the hub" });
    const stale = { name: "wardcast_token", value, url: `http://${hub.address}/`, httpOnly: true, sameSite: "Strict" };
    await logIn(page);
    await page.context().addCookies([stale]);
    await connect(page);
    assert.deepEqual(await page.context().cookies(), []);
    fine(page);
  }));

test("an order of the server API is told, and the page stays away until it is asked", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub);
    await logIn(page);
    await connect(page);
    const order = (method, body) =>
      fetch(`http://${hub.address}/api/${method}`, { method: "POST", headers: { "x-api-key": hub.key }, body: JSON.stringify(body) });
    await order("unsubscribe", { user: "demo", channel: "news" });
    await told(page, "The hub ended the subscription");
    await order("disconnect", { user: "demo" });
    await told(page, "The hub ended the session");
    assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    await page.locator("#notice-action").click();
    await connected(page);
    fine(page);
  }));

test("offline is told from a hub that is gone, and ends by itself", () =>
  withHub({}, async (hub) => {
    const page = await newcomer(hub, { expects: REFUSED });
    await logIn(page);
    await connect(page);
    await page.context().setOffline(true);
    await told(page, "This computer is offline");
    await page.context().setOffline(false);
    await hub.stop("SIGKILL");
    await told(page, "The hub does not answer");
    const next = await again(hub);
    await connected(page);
    Object.assign(hub, next);
    fine(page);
  }));

test("a clock that is wrong is said, and times go by the hub's", () =>
  withHub({}, async (hub) => {
    for (const [wrong, said] of [[-3600_000, /(0 h 59|1 h 00|59:\d\d) ?(min)? behind/], [7200_000, /(1 h 59|2 h 00) min ahead/]]) {
      const page = await tab("about:blank");
      await page.clock.setFixedTime(Date.now() + wrong);
      await page.goto(`http://${hub.address}/#login=demo:right%20horse`);
      page.problems.length = 0;
      await told(page, "The clocks differ");
      assert.match(await page.locator("#notice-text").textContent(), said);
      await logIn(page);
      await connect(page);
      assert.match(await page.locator("#expiry-time").textContent(), /^1[45]:\d\d$/);
      fine(page);
      await page.context().close();
    }
  }));

test("a hub without a login asks for a token, and a page that opens before the hub waits for it", () =>
  // Tokens of a login would have no jti: so there is none.
  withHub({ users: null, settings: { "auth.required_claims": "exp,jti" } }, async (hub) => {
    const page = await tab(`http://${hub.address}/`, { expects: REFUSED });
    await page.getByText("This hub has no login").waitFor();
    await page.route(/hub\.json/, (route) => route.abort("connectionrefused"));
    await page.reload();
    await told(page, "The hub does not answer");
    await page.unroute(/hub\.json/);
    await page.locator("#version", { hasText: "v" }).waitFor();
    await eventually("the notice goes", async () => !(await page.locator("#notice").isVisible()));
    fine(page);
  }));
