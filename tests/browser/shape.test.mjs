// Accessibility of the demo page: small screens, keyboard, screen readers, contrast, and the rules of axe-core.

import assert from "node:assert/strict";
import { test } from "node:test";
import { findLowContrast, findViolations } from "./accessibility.mjs";
import { EVERYTHING, connect, assertNoProblems, waitForPublication, logIn, openDemoPage, publish, waitForNotice, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** The checked states of the page, each reached from the one before. */
const STATES = [
  ["fresh", async () => {}],
  ["all choices open", async (page) => {
    for (const summary of await page.locator("summary").all()) await summary.click();
  }],
  ["a wrong password", async (page) => {
    await page.getByLabel("Password").first().fill("wrong horse");
    await page.getByRole("button", { name: "Log in", exact: true }).click();
    await waitForNotice(page, "Wrong user or password");
  }],
  ["logged in", async (page) => {
    await page.getByLabel("Password").first().fill("right horse");
    await logIn(page);
  }],
  ["connected, with messages", async (page, hub) => {
    await connect(page);
    await publish(hub, "news", { long: "x".repeat(3000) });
    await waitForPublication(page, '{"long"');
    await page.getByLabel("Raw").check();
  }],
  ["a long name", async (page) => {
    await page.getByLabel("Channel to subscribe to").fill("y".repeat(200));
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.getByRole("button", { name: /Unsubscribe from y/ }).waitFor();
  }],
  ["a history and a presence", async (page) => {
    await page.getByRole("button", { name: "History of news" }).click();
    await page.locator("#subscriptions .details").getByText(/^Offset \d/).waitFor();
    await page.getByRole("button", { name: "Presence of y" }).click();
    await page.locator("#subscriptions .details").getByText("1 client").waitFor();
  }],
  ["a channel that needs a token", async (page) => {
    await page.getByLabel("Channel to subscribe to").fill("$plans");
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await waitForNotice(page, "needs a subscription token");
  }],
  ["reconnected after a message that was too large", async (page) => {
    await page.getByLabel(/^Data/).fill("x".repeat(70_000));
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.locator("#log .label", { hasText: "Connected again" }).waitFor();
  }],
];

/** Brings a page through all states and calls `check` in each. */
async function checkStates(hub, options, check) {
  const page = await openDemoPage(hub, { expects: /status of 401/, ...options });
  for (const [state, reach] of STATES) {
    await reach(page, hub);
    await check(page, state);
  }
  assertNoProblems(page);
  await page.context().close();
}

test("nothing is wider than the screen from 320 pixels on, or at 360 pixels with text of double size", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    for (const width of [320, 360, 900, 1280]) {
      await checkStates(hub, { viewport: { width, height: 800 } }, async (page, state) => {
        for (const size of ["100%", ...(width === 360 ? ["200%"] : [])]) {
          await page.evaluate((size) => (document.documentElement.style.fontSize = size), size);
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(wide <= 0, `${state} at ${width}, text size ${size}: ${wide} pixels too wide`);
        }
        await page.evaluate(() => (document.documentElement.style.fontSize = ""));
      });
    }
  }));

test("every control has an accessible name, every id is unique, and every reference to an id resolves", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const roles = ["button", "textbox", "searchbox", "radio", "checkbox", "tab", "tabpanel", "region", "log", "list", "group", "radiogroup", "DisclosureTriangle", "main", "progressbar"];
    await checkStates(hub, {}, async (page, state) => {
      const session = await page.context().newCDPSession(page);
      const { nodes } = await session.send("Accessibility.getFullAXTree");
      const named = nodes.filter((node) => !node.ignored && roles.includes(node.role?.value));
      assert.ok(named.length > 20, `${state}: ${named.length}`);
      for (const node of named.filter((node) => !["main", "list", "group"].includes(node.role.value))) {
        assert.ok(node.name?.value, `${state}: ${node.role.value} without an accessible name`);
      }
      const broken = await page.evaluate(() => {
        const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        const named = [...document.querySelectorAll("[aria-labelledby], [aria-controls], [for]")];
        const missing = named.flatMap((element) =>
          ["aria-labelledby", "aria-controls", "for"].map((name) => element.getAttribute(name)).filter((id) => id && !document.getElementById(id)),
        );
        return [...ids.filter((id, at) => ids.indexOf(id) !== at), ...missing];
      });
      assert.deepEqual(broken, [], state);
    });
  }));

