// Errors on the demo page, and the advice that it shows for each.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { startHub } from "../support/hub.mjs";
import { restartHub, connect, factsOf, subscribe, waitUntilConnected, waitUntil, assertNoProblems, waitForPublication, logIn, openConnectedPage, openDemoPage, paste, publish, subscribeReplies, openTab, waitForNotice, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** The console shows refused requests as errors; tests that expect them allow this pattern. */
const REFUSED = /status of [45]\d\d|WebSocket connection to .* failed|ERR_(CONNECTION_REFUSED|INTERNET_DISCONNECTED|CONNECTION_RESET|NETWORK_CHANGED)/;

test("a wrong password and too many failed logins show advice", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub, { expects: REFUSED });
    await page.getByLabel("Password").first().fill("wrong horse");
    const button = page.getByRole("button", { name: "Log in", exact: true });
    await button.click();
    await waitForNotice(page, "Wrong user or password");
    for (let tries = 0; tries < 5; tries += 1) await Promise.all([page.waitForResponse(/auth\/login/), button.click()]);
    await waitForNotice(page, "Too many failed logins");
    assert.match(await page.locator("#notice-text").textContent(), /Wait \d+ seconds?, then try again/);
    assertNoProblems(page);
  }));

test("pasting an expired token or a text that is not a token shows an error", () =>
  withHub({}, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    await paste(page, "not a token");
    await waitForNotice(page, "That is not a token");
    await paste(page, hub.sign({ sub: "ann" }, { ttl: -60 }));
    await waitForNotice(page, "The token has expired");
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await waitForNotice(page, "The token has expired");
    await page.getByRole("button", { name: "Sign in again" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "pasted");
    assertNoProblems(page);
  }));

