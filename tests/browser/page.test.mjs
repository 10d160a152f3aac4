// The first steps of a new user on the demo page: login, connect, publish, subscribe, refresh.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EVERYTHING, connect, assertNoProblems, factsOf, waitForPublication, logIn, openConnectedPage, openDemoPage, paste, publish, subscribe, subscribeReplies, openTab, waitForNotice, waitUntilConnected, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** The console shows refused requests as errors; tests that expect them allow this pattern. */
const REFUSED = /status of 4\d\d|WebSocket connection to .* failed/;
const WAYS = ["message", "subprotocol", "ticket", "query", "connect"];

test("three clicks on the page opened from the terminal's address publish and receive a message without errors", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    assert.equal(new URL(page.url()).hash, "", "the password is still in the address bar");
    assert.equal(await page.evaluate(() => document.activeElement.id), "login");
    await page.getByRole("button", { name: "Log in", exact: true }).click();
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await page.getByRole("button", { name: "Publish hello" }).click();
    await waitForPublication(page, '{"text":"hello"}');
    await publish(hub, "news", { from: "the backend" });
    await waitForPublication(page, '{"from":"the backend"}');
    assertNoProblems(page);
  }));

test("the page connects in every way to send a token that a browser supports and sets no cookie", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page);
    for (const way of WAYS) {
      await connect(page, way);
      await publish(hub, "news", { way });
      await waitForPublication(page, `{"way":"${way}"}`);
      assert.match(await page.locator("#connect-summary").textContent(), /token sent by/);
      await page.getByRole("button", { name: "Disconnect" }).click();
      assert.equal(await page.locator("#state-text").textContent(), "Not connected");
    }
    assert.deepEqual(await page.context().cookies(), []);
    for (const way of ["cookie", "header"]) assert.ok(await page.locator(`input[value=${way}][name=way]`).isDisabled(), way);
    assertNoProblems(page);
  }));

test("the page below a path prefix logs in, connects, publishes and keeps its cookies to the prefix", () =>
  withHub({ settings: { "server.path_prefix": "/realtime" } }, async (hub) => {
    hub.prefix = "/realtime";
    const page = await openDemoPage(hub);
    await page.locator("#step-identity summary").click();
    await page.locator("input[name=storage][value=cookie]").check();
    await logIn(page);
    const cookies = await page.context().cookies();
    assert.deepEqual(cookies.map(({ name, path }) => [name, path]).sort(), [["wardcast_token", "/realtime"], ["wardcast_token_refresh", "/realtime/auth"]]);
    await connect(page);
    await subscribe(page, "news");
    await publish(hub, "news", { from: "the backend" });
    await waitForPublication(page, '{"from":"the backend"}');
    await page.reload();
    await page.getByRole("button", { name: "Log out" }).waitFor();
    // The browser follows the prefix without its slash to the page.
    await page.goto(`http://${hub.address}/realtime`);
    await page.locator("#version", { hasText: "v" }).waitFor();
    assert.equal(new URL(page.url()).pathname, "/realtime/");
    assertNoProblems(page);
  }));

test("a disabled way to send the token shows the reason, and the page uses another one", () =>
  withHub({ settings: { "auth.doors": '["query"]' } }, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page);
    await page.locator("#ways-more summary").click();
    const ticket = page.locator("label.choice", { has: page.locator("input[value=ticket]") });
    assert.match(await ticket.textContent(), /Disabled on this hub/);
    await connect(page);
    assert.equal(await page.locator("#connect-summary").textContent(), "token sent by query string");
    assertNoProblems(page);
  }));

