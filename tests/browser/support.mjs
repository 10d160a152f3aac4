// Helpers of the browser tests: a browser, hubs, pages that record problems, and the steps of a user.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { chromium } from "playwright-core";
import { PATIENCE_MS, startHub } from "../support/hub.mjs";

export const PASSWORD = "right horse";
const BINARY = process.env.WARDCAST_BINARY;

/** The browser of a test file. */
export const the = { browser: null };
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

export function withBrowser() {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-browser-"));
  before(async () => {
    the.browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: [...FLAGS, `--disk-cache-dir=${folder}`] });
  });
  after(async () => {
    await the.browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });
}

/** Settings of channels with everything that the page can show. */
export const EVERYTHING = {
  "channels.history_size": 20,
  "channels.allow_history": "subscriber",
  "channels.presence": true,
  "channels.allow_presence": "subscriber",
};

/** Runs `test` with a development hub that has the user demo, and closes the tabs: open pages would reconnect for ever. */
export async function withHub(options, test) {
  const hub = await startHub(BINARY, { users: { demo: PASSWORD }, ...options });
  try {
    await test(hub);
  } finally {
    await Promise.all(the.browser.contexts().map((context) => context.close()));
    await hub.stop();
  }
}

/** Starts a stopped hub again, with the same address and, unless `options` changes them, the same secrets. */
export const restartHub = (hub, options = {}) =>
  startHub(BINARY, { users: { demo: PASSWORD }, settings: { "server.bind": hub.address }, ...options });

/**
 * Opens `url` in a new tab with a new profile. `page.problems` collects errors, warnings, violations of the security policy, and
 * requests to other hosts. `expects` is a pattern of console messages that are not problems.
 */
export async function openTab(url, { expects = null, ...options } = {}) {
  const context = await the.browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(`threw: ${error.message}`));
  page.on("console", (message) => {
    const isBad = ["error", "warning"].includes(message.type());
    if (isBad && !expects?.test(message.text())) page.problems.push(message.text());
  });
  page.on("request", (request) => {
    const { host } = new URL(url);
    if (host && new URL(request.url()).host !== host) page.problems.push(`requests ${request.url()}`);
  });
  await page.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (event) => console.error(`refused by the policy: ${event.violatedDirective}`)),
  );
  await page.goto(url);
  return page;
}

/** Opens the demo page at the address that the terminal prints, which contains the login. */
export async function openDemoPage(hub, options) {
  const page = await openTab(`http://${hub.address}${hub.prefix ?? ""}/#login=demo:${encodeURIComponent(PASSWORD)}`, options);
  await page.locator("#version", { hasText: "v" }).waitFor();
  return page;
}

export async function logIn(page, storage) {
  if (storage) {
    await page.locator("#step-identity summary").click();
    await page.locator(`input[name=storage][value=${storage}]`).check();
  }
  await page.getByRole("button", { name: "Log in", exact: true }).click();
  await page.getByRole("button", { name: "Log out" }).waitFor();
}

export async function paste(page, token) {
  await page.getByLabel("Paste a token").check();
  await page.getByLabel("Token (JWT)").fill(token);
  await page.getByRole("button", { name: "Use this token" }).click();
}

export async function connect(page, way) {
  if (way) {
    if (!(await page.locator("#ways").isVisible())) await page.locator("#ways-more summary").click();
    await page.locator(`input[name=way][value=${way}]`).check();
  }
  const before = await subscribeReplies(page).count();
  await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
  await waitUntilConnected(page);
  // From here on the page receives publications.
  await subscribeReplies(page).nth(before).waitFor({ state: "attached" });
}

/** Opens the demo page, logs in, and connects. */
export async function openConnectedPage(hub, options) {
  const page = await openDemoPage(hub, options);
  await logIn(page);
  await connect(page);
  return page;
}

/** Returns the log lines of successful subscriptions. */
export const subscribeReplies = (page) => page.locator("#log .label", { hasText: /^subscribe done$/ });

export const waitUntilConnected = (page) => page.locator('#state[data-state="ready"]').waitFor();

/** Waits until the log shows a publication with this text. */
export const waitForPublication = (page, text) => page.locator("#log li.pub", { hasText: text }).first().waitFor();

/** Waits until a notice with this title is shown. */
export async function waitForNotice(page, title) {
  await page.locator("#notice-title", { hasText: title }).waitFor();
}

/** Subscribes by the form of the page, and waits until the subscription is listed. */
export async function subscribe(page, channel) {
  await page.getByLabel("Channel to subscribe to").fill(channel);
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await page.getByRole("button", { name: `Unsubscribe from ${channel}`, exact: true }).waitFor();
}

/** Returns what the list of subscriptions says about a channel. */
export const factsOf = (page, channel) => page.locator("#subscriptions > li", { has: page.getByText(channel, { exact: true }) }).locator(".facts");

/** Checks that the page had no problems. */
export const assertNoProblems = (page) => assert.deepEqual(page.problems, []);

/** Publishes with the server API. */
export async function publish(hub, channel, data) {
  const answer = await fetch(`${hub.api}/api/publish`, {
    method: "POST",
    headers: { "x-api-key": hub.key },
    body: JSON.stringify({ channel, data }),
  });
  assert.equal((await answer.json()).error, undefined);
}

/** Waits until `holds` resolves to true. Each check waits for an answer of the browser, so it does not spin. */
export async function waitUntil(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) assert.ok(Date.now() < deadline, `timed out: ${what}`);
}

/** Serves a blank page of another origin than the hub's. */
export async function startBlankPage() {
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html><title>blank</title>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  // A test that fails before it closes the server must not hold up the others.
  server.unref();
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}
