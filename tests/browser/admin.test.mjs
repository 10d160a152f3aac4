// The admin page in a real browser: its login, every section over two nodes that share a Redis, accessibility, and its size.

import assert from "node:assert/strict";
import { test } from "node:test";
import { startNodes } from "../support/nodes.mjs";
import { findLowContrast, findViolations } from "./accessibility.mjs";
import { assertNoProblems, openTab, startBlankPage, the, waitUntil, withBrowser, withHub } from "./support.mjs";

withBrowser();

const SETTINGS = { "channels.history_size": 100, "channels.presence": true };
/** A user of the admin page. */
const ADMIN = { root: "right horse" };

/** A tab whose sockets are the clients of a test. */
let clients = null;

/** Connects a client, and subscribes it to channels. Resolves when it is subscribed to all of them. */
async function connectClient(address, token, channels = []) {
  if (!clients || clients.isClosed()) {
    clients = await (await the.browser.newContext()).newPage();
    await clients.evaluate(() => (window.all = []));
  }
  const connect = ([address, token, channels]) =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${address}/socket?token=${token}`);
      const client = { socket, text: "", closed: new Promise((close) => socket.addEventListener("close", ({ code }) => close(code))) };
      const check = () => client.text.split('"subscribe"').length > channels.length && resolve(all.push(client) - 1);
      socket.addEventListener("open", () => {
        channels.forEach((channel, at) => socket.send(JSON.stringify({ id: at + 1, subscribe: { channel } })));
        check();
      });
      socket.addEventListener("message", ({ data }) => ((client.text += data), check()));
      socket.addEventListener("error", () => reject(new Error(`cannot connect to ${address}`)));
    });
  const at = await clients.evaluate(connect, [address, token, channels]);
  return {
    send: (command) => clients.evaluate(([at, text]) => all[at].socket.send(text), [at, JSON.stringify(command)]),
    isOpen: () => clients.evaluate((at) => all[at].socket.readyState === WebSocket.OPEN, at),
    hasReceived: (text) => clients.evaluate(([at, text]) => all[at].text.includes(text), [at, text]),
    close: () => clients.evaluate((at) => all[at].socket.close(), at),
    /** Resolves with the code of the close. */
    closed: () => clients.evaluate((at) => all[at].closed, at),
  };
}

/** Runs `test` with two nodes. Their tabs are closed before they stop. */
async function withNodes(test) {
  const nodes = await startNodes(process.env.WARDCAST_BINARY, { settings: SETTINGS });
  try {
    await test(nodes);
  } finally {
    await Promise.all(the.browser.contexts().map((context) => context.close()));
    await nodes.stop();
  }
}

const openAdminPage = (address, { path = "", ...options } = {}) => openTab(`http://${address}/admin${path}`, options);

async function logInWithKey(page, key) {
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Log in", exact: true }).click();
  await page.getByRole("button", { name: "Log out" }).waitFor();
}

async function openLoggedIn(address, key, options) {
  const page = await openAdminPage(address, options);
  await logInWithKey(page, key);
  return page;
}

const goTo = (page, section) => page.locator("#nav").getByRole("link", { name: section, exact: true }).click();

/** Answers the question of a dialog. */
const confirm = (page, answer) => page.getByRole("dialog").getByRole("button", { name: answer, exact: true }).click();

test("a wrong key is refused, the right one logs in, a reload keeps the session, and a logout ends it", () =>
  withHub({}, async (hub) => {
    const page = await openAdminPage(hub.address, { expects: /status of 401/ });
    await page.getByLabel("API key").fill("not the key");
    await page.getByRole("button", { name: "Log in", exact: true }).click();
    await page.getByRole("alert").getByText("wrong user, password or API key").waitFor();
    await logInWithKey(page, hub.key);
    await page.getByRole("heading", { name: "Nodes" }).waitFor();
    assert.equal(await page.getByRole("alert").isVisible(), false);
    assert.equal(await page.evaluate(() => document.cookie), "", "no script can read the session");
    await page.reload();
    await page.getByRole("table", { name: "Nodes" }).waitFor();
    const [cookie] = await page.context().cookies();
    assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path], [true, "Strict", "/"]);
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByLabel("API key").waitFor();
    assert.deepEqual(await page.context().cookies(), []);
    // The session is no session any more, also for who has kept its cookie.
    const kept = { "x-wardcast-admin": "1", origin: `http://${hub.address}`, cookie: `${cookie.name}=${cookie.value}` };
    const refused = await fetch(`http://${hub.address}/api/info`, { method: "POST", body: "{}", headers: kept });
    assert.equal(refused.status, 401);
    assertNoProblems(page);
  }));