test("a reload keeps or loses the token depending on its storage, and logout removes it everywhere", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    for (const [storage, survives] of [["memory", false], ["session", true], ["local", true], ["cookie", true]]) {
      if (storage !== "memory") await page.getByLabel("Password").first().fill("right horse");
      await page.getByLabel("User").fill("demo");
      if (!(await page.locator("#storages").isVisible())) await page.locator("#step-identity summary").click();
      await page.locator(`input[name=storage][value=${storage}]`).check();
      await logIn(page);
      const stored = await page.evaluate(() => [sessionStorage, localStorage].map((area) => area.getItem("wardcast.token")?.split(".").length ?? 0));
      assert.deepEqual(stored, [storage === "session" ? 3 : 0, storage === "local" ? 3 : 0], storage);
      const cookies = await page.context().cookies();
      const names = storage === "cookie" ? ["wardcast_token", "wardcast_token_refresh"] : [];
      assert.deepEqual(cookies.map(({ name }) => name).sort(), names, storage);
      assert.ok(cookies.every((cookie) => cookie.httpOnly && cookie.secure && cookie.sameSite === "Strict"));
      await page.reload();
      await page.locator("#version", { hasText: "v" }).waitFor();
      assert.equal(await page.getByRole("button", { name: "Log out" }).isVisible(), survives, storage);
      if (!survives) continue;
      await connect(page);
      await publish(hub, "news", { storage });
      await waitForPublication(page, `{"storage":"${storage}"}`);
      await Promise.all([page.waitForResponse(/auth\/logout/), page.getByRole("button", { name: "Log out" }).click()]);
      assert.deepEqual(await page.context().cookies(), [], storage);
      const keys = await page.evaluate(() => [...Object.keys(sessionStorage), ...Object.keys(localStorage)]);
      assert.deepEqual(keys, ["wardcast.choices"], storage);
    }
    assertNoProblems(page);
  }));

test("with the cookie no script gets the token, and a refresh reconnects with a new cookie", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    const [answer] = await Promise.all([page.waitForResponse(/auth\/login/), logIn(page, "cookie")]);
    assert.deepEqual(Object.keys(await answer.json()).sort(), ["expires_in", "token_type"]);
    await connect(page);
    assert.equal(await page.locator("#connect-summary").textContent(), "token sent by cookie");
    assert.ok(await page.locator("input[value=rest]").isDisabled());
    await page.getByRole("button", { name: "Refresh the token" }).click();
    await waitForNotice(page, "The cookie was renewed");
    await subscribeReplies(page).nth(1).waitFor({ state: "attached" });
    await publish(hub, "news", "after the refresh");
    await waitForPublication(page, "after the refresh");
    assertNoProblems(page);
  }));

test("a refresh by password or pasted token extends the session over the open socket", () =>
  withHub({}, async (hub) => {
    for (const way of ["message", "connect"]) {
      const page = await openTab(`http://${hub.address}/`);
      await paste(page, hub.sign({ sub: "demo" }, { ttl: 60 }));
      await connect(page, way);
      assert.match(await page.locator("#expiry-time").textContent(), /^(1:00|0:5\d)$/);
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await page.getByLabel("Newer token").fill(hub.sign({ sub: "demo" }, { ttl: 7200 }));
      await page.getByRole("dialog").getByRole("button", { name: "Refresh" }).click();
      await waitForNotice(page, "The session has a new token");
      assert.match(await page.locator("#expiry-time").textContent(), /^(1 h 59|2 h 00) min$/);
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await page.getByLabel("Password of demo").fill("right horse");
      await page.getByRole("dialog").getByRole("button", { name: "Refresh" }).click();
      await page.locator("#expiry-time", { hasText: /^1[45]:/ }).waitFor();
      // A plain session gets another connect push, an SDK session gets a reply.
      const [label, times] = way === "message" ? ["connected", 3] : ["refresh done", 2];
      await page.locator("#log .label", { hasText: label }).nth(times - 1).waitFor();
      assert.equal(await page.locator("#log .out .label", { hasText: /^(token|connect)$/ }).count(), way === "message" ? 3 : 1);
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("the page shows no token or password until the user asks for it", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page, "session");
    const token = await page.evaluate(() => sessionStorage.getItem("wardcast.token"));
    for (const way of WAYS) {
      await connect(page, way);
      await page.getByRole("button", { name: "Disconnect" }).click();
    }
    await page.getByLabel("Raw").check();
    const text = await page.evaluate(() => document.body.textContent);
    assert.ok(!text.includes(token) && !text.includes("right horse"));
    await page.getByLabel("Show my token").check();
    assert.ok((await page.locator("#code").textContent()).includes(token));
    assertNoProblems(page);
  }));

test("publications that look like markup are shown as text", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    await page.getByLabel("Raw").check();
    const hostile = ['<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", "</code><svg onload=window.hit=1>", "\u202e\u0000 ${1} `", { constructor: 1, __proto__: null }, "x".repeat(60_000)];
    for (const data of hostile) await publish(hub, "news", data);
    await publish(hub, "news", "the last");
    await waitForPublication(page, "the last");
    const found = await page.evaluate(() => [window.hit, document.querySelectorAll("#log img, #log svg, #log script").length]);
    assert.deepEqual(found, [undefined, 0]);
    assert.ok((await page.locator("#log").textContent()).includes('onerror="window.hit=1"') || (await page.locator("#log").textContent()).includes('onerror=\\"window.hit=1\\"'));
    assertNoProblems(page);
  }));