test("a token of the future is explained as such in every way to send it, although its code is that of an expired or invalid one", () =>
  withHub({}, async (hub) => {
    for (const way of ["message", "ticket", "query", "connect"]) {
      const page = await openTab(`http://${hub.address}/`, { expects: REFUSED });
      await paste(page, hub.sign({ sub: "ann", nbf: Math.floor(Date.now() / 1000) + 600 }));
      await page.locator("#ways-more summary").click();
      await page.locator(`input[name=way][value=${way}]`).check();
      await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
      await waitForNotice(page, "The token is not valid yet");
      assert.equal(await page.locator("#state-text").textContent(), "Not connected");
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("a refresh with an expired token or one of another user is refused by the page, and the session goes on", () =>
  withHub({}, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    await paste(page, hub.sign({ sub: "ann" }));
    await connect(page);
    for (const [token, text] of [
      [hub.sign({ sub: "ann" }, { ttl: -5 }), "That token has expired"],
      [hub.sign({ sub: "bob" }), "That token belongs to another user"],
    ]) {
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await page.getByLabel("Newer token").fill(token);
      await page.getByRole("dialog").getByRole("button", { name: "Refresh" }).click();
      await page.locator("#notice-text", { hasText: text }).waitFor();
    }
    await publish(hub, "news", "still here");
    await waitForPublication(page, "still here");
    assertNoProblems(page);
  }));

test("a session ends when its token expires, and the page says why", () =>
  withHub({}, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    await paste(page, hub.sign({ sub: "ann" }, { ttl: 3 }));
    await connect(page);
    await waitForNotice(page, "The token has expired");
    assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    assert.equal(await page.locator("#expiry-time").textContent(), "expired");
    assertNoProblems(page);
  }));

test("the page recognises a forged token in every way to send it, although browsers hide handshake errors", () =>
  withHub({}, async (hub) => {
    for (const way of ["message", "subprotocol", "ticket", "query", "connect"]) {
      const page = await openTab(`http://${hub.address}/`, { expects: REFUSED });
      await paste(page, hub.sign({ sub: "ann" }, { secret: "another secret than the one of the hub" }));
      await page.locator("#ways-more summary").click();
      await page.locator(`input[name=way][value=${way}]`).check();
      await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
      await waitForNotice(page, "The hub does not accept this token");
      assert.match(await page.locator("#notice-text").textContent(), /Log in again with the password that its terminal prints now/);
      assert.equal(await page.locator("#state-text").textContent(), "Not connected");
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("the page reconnects to a restarted hub with its subscriptions", () =>
  withHub({}, async (hub) => {
    for (const [way, signal] of [["message", "SIGTERM"], ["query", "SIGKILL"], ["connect", "SIGKILL"]]) {
      const page = await openDemoPage(hub, { expects: REFUSED });
      await logIn(page);
      await connect(page, way);
      await page.getByLabel("Channel to subscribe to").fill("sport");
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await page.getByRole("button", { name: "Unsubscribe from sport" }).waitFor();
      await hub.stop(signal);
      await waitForNotice(page, "The hub does not answer");
      const next = await restartHub(hub);
      await waitUntilConnected(page);
      await waitForNotice(page, "Connected again, to another or restarted hub");
      // The session is ready before its subscriptions are.
      await subscribeReplies(page).nth(3).waitFor({ state: "attached" });
      await publish(next, "sport", { after: signal });
      await waitForPublication(page, `{"after":"${signal}"}`);
      assertNoProblems(page);
      await page.context().close();
      Object.assign(hub, next);
    }
  }));

test("a restart with other secrets requires a login and keeps the subscriptions", () =>
  withHub({}, async (hub) => {
    for (const way of ["message", "subprotocol"]) {
      const page = await openDemoPage(hub, { expects: REFUSED });
      await logIn(page);
      await connect(page, way);
      await page.getByLabel("Channel to subscribe to").fill("sport");
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await page.getByRole("button", { name: "Unsubscribe from sport" }).waitFor();
      await hub.stop("SIGKILL");
      const next = await restartHub(hub, { secret: `a secret of the next run, for ${way}` });
      await waitForNotice(page, "Your login has ended");
      await logIn(page);
      await connect(page);
      await subscribeReplies(page).nth(3).waitFor({ state: "attached" });
      await publish(next, "sport", "kept");
      await waitForPublication(page, "kept");
      assertNoProblems(page);
      await page.context().close();
      Object.assign(hub, next);
    }
  }));

test("a login in the address of an open page replaces the session only after a click", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page, "session");
    await connect(page);
    await page.evaluate(() => (location.hash = "#login=mallory:of%20mallory"));
    await waitForNotice(page, "mallory");
    assert.equal(new URL(page.url()).hash, "");
    await waitUntilConnected(page);
    await publish(hub, "news", "still here");
    await waitForPublication(page, "still here");
    await page.evaluate(() => (location.hash = "#login=demo:right%20horse"));
    await waitForNotice(page, "demo");
    await page.getByRole("button", { name: "Log out and use it" }).click();
    await page.getByText("Filled in from this page's address").waitFor();
    assert.equal(new URL(page.url()).hash, "");
    await logIn(page);
    assertNoProblems(page);
  }));

test("a stale cookie of another run does not prevent a connection with another way to send the token", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub, { expects: REFUSED });
    const value = hub.sign({ sub: "demo" }, { secret: "another secret than the one of the hub" });
    const stale = { name: "wardcast_token", value, url: `http://${hub.address}/`, httpOnly: true, sameSite: "Strict" };
    await logIn(page);
    await page.context().addCookies([stale]);
    await connect(page);
    assert.deepEqual(await page.context().cookies(), []);
    assertNoProblems(page);
  }));

test("unsubscribe and disconnect by the server API are shown, and the page reconnects only on request", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    const callApi = (method, body) =>
      fetch(`http://${hub.address}/api/${method}`, { method: "POST", headers: { "x-api-key": hub.key }, body: JSON.stringify(body) });
    await callApi("unsubscribe", { user: "demo", channel: "news" });
    await waitForNotice(page, "The hub ended the subscription");
    await callApi("disconnect", { user: "demo" });
    await waitForNotice(page, "The hub ended the session");
    assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    await page.locator("#notice-action").click();
    await waitUntilConnected(page);
    assertNoProblems(page);
  }));

test("the page distinguishes offline from a stopped hub and reconnects automatically", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub, { expects: REFUSED });
    await page.context().setOffline(true);
    await waitForNotice(page, "This computer is offline");
    await page.context().setOffline(false);
    await hub.stop("SIGKILL");
    await waitForNotice(page, "The hub does not answer");
    const next = await restartHub(hub);
    await waitUntilConnected(page);
    Object.assign(hub, next);
    assertNoProblems(page);
  }));

