// The page renews the token of a login by itself, and shows the login form when the login has ended.

import assert from "node:assert/strict";
import { test } from "node:test";
import { PASSWORD, assertNoProblems, connect, logIn, openDemoPage, openTab, paste, publish, waitForNotice, waitForPublication, waitUntil, waitUntilConnected, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** The console shows refused requests as errors; tests that expect them allow this pattern. */
const REFUSED = /status of [45]\d\d|ERR_FAILED|WebSocket connection to .* failed/;
const SHORT = { settings: { "login.token_ttl": "4s", "channels.history_size": 20 } };
const STORAGES = ["memory", "session", "local", "cookie"];

/** Returns the log lines about renewals. */
const renewals = (page) => page.locator("#log li.note .label", { hasText: "The token was renewed" });

/** Records the statuses of the refreshes of all tabs. */
function recordRefreshes(page) {
  const statuses = [];
  page.context().on("response", (response) => response.url().endsWith("/auth/refresh") && statuses.push(response.status()));
  return statuses;
}

const post = (hub, path, body, headers = {}) =>
  fetch(`http://${hub.address}${path}`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });

test("the token of a login is renewed before it expires, wherever it is stored, and the session goes on", () =>
  withHub(SHORT, async (hub) => {
    const tabs = [];
    for (const storage of STORAGES) {
      const page = await openDemoPage(hub);
      await logIn(page, storage);
      await connect(page);
      tabs.push({ storage, page, sockets: [] });
    }
    await Promise.all(tabs.map(async ({ storage, page, sockets }) => {
      page.on("websocket", (socket) => sockets.push(socket.url()));
      const before = await renewals(page).count();
      await renewals(page).nth(before + 2).waitFor({ state: "attached" });
      await waitUntilConnected(page);
      await publish(hub, "news", { storage });
      await waitForPublication(page, `{"storage":"${storage}"}`);
      // A cookie needs a handshake. A token is sent over the open socket.
      assert.equal(sockets.length > 0, storage === "cookie", storage);
      assert.equal(await page.locator("#log .label", { hasText: "expired" }).count(), 0);
      assertNoProblems(page);
    }));
    await Promise.all(tabs.map(({ page }) => page.context().close()));
  }));

test("of the tabs that share the tokens of a login, one renews for all, and the login goes on", () =>
  withHub(SHORT, async (hub) => {
    for (const storage of ["local", "cookie"]) {
      const first = await openDemoPage(hub);
      const statuses = recordRefreshes(first);
      await logIn(first, storage);
      const others = await Promise.all([1, 2].map(() => first.context().newPage()));
      const tabs = [first, ...others];
      await Promise.all(others.map((tab) => tab.goto(`http://${hub.address}/`)));
      // A browser draws only the tab in front.
      const each = async (step) => {
        for (const tab of tabs) {
          await tab.bringToFront();
          await step(tab);
        }
      };
      await each(connect);
      await each((tab) => renewals(tab).nth(2).waitFor({ state: "attached" }));
      await each(waitUntilConnected);
      await publish(hub, "news", { storage });
      await each((tab) => waitForPublication(tab, `{"storage":"${storage}"}`));
      assert.ok(statuses.length >= 3 && statuses.every((status) => status === 200), `${storage}: ${statuses}`);
      const noted = [];
      await each(async (tab) => noted.push(await renewals(tab).count()));
      // A tab that does not see the new tokens yet, because browsers pass on late what another tab stores, asks again.
      assert.ok(statuses.length < 2 * Math.max(...noted), `${storage}: ${statuses.length} refreshes for ${noted}`);
      // A logout applies to all of them.
      await first.bringToFront();
      await first.getByRole("button", { name: "Log out" }).click();
      await each((tab) => tab.getByRole("button", { name: "Log in", exact: true }).waitFor());
      assertNoProblems(first);
      await first.context().close();
    }
  }));

test("tabs that want a new token at the same moment all have one then, and the login goes on", () =>
  withHub({}, async (hub) => {
    for (const storage of ["local", "cookie"]) {
      const first = await openDemoPage(hub);
      const statuses = recordRefreshes(first);
      await logIn(first, storage);
      const tabs = [first, await first.context().newPage(), await first.context().newPage()];
      await Promise.all(tabs.slice(1).map((tab) => tab.goto(`http://${hub.address}/`)));
      await Promise.all(tabs.slice(1).map((tab) => tab.getByRole("button", { name: "Refresh the token" }).waitFor()));
      // The hub answers the first one when the others wait for their turn.
      let answer;
      let asked = 0;
      const mayAnswer = new Promise((resolve) => (answer = resolve));
      await first.context().route("**/auth/refresh", async (route) => {
        asked += 1;
        await mayAnswer;
        await route.continue();
      });
      for (const tab of tabs) {
        await tab.bringToFront();
        await tab.evaluate(() => document.getElementById("refresh").click());
      }
      await waitUntil("two tabs wait for their turn", () =>
        first.evaluate(async () => (await navigator.locks.query()).pending.length === 2));
      assert.ok(asked <= 1, `${storage}: ${asked} refreshes at once`);
      answer();
      await Promise.all(tabs.map((tab) => tab.locator("#notice-title", { hasText: /has a new token|was renewed/ }).waitFor({ state: "attached" })));
      // One of them may have asked although another had: a browser does not show what one tab stores to all others at once.
      assert.ok(statuses.every((status) => status === 200), `${storage}: ${statuses}`);
      const before = statuses.length;
      await waitUntil("the token is renewed again", async () => {
        await first.evaluate(() => document.getElementById("refresh").click());
        return statuses.length > before;
      });
      assert.ok(statuses.every((status) => status === 200), `${storage}, again: ${statuses}`);
      assertNoProblems(first);
      await first.context().close();
    }
  }));