test("the log keeps the last 500 lines and can be paused, filtered and cleared", () =>
  withHub({ settings: { "limits.publications_per_second": "0" } }, async (hub) => {
    const page = await openConnectedPage(hub);
    for (let at = 0; at < 520; at += 1) await publish(hub, "news", { at });
    await waitForPublication(page, '{"at":519}');
    assert.equal(await page.locator("#log li").count(), 500);
    await page.getByRole("button", { name: "Pause" }).click();
    await publish(hub, "news", "meanwhile");
    await page.locator("#log-count", { hasText: "1 waiting" }).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await waitForPublication(page, "meanwhile");
    await page.getByLabel("Filter the log").fill("meanwhile");
    assert.equal(await page.locator("#log li:visible").count(), 1);
    await page.getByRole("button", { name: "Clear" }).click();
    assert.equal(await page.locator("#log li").count(), 0);
    assertNoProblems(page);
  }));

test("a user subscribes, publishes over socket and REST, and sees why a subscription failed", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub, { expects: REFUSED });
    await page.getByLabel("Channel to subscribe to").fill("chat room");
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: "Unsubscribe from chat room" }).waitFor();
    await page.getByLabel("Channel", { exact: true }).fill("chat room");
    await page.getByLabel(/^Data/).fill("not JSON, and <b>fine</b>");
    await page.getByLabel("REST", { exact: true }).check();
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await waitForPublication(page, '"not JSON, and <b>fine</b>"');
    await page.getByRole("button", { name: "Unsubscribe from chat room" }).click();
    await page.locator("#log li.in", { hasText: "unsubscribe done" }).locator(".channel", { hasText: "chat room" }).waitFor();
    for (const [channel, title] of [["nowhere:1", "No namespace"], ["a*", "cannot read the request"]]) {
      await page.getByLabel("Channel to subscribe to").fill(channel);
      await page.getByRole("button", { name: "Subscribe", exact: true }).click();
      await waitForNotice(page, title);
    }
    assertNoProblems(page);
  }));

test("numbers are published as they were typed, and shown as they were published", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openConnectedPage(hub);
    for (const [transport, text] of [["This socket", '{"id":12345678901234567890,"price":1.50}'], ["REST", '{"id":-98765432109876543210,"n":[0.1e1]}']]) {
      await page.getByLabel(transport, { exact: true }).check();
      await page.getByLabel(/^Data/).fill(text.replaceAll(",", ",\n"));
      await page.getByRole("button", { name: "Publish", exact: true }).click();
      await waitForPublication(page, text);
      // The code that the page shows sends the same.
      await page.locator("#code", { hasText: transport === "REST" ? `body: '${text}'` : `"data":${text}` }).waitFor();
    }
    await page.getByRole("button", { name: "History of news" }).click();
    const history = page.locator("#subscriptions .details li");
    await history.first().waitFor();
    assert.deepEqual(await history.allTextContents(), ['#2{"id":-98765432109876543210,"n":[0.1e1]}by demo', '#1{"id":12345678901234567890,"price":1.50}by demo']);
    assertNoProblems(page);
  }));

test("the page shows the history and the presence of a channel below its subscription, and hides them again", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page);
    await publish(hub, "news", "before the page");
    await connect(page);
    await page.getByRole("button", { name: "Publish hello" }).click();
    await waitForPublication(page, '{"text":"hello"}');
    await factsOf(page, "news").filter({ hasText: /^1 message · offset 2$/ }).waitFor();
    const [history, presence] = ["History of news", "Presence of news"].map((name) => page.getByRole("button", { name }));
    const details = page.locator("#subscriptions .details");
    await history.click();
    await details.getByText(/^Offset 2, epoch \S+: the newest 2$/).waitFor();
    assert.deepEqual(await details.locator("li").allTextContents(), ['#2{"text":"hello"}by demo', '#1"before the page"']);
    await presence.click();
    await details.getByText("1 client of 1 user").waitFor();
    assert.match(await details.locator("li").textContent(), /^demo[0-9a-f-]{36}this page$/);
    assert.deepEqual([await history.getAttribute("aria-expanded"), await presence.getAttribute("aria-expanded")], ["false", "true"]);
    await presence.click();
    assert.equal(await details.isVisible(), false);
    assertNoProblems(page);
  }));