test("a user of admin.users_file logs in with a password and may use the API key instead", () =>
  withHub({ users: ADMIN }, async (hub) => {
    // The file of the login is as good as one of its own.
    const file = hub.usersFile;
    await withHub({ settings: { "admin.users_file": file } }, async (own) => {
      const page = await openAdminPage(own.address);
      await page.getByRole("textbox", { name: "User", exact: true }).fill("root");
      await page.getByLabel("Password").fill(ADMIN.root);
      await page.keyboard.press("Enter");
      await page.locator("#who-name", { hasText: "root" }).waitFor();
      await page.getByRole("button", { name: "Log out" }).click();
      await page.getByRole("button", { name: "Use the API key instead" }).click();
      await logInWithKey(page, own.key);
      await page.locator("#who-name", { hasText: "API key" }).waitFor();
      assertNoProblems(page);
    });
  }));

test("two hubs on one host do not sign each other out", () =>
  withHub({}, (one) =>
    withHub({}, async (other) => {
      const page = await openLoggedIn(one.address, one.key);
      const second = await page.context().newPage();
      await second.goto(`http://${other.address}/admin`);
      await logInWithKey(second, other.key);
      const isLoggedIn = async () => {
        await page.reload();
        await page.getByRole("table", { name: "Nodes" }).waitFor({ timeout: 10_000 });
      };
      await isLoggedIn();
      await second.getByRole("button", { name: "Log out" }).click();
      await second.getByLabel("API key").waitFor();
      await isLoggedIn();
      assertNoProblems(page);
    }),
  ));

test("a session that ends shows the login, and nothing of before", () =>
  withHub({ settings: { "admin.session_ttl": "2s" } }, async (hub) => {
    const page = await openLoggedIn(hub.address, hub.key, { expects: /status of 401/ });
    await page.getByRole("alert").getByText("The session has ended").waitFor();
    assert.equal(await page.getByRole("table").count(), 0);
    await page.getByLabel("API key").waitFor();
    assertNoProblems(page);
  }));

/** Everything that a script could read in the page: its markup and the values of its fields. */
const contentOf = (page) =>
  page.evaluate(() => [document.documentElement.outerHTML, ...[...document.querySelectorAll("input, textarea, select")].map(({ value }) => value)].join("\n"));

/** Has every section show something of the user ann and the channel chat. */
async function visitEverySection(page) {
  await page.getByRole("table", { name: "Nodes" }).waitFor();
  await goTo(page, "Channels");
  await page.getByRole("searchbox", { name: /Name of a channel/ }).fill("chat");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "chat", exact: true }).click();
  await page.getByRole("table", { name: "Subscribers" }).getByRole("link", { name: "ann" }).waitFor();
  await page.getByLabel(/^Data/).fill('"for ann"');
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByRole("status").getByText("Published as #1.").waitFor();
  await page.getByRole("link", { name: "Explain", exact: true }).last().click();
  await page.getByRole("textbox", { name: "User", exact: true }).fill("ann");
  await page.getByRole("button", { name: "Explain", exact: true }).click();
  await page.locator("[data-cause]").waitFor();
  await goTo(page, "Trace");
  await page.getByRole("textbox", { name: "Name", exact: true }).fill("ann");
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await page.getByText(/^Running/).waitFor();
  await goTo(page, "Sessions");
  await page.getByRole("searchbox", { name: "Name of a user" }).fill("ann");
  await page.keyboard.press("Enter");
  await page.getByRole("table", { name: "Sessions" }).getByRole("link", { name: "ann", exact: true }).first().waitFor();
  await page.getByRole("button", { name: "Revoke tokens" }).click();
  await page.getByRole("dialog").waitFor();
}