test("a login that was ended elsewhere leads to the login form, and the next one keeps the subscriptions", () =>
  withHub({}, async (hub) => {
    for (const [storage, way] of [["session", "message"], ["local", "subprotocol"], ["cookie", null]]) {
      const page = await openDemoPage(hub, { expects: REFUSED });
      await logIn(page, storage);
      await connect(page, way);
      assert.equal((await post(hub, "/api/invalidate_user_tokens", { user: "demo" }, { "x-api-key": hub.key })).status, 200);
      await waitForNotice(page, "Your login has ended");
      await page.getByLabel("Password").first().fill(PASSWORD);
      await logIn(page);
      await connect(page);
      await publish(hub, "news", { after: storage });
      await waitForPublication(page, `{"after":"${storage}"}`);
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("a token that could not be renewed in time is renewed as soon as the hub answers, and the session returns", () =>
  withHub(SHORT, async (hub) => {
    const page = await openDemoPage(hub, { expects: REFUSED });
    await logIn(page, "session");
    await connect(page);
    await page.route("**/auth/refresh", (route) => route.abort());
    await page.locator("#expiry-time", { hasText: "expired" }).waitFor();
    await page.locator('#state:not([data-state="ready"])').waitFor();
    await publish(hub, "news", "meanwhile");
    await page.unroute("**/auth/refresh");
    await waitUntilConnected(page);
    await waitForPublication(page, "meanwhile");
    // A reload with an expired token.
    await page.route("**/auth/refresh", (route) => route.abort());
    await page.locator("#expiry-time", { hasText: "expired" }).waitFor();
    await page.unroute("**/auth/refresh");
    await page.reload();
    await connect(page);
    assertNoProblems(page);
  }));

test("logging out ends the login at the hub, with the tokens that it has", () =>
  withHub({}, async (hub) => {
    const page = await openDemoPage(hub);
    await logIn(page, "session");
    const [token, refreshToken] = await page.evaluate(() => ["wardcast.token", "wardcast.refresh"].map((key) => sessionStorage.getItem(key)));
    assert.ok(token && refreshToken);
    const isUsable = async () => (await post(hub, "/auth/ticket", {}, { authorization: `Bearer ${token}` })).status === 200;
    assert.ok(await isUsable());
    await page.getByRole("button", { name: "Log out" }).click();
    await waitUntil("the token is revoked", async () => !(await isUsable()));
    assert.equal((await post(hub, "/auth/refresh", { refresh_token: refreshToken })).status, 401);
    assertNoProblems(page);
  }));

test("the button renews at once, and the page shows neither of the two tokens", () =>
  withHub({}, async (hub) => {
    for (const way of ["message", "connect"]) {
      const page = await openDemoPage(hub);
      await logIn(page, "session");
      await connect(page, way);
      const tokens = () => page.evaluate(() => ["wardcast.token", "wardcast.refresh"].map((key) => sessionStorage.getItem(key)));
      const before = await tokens();
      await page.getByRole("button", { name: "Refresh the token" }).click();
      await waitForNotice(page, "The session has a new token");
      const after = await tokens();
      assert.ok(before.every((token, at) => token !== after[at]));
      await page.getByLabel("Raw").check();
      const text = await page.evaluate(() => document.body.textContent);
      assert.ok([...before, ...after].every((token) => !text.includes(token)));
      assert.match(await page.locator("#code").textContent(), /auth\/refresh/);
      assertNoProblems(page);
      await page.context().close();
    }
  }));

test("a pasted token is not renewed: the page asks for the next one", () =>
  withHub({}, async (hub) => {
    const page = await openTab(`http://${hub.address}/`);
    const statuses = recordRefreshes(page);
    await paste(page, hub.sign({ sub: "demo" }, { ttl: 3 }));
    await connect(page);
    await waitForNotice(page, "The token has expired");
    assert.deepEqual(statuses, []);
    assertNoProblems(page);
  }));