test("the Tab key reaches every control in page order with a visible focus and leaves the page at the end", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    await checkStates(hub, {}, async (page, state) => {
      await page.evaluate(() => (document.activeElement.blur(), getSelection().removeAllRanges(), scrollTo(0, 0)));
      const wanted = await page.evaluate(() => {
        const all = [...document.querySelectorAll("a[href], button, input, textarea, summary, [tabindex='0']")];
        const groups = new Set();
        return all.filter((element) => {
          if (element.disabled || element.tabIndex < 0 || !element.checkVisibility()) return false;
          if (element.type !== "radio") return true;
          return element.checked && !groups.has(element.name) && groups.add(element.name);
        }).map((element, at) => (element.dataset.at = String(at)));
      });
      await page.evaluate(() => document.querySelector(".skip").focus());
      const reached = [];
      for (let presses = 0; presses < wanted.length; presses += 1) {
        const [at, isShown] = await page.evaluate(() => {
          const element = document.activeElement;
          const ring = [element, element.nextElementSibling, element.closest(".choice")].filter(Boolean);
          return [element.dataset.at, ring.some((one) => getComputedStyle(one).outlineStyle !== "none")];
        });
        reached.push(at);
        assert.ok(isShown, `${state}: control ${at} has no visible focus`);
        await page.keyboard.press("Tab");
      }
      assert.deepEqual(reached, wanted, state);
      const after = await page.evaluate(() => document.activeElement?.dataset.at ?? "out");
      assert.ok(["out", "0"].includes(after), `${state}: the focus is trapped at control ${after}`);
      await page.evaluate(() => document.querySelectorAll("[data-at]").forEach((element) => element.removeAttribute("data-at")));
    });
  }));

test("the keyboard alone publishes a message and moves among the tabs", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openDemoPage(hub);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "connect");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "publish");
    await page.keyboard.press("Enter");
    await waitForPublication(page, '{"text":"hello"}');
    await page.locator("#tab-js").focus();
    for (const [key, tab] of [["ArrowRight", "tab-sdk"], ["ArrowRight", "tab-curl"], ["ArrowRight", "tab-js"], ["End", "tab-curl"], ["Home", "tab-js"]]) {
      await page.keyboard.press(key);
      assert.equal(await page.evaluate(() => document.activeElement.id), tab);
      assert.equal(await page.locator(`#${tab}`).getAttribute("aria-selected"), "true");
    }
    assertNoProblems(page);
  }));

test("screen readers announce the connection state and notices, but not log lines", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    const page = await openDemoPage(hub);
    const live = await page.evaluate(() => [...document.querySelectorAll("[role=status], [role=alert], [role=log], [aria-live]")].map((element) => element.id));
    assert.deepEqual(live.sort(), ["notice", "state"]);
    assert.deepEqual(await page.evaluate(() => [document.documentElement.lang, document.querySelectorAll("h1").length, document.querySelectorAll("main").length]), ["en", 1, 1]);
    assertNoProblems(page);
  }));

test("axe-core finds no violation in light and dark, on a desktop and on a phone", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [1280, 390]) {
        // Without motion, so that no colour is measured on its way to another.
        const options = { colorScheme, reducedMotion: "reduce", viewport: { width, height: 844 } };
        await checkStates(hub, options, async (page, state) => {
          assert.deepEqual(await findViolations(page), [], `${state}, ${colorScheme}, ${width} pixels`);
        });
      }
    }
  }));

test("all text has enough contrast in light and dark, and nothing moves with reduced motion", () =>
  withHub({ settings: EVERYTHING }, async (hub) => {
    for (const colorScheme of ["light", "dark"]) {
      await checkStates(hub, { colorScheme, reducedMotion: "reduce" }, async (page, state) => {
        assert.deepEqual(await page.evaluate(findLowContrast), [], `${state}, ${colorScheme}`);
        const moving = await page.evaluate(() => document.getAnimations().length);
        assert.equal(moving, 0, `${state}: animated in spite of reduced motion`);
      });
    }
  }));