for (const [how, end, hasQuestion] of [
  ["a logout", (page) => page.getByRole("button", { name: "Log out" }).click(), false],
  // As when its time has come: the page finds out with its next request.
  ["the end of its session", async (page) => {
    await page.context().clearCookies();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke", exact: true }).click();
  }, true],
]) {
  test(`nothing of what an operator has seen stays in the page after ${how}`, () =>
    withHub({ settings: SETTINGS }, async (hub) => {
      const ann = await connectClient(hub.address, hub.sign({ sub: "ann" }), ["chat"]);
      const page = await openLoggedIn(hub.address, hub.key, { expects: /status of 401/ });
      await visitEverySection(page);
      assert.match(await contentOf(page), /\bann\b/);
      if (!hasQuestion) await confirm(page, "Cancel");
      await end(page);
      await page.getByLabel("API key").waitFor();
      const after = await contentOf(page);
      // The markup has an example of a pattern: chat:*.
      for (const seen of [/\bann\b/, /\bchat\b(?!:\*)/, /127\.0\.0\.1/, /<(td|li|dd)\b/, /#1\b/]) {
        assert.ok(!seen.test(after), `${seen} in ${after}`);
      }
      assert.equal(await page.getByRole("dialog").count(), 0);
      // The next operator begins where the page begins.
      await logInWithKey(page, hub.key);
      await page.locator(how === "a logout" ? "#nodes-title" : "#sessions-title").waitFor();
      await ann.close();
      assertNoProblems(page);
    }));
}

for (const [when, reach] of [
  ["while nobody is logged in", async () => {}],
  ["while another operator is logged in", (page, hub) => logInWithKey(page, hub.key)],
]) {
  test(`after a logout, Back leads to no user whom the operator has looked at, ${when}`, () =>
    withHub({}, async (hub) => {
      const page = await openLoggedIn(hub.address, hub.key);
      const target = () => page.evaluate(() => location.hash);
      await goTo(page, "Sessions");
      await page.getByRole("searchbox", { name: "Name of a user" }).fill("ann");
      await page.keyboard.press("Enter");
      await page.getByText("“ann” has no session.").waitFor();
      await goTo(page, "Explain");
      // The operator itself goes back there, also after a reload.
      await page.reload();
      await page.locator("#explain-title").waitFor();
      await page.goBack();
      await page.getByText("“ann” has no session.").waitFor();
      assert.equal(await target(), "#sessions/ann");
      await page.goForward();
      await page.locator("#explain-title").waitFor();
      await page.getByRole("button", { name: "Log out" }).click();
      await page.getByLabel("API key").waitFor();
      await reach(page, hub);
      await page.goBack();
      await waitUntil("the address names nobody", async () => (await target()) === "");
      if (!(await page.getByRole("button", { name: "Log out" }).isVisible())) await logInWithKey(page, hub.key);
      await page.locator("#nodes-title").waitFor();
      assert.equal(await target(), "");
      assertNoProblems(page);
    }));
}

test("a page of another origin cannot use the session", () =>
  withHub({}, async (hub) => {
    const ann = await connectClient(hub.address, hub.sign({ sub: "ann" }), ["news"]);
    const page = await openLoggedIn(hub.address, hub.key);
    // The same host, so the browser sends the cookie: only the port differs.
    const blank = await startBlankPage();
    const other = await page.context().newPage();
    await other.goto(blank.url);
    const attempts = await other.evaluate(async (address) => {
      const attempt = (path, options) => fetch(`http://${address}${path}`, { credentials: "include", ...options }).then(({ status }) => status, () => "refused");
      const json = { method: "POST", body: "{}" };
      return [
        await attempt("/api/info", json),
        await attempt("/api/info", { ...json, headers: { "x-wardcast-admin": "1" } }),
        await attempt("/api/disconnect", { method: "POST", body: '{"user":"ann"}', mode: "no-cors" }),
        await attempt("/v1/trace?user=ann", { headers: { "x-wardcast-admin": "1" } }),
        await attempt("/admin/session", { headers: { "x-wardcast-admin": "1" } }),
        await new Promise((resolve) => {
          const events = new EventSource(`http://${address}/v1/trace?user=ann`, { withCredentials: true });
          events.onerror = () => (events.close(), resolve("refused"));
          events.onopen = () => resolve("open");
        }),
      ];
    }, hub.address);
    blank.close();
    // The page may not read the opaque answer (no-cors), whose status is 0. The client below is still connected.
    assert.deepEqual(attempts, ["refused", "refused", 0, "refused", "refused", "refused"]);
    assert.ok(await ann.isOpen());
    assertNoProblems(page);
  }));

test("nodes show their load, and charts grow", () =>
  withNodes(async (nodes) => {
    const page = await openLoggedIn(nodes.addresses[0], nodes.key);
    const rows = page.getByRole("table", { name: "Nodes" }).getByRole("row");
    await waitUntil("two nodes", async () => (await rows.count()) === 3);
    await connectClient(nodes.addresses[1], nodes.sign({ sub: "ann" }), ["news"]);
    const connections = page.locator("figure", { hasText: "Connections" });
    await connections.locator(".chart-value", { hasText: /^1$/ }).waitFor();
    const points = async () => (await connections.locator(".chart-line").getAttribute("d")).split("L").length;
    await waitUntil("three samples", async () => (await points()) >= 3);
    const pick = page.getByLabel("Node that the charts show");
    assert.equal(await pick.locator("option").count(), 3);
    for (const index of [1, 2]) {
      await pick.selectOption({ index });
      assert.match(await connections.locator(".chart-value").textContent(), /^[01]$/);
    }
    assertNoProblems(page);
  }));

test("the message of a failed poll goes when the hub answers again", () =>
  withHub({}, async (hub) => {
    const page = await openLoggedIn(hub.address, hub.key);
    await page.getByRole("table", { name: "Nodes" }).waitFor();
    await page.route("**/api/info", (route) => route.fulfill({ status: 503, json: { code: 100, message: "internal server error" } }));
    const message = page.getByRole("alert");
    await message.waitFor();
    await page.evaluate(() => {
      window.said = 0;
      new MutationObserver(() => (window.said += 1)).observe(document.getElementById("bad"), { childList: true, characterData: true, subtree: true });
    });
    await page.waitForResponse("**/api/info");
    await page.waitForResponse("**/api/info");
    assert.equal(await page.evaluate(() => window.said), 0, "the same message is not read aloud again");
    await page.unroute("**/api/info");
    await message.waitFor({ state: "hidden" });
  }));

test("a page of a list that could not be loaded is asked for again, and no other", () =>
  withHub({}, async (hub) => {
    await connectClient(hub.address, hub.sign({ sub: "ann" }), Array.from({ length: 120 }, (_, at) => `room-${at}`));
    const page = await openLoggedIn(hub.address, hub.key);
    await goTo(page, "Channels");
    const first = page.getByRole("table", { name: "Channels" }).locator("tbody tr").first();
    await page.getByText("Page 1", { exact: true }).waitFor();
    const names = [await first.textContent()];
    await page.route("**/api/channels", (route) => route.abort());
    await page.getByRole("button", { name: "Next page" }).click();
    await page.getByRole("alert").waitFor();
    await page.unroute("**/api/channels");
    for (const number of [2, 3]) {
      await page.getByRole("button", { name: "Next page" }).click();
      await page.getByText(`Page ${number}`, { exact: true }).waitFor();
      names.push(await first.textContent());
    }
    assert.equal(new Set(names).size, 3, `${names}`);
    assert.equal(await page.getByRole("button", { name: "Next page" }).isDisabled(), true);
  }));

test("a channel of another node is found, published to, read and emptied", () =>
  withNodes(async (nodes) => {
    const ann = await connectClient(nodes.addresses[1], nodes.sign({ sub: "ann" }), ["chat", "news"]);
    const page = await openLoggedIn(nodes.addresses[0], nodes.key);
    await goTo(page, "Channels");
    await page.getByText("2 channels with subscribers").waitFor();
    await page.getByRole("searchbox", { name: /Name of a channel/ }).fill("ews");
    await page.keyboard.press("Enter");
    await page.getByText("1 channel with subscribers").waitFor();
    await page.getByRole("link", { name: "news", exact: true }).click();
    await page.getByRole("heading", { name: "Channel news" }).waitFor();
    await page.getByText("1 client, 1 user").waitFor();
    await page.getByRole("table", { name: "Subscribers" }).getByRole("link", { name: "ann" }).waitFor();
    await page.getByLabel(/^Data/).fill("no JSON");
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByRole("alert").getByText("The data is not JSON").waitFor();
    for (let number = 1; number <= 25; number += 1) {
      await page.getByLabel(/^Data/).fill(JSON.stringify({ number, shown: "<b>as text</b>" }));
      await page.getByRole("button", { name: "Publish" }).click();
      await page.getByRole("status").getByText(`Published as #${number}.`).waitFor();
    }
    await waitUntil("the client has received it", () => ann.hasReceived('"shown"'));
    const items = page.locator(".publications li");
    assert.equal(await items.count(), 20, "a page of the history");
    assert.match(await items.first().textContent(), /#25.*"<b>as text<\/b>"/);
    await page.locator("#channel-history").getByRole("button", { name: "Next page" }).click();
    await page.locator(".offset", { hasText: /^#5$/ }).waitFor();
    assert.equal(await items.count(), 5);
    await page.getByRole("button", { name: "Delete history" }).click();
    await confirm(page, "Cancel");
    assert.equal(await items.count(), 5);
    await page.getByRole("button", { name: "Delete history" }).click();
    await confirm(page, "Delete");
    await page.getByText("No publication is kept.").waitFor();
    assertNoProblems(page);
  }));

/** Publishes on the page of a channel. */
async function publishOnPage(page, data) {
  await page.getByLabel(/^Data/).fill(data);
  await page.getByRole("button", { name: "Publish" }).click();
}

/** Opens the page of a channel. */
async function openChannel(page, hub, name) {
  await page.goto(`http://${hub.address}/admin#channel/${name}`);
  await page.getByRole("heading", { name: `Channel ${name}` }).waitFor();
}

/** Returns the history of a channel as the server API answers it. */
async function historyOf(hub, channel) {
  const body = JSON.stringify({ channel, limit: 10 });
  return (await fetch(`${hub.api}/api/history`, { method: "POST", headers: { "x-api-key": hub.key }, body })).text();
}

test("numbers are published as they were typed, and shown as they were published", () =>
  withHub({ settings: SETTINGS }, async (hub) => {
    const page = await openLoggedIn(hub.address, hub.key);
    await openChannel(page, hub, "orders");
    const texts = ['{"id":12345678901234567890,"price":1.50,"text":"1.50 \\"2.50\\""}', "-0.0", "1E400", '[1,2.5,{"a":[0.1e1]}]'];
    for (const [at, text] of texts.entries()) {
      await publishOnPage(page, text.replaceAll(",", ",\n "));
      await page.getByRole("status").getByText(`Published as #${at + 1}.`).waitFor();
    }
    const shown = await page.locator(".publications li code").allTextContents();
    assert.deepEqual(shown, texts.toReversed());
    const stored = await historyOf(hub, "orders");
    for (const text of texts) assert.ok(stored.includes(`"data":${text}`), `${text} in ${stored}`);
    for (const wrong of ["01", "1.2.3", "-", "1.50 2"]) {
      await publishOnPage(page, wrong);
      await page.getByRole("alert").getByText("The data is not JSON").waitFor();
      await page.getByRole("button", { name: "Refresh", exact: true }).first().click();
    }
    assert.equal(await historyOf(hub, "orders"), stored);
    assertNoProblems(page);
  }));

test("a channel with binary data is read and published to in Base64", () =>
  withHub({ settings: { ...SETTINGS, "channels.data_format": "binary" } }, async (hub) => {
    const page = await openLoggedIn(hub.address, hub.key);
    await openChannel(page, hub, "updates");
    await page.getByLabel("Data Base64").waitFor();
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByRole("status").getByText("Published as #1.").waitFor();
    await publishOnPage(page, "/wAB\n");
    await page.getByRole("status").getByText("Published as #2.").waitFor();
    const items = page.locator(".publications li");
    assert.match(await items.first().textContent(), /^#2.*, binary, 3 bytes\/wAB$/);
    assert.match(await items.last().textContent(), /^#1.*, binary, 11 bytesaGVsbG8gd29ybGQ=$/);
    for (const wrong of ['{"hello":"world"}', "/wA"]) {
      await publishOnPage(page, `${wrong}*`);
      await page.getByRole("alert").getByText("The data is not Base64").waitFor();
      await page.getByRole("button", { name: "Refresh", exact: true }).first().click();
    }
    const stored = await historyOf(hub, "updates");
    assert.deepEqual(JSON.parse(stored).result.publications.map(({ b64data }) => b64data), ["aGVsbG8gd29ybGQ=", "/wAB"]);
    // Data that is longer than what is shown at once.
    await publishOnPage(page, "AAAA".repeat(300));
    await page.getByRole("button", { name: "Show all 1,200 characters of #3" }).click();
    assert.ok((await items.first().textContent()).includes("A".repeat(1200)));
    assertNoProblems(page);
  }));

test("sessions of a user on two nodes are shown, disconnected and revoked", () =>
  withNodes(async (nodes) => {
    const token = nodes.sign({ sub: "ann", iat: Math.floor(Date.now() / 1000) - 5 });
    const ann = [];
    for (const address of nodes.addresses) ann.push(await connectClient(address, token, ["news"]));
    const bob = await connectClient(nodes.addresses[1], nodes.sign({ sub: "bob" }));
    const page = await openLoggedIn(nodes.addresses[0], nodes.key);
    await goTo(page, "Sessions");
    const rows = page.getByRole("table", { name: "Sessions" }).locator("tbody tr");
    await waitUntil("three sessions", async () => (await rows.count()) === 3);
    await page.getByRole("searchbox", { name: "Name of a user" }).fill("ann");
    await page.keyboard.press("Enter");
    await waitUntil("two sessions", async () => (await rows.count()) === 2);
    const text = await rows.first().textContent();
    for (const part of ["127.0.0.1", "query", "websocket json", "ago", "in 59 min", "news"]) assert.ok(text.includes(part), `${part} in ${text}`);
    await page.getByRole("button", { name: /^Disconnect ann, client/ }).first().click();
    await confirm(page, "Disconnect");
    await page.getByRole("status").getByText("Disconnected ann.").waitFor();
    assert.equal(await Promise.race(ann.map((client) => client.closed())), 3503);
    assert.equal(await rows.count(), 1);
    await page.getByRole("button", { name: "Revoke tokens of ann" }).click();
    await confirm(page, "Revoke");
    await page.getByText("“ann” has no session.").waitFor();
    assert.deepEqual((await Promise.all(ann.map((client) => client.closed()))).sort(), [3500, 3503]);
    assert.ok(await bob.isOpen());
    // A user whose name begins with a space is another user; and what is only typed changes nothing that is shown.
    const other = await connectClient(nodes.addresses[0], nodes.sign({ sub: " bob" }));
    const name = page.getByRole("searchbox", { name: "Name of a user" });
    await name.fill(" bob");
    await page.keyboard.press("Enter");
    await waitUntil("the session of the other user", async () => (await rows.count()) === 1 && (await rows.first().textContent()).startsWith(" bob"));
    await name.fill("bob");
    await page.getByRole("button", { name: "Refresh the list" }).click();
    await page.getByRole("button", { name: "Disconnect all of  bob" }).click();
    await confirm(page, "Disconnect all");
    await page.getByText("“ bob” has no session.").waitFor();
    assert.equal(await other.closed(), 3503);
    assert.ok(await bob.isOpen());
    assertNoProblems(page);
  }));

test("explain names the cause, and a live trace shows what happens on the other node", () =>
  withNodes(async (nodes) => {
    const ann = await connectClient(nodes.addresses[1], nodes.sign({ sub: "ann" }), ["chat"]);
    const page = await openLoggedIn(nodes.addresses[0], nodes.key);
    await goTo(page, "Explain");
    await page.getByRole("textbox", { name: "Channel", exact: true }).fill("news");
    await page.getByRole("button", { name: "Explain" }).click();
    await page.getByRole("alert").getByText("Name a user or a client id.").waitFor();
    await page.getByRole("textbox", { name: "User", exact: true }).fill("ann");
    await page.getByRole("button", { name: "Explain" }).click();
    await page.locator(".cause", { hasText: "not subscribed" }).waitFor();
    await page.getByRole("table", { name: "Sessions" }).getByRole("link", { name: "ann" }).click();
    await page.getByRole("link", { name: "Trace", exact: true }).last().click();
    await page.getByText("Running.").waitFor();
    await ann.send({ id: 9, subscribe: { channel: "news" } });
    const log = page.locator("#trace-log li");
    await log.filter({ hasText: "subscribed" }).getByRole("link", { name: "news" }).waitFor();
    await ann.close();
    await log.filter({ hasText: "disconnected" }).waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Stopped.").waitFor();
    assertNoProblems(page);
  }));

test("explain says how often a user was refused, and whether anyone may have written the user into the token", () =>
  withHub({}, async (hub) => {
    const refuse = async (token) => assert.equal((await fetch(`http://${hub.address}/connection/sse?token=${token}`)).status, 401);
    const expired = hub.sign({ sub: "ann" }, { ttl: -60 });
    for (const token of [expired, expired, hub.sign({ sub: "ann" }, { secret: "the secret of an attacker, long enough" })]) await refuse(token);
    const page = await openLoggedIn(hub.address, hub.key);
    await goTo(page, "Explain");
    await page.getByRole("textbox", { name: "User", exact: true }).fill("ann");
    await page.getByRole("textbox", { name: "Channel", exact: true }).fill("news");
    await page.getByRole("button", { name: "Explain" }).click();
    await page.locator(".cause", { hasText: "connect refused" }).waitFor();
    const sessions = await page.getByRole("table", { name: "Sessions" }).locator("tbody tr").allTextContents();
    assert.equal(sessions.length, 2);
    assert.match(sessions[0], /refused 2 times; .*expired/);
    assert.match(sessions[1], /refused once, with a token that anyone may have written; .*wrong signature/);
    assert.ok(!sessions.join().includes("ended"), sessions.join());
    assertNoProblems(page);
  }));

/** The checked states of the page, each reached from the one before. */
const STATES = [
  ["login", async () => {}],
  ["nodes", async (page, hub) => {
    await logInWithKey(page, hub.key);
    await page.getByRole("table", { name: "Nodes" }).waitFor();
  }],
  ["channels", async (page) => {
    await goTo(page, "Channels");
    await page.getByRole("table", { name: "Channels" }).waitFor();
  }],
  ["channel", async (page) => {
    await page.getByRole("link", { name: /^y+$/ }).click();
    await page.getByRole("table", { name: "Subscribers" }).waitFor();
    await page.getByLabel(/^Data/).fill(JSON.stringify({ text: "x".repeat(3000) }));
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByRole("status").getByText("Published").waitFor();
  }],
  ["sessions of a user", async (page) => {
    await page.getByRole("table", { name: "Subscribers" }).getByRole("link", { name: "ann" }).click();
    await page.getByRole("table", { name: "Sessions" }).waitFor();
  }],
  ["question", async (page) => {
    await page.getByRole("button", { name: "Revoke tokens of ann" }).click();
    await page.getByRole("dialog").waitFor();
  }],
  ["explain", async (page) => {
    await confirm(page, "Cancel");
    await goTo(page, "Explain");
    await page.getByRole("textbox", { name: "User", exact: true }).fill("ann");
    await page.getByRole("textbox", { name: "Channel", exact: true }).fill("news");
    await page.getByRole("button", { name: "Explain" }).click();
    await page.locator(".cause").waitFor();
  }],
  ["trace", async (page) => {
    await goTo(page, "Trace");
    await page.getByRole("textbox", { name: "Name", exact: true }).fill("ann");
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByText("Running.").waitFor();
  }],
  ["error", async (page) => {
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByRole("combobox", { name: "What" }).selectOption("client");
    await page.getByRole("button", { name: "Start" }).click();
    await page.getByRole("alert").getByText("client is not the id of a connection").waitFor();
  }],
];

/** Brings a page through all states and calls `check` in each. `WARDCAST_SCREENSHOTS` names a folder for pictures of them. */
async function checkStates(options, check) {
  await withHub({ settings: SETTINGS }, async (hub) => {
    await connectClient(hub.address, hub.sign({ sub: "ann" }), ["news", "y".repeat(200)]);
    const page = await openAdminPage(hub.address, { expects: /status of 40[01]/, reducedMotion: "reduce", ...options });
    for (const [state, reach] of STATES) {
      await reach(page, hub);
      const folder = process.env.WARDCAST_SCREENSHOTS;
      const { width } = page.viewportSize();
      if (folder) await page.screenshot({ path: `${folder}/${state.replaceAll(" ", "-")}-${width}-${options.colorScheme ?? "light"}.png`, fullPage: state !== "question" });
      await check(page, state);
    }
    assertNoProblems(page);
  });
}

test("axe-core finds no violation, all text has enough contrast and nothing is too wide, on a desktop and on a phone, in light and dark", async () => {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 360]) {
      await checkStates({ colorScheme, viewport: { width, height: 800 } }, async (page, state) => {
        const where = `${state}, ${colorScheme}, ${width} pixels`;
        assert.deepEqual(await findViolations(page), [], where);
        assert.deepEqual(await page.evaluate(findLowContrast), [], where);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${where}: ${wide} pixels too wide`);
      });
    }
  }
});

test("every control has an accessible name and a visible focus, and a section takes the focus when it opens", () =>
  checkStates({}, async (page, state) => {
    const session = await page.context().newCDPSession(page);
    const { nodes } = await session.send("Accessibility.getFullAXTree");
    const roles = ["button", "textbox", "searchbox", "combobox", "region", "table", "dialog", "navigation", "link"];
    for (const node of nodes.filter((node) => !node.ignored && roles.includes(node.role?.value))) {
      assert.ok(node.name?.value, `${state}: ${node.role.value} without an accessible name`);
    }
    if (["channels", "explain", "trace"].includes(state)) {
      assert.ok(!["BODY", "A"].includes(await page.evaluate(() => document.activeElement.tagName)), state);
    }
    if (state === "question") return;
    await page.evaluate(() => document.querySelector(".skip").focus());
    for (let presses = 0; presses < 12; presses += 1) {
      await page.keyboard.press("Tab");
      const [name, isShown] = await page.evaluate(() => [document.activeElement.outerHTML.slice(0, 60), getComputedStyle(document.activeElement).outlineStyle !== "none"]);
      assert.ok(isShown || name.startsWith("<body"), `${state}: no visible focus of ${name}`);
    }
  }));

test("with 10,000 channels the lists are shown in seconds, and no answer has a list of all", () =>
  withHub({ settings: { "limits.connections_per_address": 0, "limits.handshakes_per_second": 0, "limits.commands_per_second": 0 } }, async (hub) => {
    for (let number = 0; number < 100; number += 1) {
      const channels = Array.from({ length: 100 }, (_, at) => `channel-${number * 100 + at}`);
      await connectClient(hub.address, hub.sign({ sub: `user-${number}` }), channels);
    }
    const page = await openLoggedIn(hub.address, hub.key);
    const sizes = [];
    page.on("response", async (response) => sizes.push([response.url(), (await response.body().catch(() => "")).length]));
    for (const [section, table, rows] of [["nodes", "Nodes", 1], ["channels", "Channels", 50], ["sessions", "Sessions", 50]]) {
      await page.goto(`http://${hub.address}/admin#${section}`);
      await page.reload();
      await page.getByRole("table", { name: table }).waitFor();
      const shown = await page.evaluate(() => performance.now());
      const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
      assert.equal(await page.getByRole("table", { name: table }).locator("tbody tr").count(), rows);
      // Below a second, and about two, on a machine that does nothing else.
      assert.ok(paint < 10_000 && shown < 20_000, `${section}: first paint after ${paint} ms, shown after ${shown} ms`);
      if (process.env.WARDCAST_TIMES) console.log(`${section}: first paint ${Math.round(paint)} ms, list ${Math.round(shown)} ms`);
    }
    await goTo(page, "Channels");
    await page.getByText("10,000 channels with subscribers").waitFor();
    await page.getByRole("button", { name: "Next page" }).click();
    await page.getByText("Page 2", { exact: true }).waitFor();
    const large = sizes.filter(([url, bytes]) => url.includes("/api/") && bytes > 65_536);
    assert.deepEqual(large, []);
    assertNoProblems(page);
  }));