test("a wrong clock is reported, and times follow the hub's clock", () =>
  withHub({}, async (hub) => {
    for (const [offset, message] of [[-3600_000, /(0 h 59|1 h 00|59:\d\d) ?(min)? behind/], [7200_000, /(1 h 59|2 h 00) min ahead/]]) {
      const page = await openTab("about:blank");
      await page.clock.setFixedTime(Date.now() + offset);
      await page.goto(`http://${hub.address}/#login=demo:right%20horse`);
      page.problems.length = 0;
      await waitForNotice(page, "The clocks differ");
      assert.match(await page.locator("#notice-text").textContent(), message);
      await logIn(page);
      await connect(page);
      assert.match(await page.locator("#expiry-time").textContent(), /^1[45]:\d\d$/);
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("without a login the page asks for a token, and it waits for a hub that is not reachable yet", () =>
  // Login tokens have no nbf, which this hub requires, so it must have no login.
  withHub({ users: null, settings: { "auth.required_claims": "exp,nbf" } }, async (hub) => {
    const page = await openTab(`http://${hub.address}/`, { expects: REFUSED });
    await page.getByText("This hub has no login").waitFor();
    await page.route(/hub\.json/, (route) => route.abort("connectionrefused"));
    await page.reload();
    await waitForNotice(page, "The hub does not answer");
    await page.unroute(/hub\.json/);
    await page.locator("#version", { hasText: "v" }).waitFor();
    await waitUntil("the notice disappears", async () => !(await page.locator("#notice").isVisible()));
    assertNoProblems(page);
  }));

test("a publication that is too large is explained with 1009, its size and the limits, also after the reconnect", () =>
  withHub({ settings: { "limits.publication_bytes": 50_000 } }, async (hub) => {
    const page = await openConnectedPage(hub);
    await page.getByLabel(/^Data/).fill("x".repeat(70_000));
    assert.match(await page.locator("#data-kind").textContent(), /70002 bytes: the hub accepts 50000/);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await waitForNotice(page, "The message was too large (1009)");
    const text = await page.locator("#notice-text").textContent();
    for (const part of [/It had 70,0\d\d bytes/, /65,536 bytes \(limits\.message_bytes\)/, /50,000 bytes \(limits\.publication_bytes\)/]) assert.match(text, part);
    await page.locator("#log .label", { hasText: "Connected again" }).waitFor();
    await waitUntilConnected(page);
    await waitForNotice(page, "The message was too large (1009)");
    // Below the limit of messages, the hub answers with an error that names the other limit.
    await page.getByLabel(/^Data/).fill("x".repeat(60_000));
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await waitForNotice(page, "A limit of the hub is reached");
    assert.match(await page.locator("#notice-text").textContent(), /limits\.publication_bytes = 50000/);
    assertNoProblems(page);
  }));

test("the advice for a refused channel depends on its name", () =>
  withHub({ settings: { "channels.allow_subscribe": "none" }, config: '[[namespaces]]\nname = "chat"\n' }, async (hub) => {
    const page = await openDemoPage(hub, { expects: REFUSED });
    await logIn(page);
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await waitForNotice(page, "No permission for “news”");
    for (const [channel, title, text] of [
      ["news", "No permission", "see allow_subscribe of [channels]. To try it, start the hub with --set channels.allow_subscribe=user."],
      ["chat:1", "No permission", "see allow_subscribe of the namespace “chat”. To try it, set allow_subscribe = \"user\" in the namespace “chat”."],
      ["$plans", "needs a subscription token", "wardcast token --user demo --subscription '$plans'"],
      ["$it's", "needs a subscription token", "--subscription '$it'\\''s'"],
      ["dialog#ann,bob", "is limited to its users", "logged in as “demo”. Log in as one of them, or open one of your own: dialog#demo."],
      ["$dialog#demo", "needs a subscription token", "--subscription '$dialog#demo'"],
    ]) {
      await page.getByLabel("Channel to subscribe to").fill(channel);
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await page.locator("#notice-title", { hasText: `“${channel}”` }).filter({ hasText: title }).waitFor();
      assert.ok((await page.locator("#notice-text").textContent()).includes(text), `${channel}: ${await page.locator("#notice-text").textContent()}`);
    }
    await page.getByRole("button", { name: "Enter a token" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "subscription-token");
    await page.getByLabel("REST", { exact: true }).check();
    await page.getByLabel("Channel", { exact: true }).fill("$plans");
    await page.getByRole("button", { name: "Publish hello" }).click();
    await waitForNotice(page, "No permission for “$plans”");
    assert.match(await page.locator("#notice-text").textContent(), /open only to its subscribers/);
    await page.getByLabel("Channel", { exact: true }).fill("dialog#ann");
    await page.getByRole("button", { name: "Publish hello" }).click();
    await waitForNotice(page, "“dialog#ann” is limited to its users");
    assertNoProblems(page);
  }));

test("where the hub prefixes users, the advice says so, and the page does not compare the users of tokens", () =>
  withHub({ users: null, settings: { "auth.user_prefix": "idp:" } }, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    await paste(page, hub.sign({ sub: "ann" }));
    await connect(page);
    await page.getByLabel("Channel to subscribe to").fill("dialog#ann");
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await waitForNotice(page, "“dialog#ann” is limited to its users");
    assert.match(await page.locator("#notice-text").textContent(), /behind the user_prefix of its key/);
    await subscribe(page, "dialog#idp:ann");
    assertNoProblems(page);
  }));

test("a subscription token of another channel or user, or a connection token in its place, is recognised before it is sent", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    await page.getByLabel("Channel to subscribe to").fill("$plans");
    for (const [token, title] of [
      ["nonsense", "That is not a token"],
      [hub.sign({ sub: "demo" }), "That is not a subscription token"],
      [hub.sign({ sub: "demo", channel: "$other" }), "That subscription token is for another channel"],
      [hub.sign({ sub: "ann", channel: "$plans" }), "That subscription token is for another user"],
      [hub.sign({ sub: "demo", channel: "$plans" }, { secret: "another secret than the one of the hub" }), "does not accept the subscription token"],
      [hub.sign({ sub: "demo", channel: "$plans" }, { ttl: -5 }), "The subscription token for “$plans” has expired"],
    ]) {
      await page.getByLabel("Subscription token").fill(token);
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await waitForNotice(page, title);
    }
    assert.equal(await page.locator("#state").getAttribute("data-state"), "ready", "the session has ended");
    assertNoProblems(page);
  }));

test("a subscription whose token expires ends with advice, and a newer token continues it", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    await page.getByLabel("Channel to subscribe to").fill("$plans");
    await page.getByLabel("Subscription token").fill(hub.sign({ sub: "demo", channel: "$plans" }, { ttl: 2 }));
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: "Unsubscribe from $plans" }).waitFor();
    await waitForNotice(page, "The subscription token for “$plans” has expired");
    await page.getByRole("button", { name: "Enter a token" }).click();
    assert.equal(await page.getByLabel("Channel to subscribe to").inputValue(), "$plans");
    await page.getByLabel("Subscription token").fill(hub.sign({ sub: "demo", channel: "$plans" }));
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: "Unsubscribe from $plans" }).waitFor();
    await publish(hub, "$plans", "continued");
    await waitForPublication(page, "continued");
    assertNoProblems(page);
  }));