test("a reconnect recovers what was missed, and the page says how much, in every way to send the token", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page);
    for (const way of ["message", "connect"]) {
      await connect(page, way);
      await page.getByRole("button", { name: "Disconnect" }).click();
      for (const at of [1, 2]) await publish(hub, "news", `missed ${at} ${way}`);
      await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
      await page.locator("#log li.pub", { hasText: `missed 2 ${way}` }).waitFor();
      assert.deepEqual(await page.locator("#log li.pub .label").allTextContents(), Array(way === "message" ? 2 : 4).fill("recovered"));
      await factsOf(page, "news").filter({ hasText: "recovered 2" }).waitFor();
      await page.getByRole("button", { name: "Disconnect" }).click();
    }
    // A history that no longer holds what was missed.
    for (let at = 0; at < 25; at += 1) await publish(hub, "news", at);
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await factsOf(page, "news").filter({ hasText: "not recovered" }).waitFor();
    assertNoProblems(page);
  }));

test("subscriptions of the token are listed, and a connection that breaks is recovered with them", () =>
  withHub({ settings: { ...EVERYTHING, "channels.force_recovery": true } }, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    await paste(page, hub.sign({ sub: "ann", channels: ["alerts"] }));
    await connect(page, "connect");
    await factsOf(page, "alerts").filter({ hasText: "subscribed by the hub" }).waitFor();
    await publish(hub, "alerts", "one");
    await factsOf(page, "alerts").filter({ hasText: "1 message · offset 1" }).waitFor();
    const disconnected = await fetch(`http://${hub.address}/api/disconnect`, {
      method: "POST", headers: { "x-api-key": hub.key }, body: JSON.stringify({ user: "ann", disconnect: { code: 3011, reason: "force reconnect" } }),
    });
    assert.equal(disconnected.status, 200);
    await waitForNotice(page, "Connected again");
    await waitUntilConnected(page);
    await factsOf(page, "alerts").filter({ hasText: "nothing missed" }).waitFor();
    assert.equal(await page.locator("#notice-text").textContent(), "The subscriptions are restored. Nothing was missed.");
    assertNoProblems(page);
  }));

test("a channel whose name begins with $ is subscribed with a pasted subscription token, which the page shows to nobody", () =>
  withHub({}, async (hub) => {
    const page = await openConnectedPage(hub);
    const token = hub.sign({ sub: "demo", channel: "$plans" });
    await page.getByLabel("Channel to subscribe to").fill("$plans");
    await page.getByLabel("Subscription token").fill(token);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: "Unsubscribe from $plans" }).waitFor();
    assert.equal(await page.getByLabel("Subscription token").isVisible(), false);
    await publish(hub, "$plans", "secret plans");
    await waitForPublication(page, "secret plans");
    await page.getByLabel("Raw").check();
    const text = await page.evaluate(() => document.body.textContent + document.querySelector("#subscription-token").value);
    assert.ok(text.includes("SUBSCRIPTION_TOKEN") && !text.includes(token));
    // The next connection needs it again.
    await page.getByRole("button", { name: "Disconnect" }).click();
    await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
    await subscribeReplies(page).nth(3).waitFor({ state: "attached" });
    await publish(hub, "$plans", "more plans");
    await waitForPublication(page, "more plans");
    assertNoProblems(page);
  }));

test("the list of subscriptions keeps the focus and what is open when another one is added", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openConnectedPage(hub);
    await page.getByRole("button", { name: "History of news" }).click();
    await page.locator("#subscriptions .details").getByText("Offset 0").waitFor();
    await subscribe(page, "sport");
    assert.ok(await page.locator("#subscriptions .details").getByText("Offset 0").isVisible());
    assertNoProblems(page);
  }));