test("history and presence that are off are explained with the options that switch them on", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    assert.equal(await factsOf(page, "news").textContent(), "0 messages");
    for (const [name, flags] of [
      ["History", "--set channels.history_size=100 --set channels.allow_history=subscriber"],
      ["Presence", "--set channels.presence=true --set channels.allow_presence=subscriber"],
    ]) {
      await page.getByRole("button", { name: `${name} of news` }).click();
      await waitForNotice(page, `${name} is not enabled for “news”`);
      assert.equal(await page.locator("#notice-text code").textContent(), flags);
    }
    assertNoProblems(page);
  }));

test("a page stays logged in over a restart of a development hub, which keeps its secrets", async () => {
  const home = mkdtempSync(join(tmpdir(), "wardcast-home-"));
  const options = { secret: null, env: { HOME: home } };
  const binary = process.env.WARDCAST_BINARY;
  let hub = await startHub(binary, options);
  try {
    const page = await openTab(`http://${hub.address}/#login=demo:${hub.password}`, { expects: REFUSED });
    await page.locator("#version", { hasText: "v" }).waitFor();
    await logIn(page, "session");
    await connect(page);
    await hub.stop("SIGKILL");
    hub = await startHub(binary, { ...options, settings: { "server.bind": hub.address } });
    await waitForNotice(page, "Connected again, to another or restarted hub");
    await subscribeReplies(page).nth(1).waitFor({ state: "attached" });
    await publish(hub, "news", "after the restart");
    await waitForPublication(page, "after the restart");
    assertNoProblems(page);
  } finally {
    await hub.stop();
    rmSync(home, { recursive: true, force: true });
  }
});
