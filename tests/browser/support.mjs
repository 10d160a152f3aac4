// What the tests in a browser are written in: a browser, a page of a hub, and what must never happen on one.

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

/** Runs `test` with a development hub that knows the user demo. */
export async function withHub(options, test) {
  const hub = await startHub(BINARY, { users: { demo: PASSWORD }, ...options });
  try {
    await test(hub);
  } finally {
    await hub.stop();
  }
}

/** The same hub again, as far as others can tell: same address, same secrets unless changed. */
export const again = (hub, options = {}) =>
  startHub(BINARY, { users: { demo: PASSWORD }, settings: { "server.bind": hub.address }, ...options });

/**
 * A tab of its own profile on `url`. `page.problems` collects what must not be there: errors, refusals by the policy, and
 * requests to others.
 */
export async function tab(url, { expects = null, ...options } = {}) {
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
    if (host && new URL(request.url()).host !== host) page.problems.push(`asks ${request.url()}`);
  });
  await page.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (event) => console.error(`refused by the policy: ${event.violatedDirective}`)),
  );
  await page.goto(url);
  return page;
}

/** The page, with the login as the terminal's address brings it. */
export async function newcomer(hub, options) {
  const page = await tab(`http://${hub.address}/#login=demo:${encodeURIComponent(PASSWORD)}`, options);
  await page.locator("#version", { hasText: "v" }).waitFor();
  return page;
}

export async function logIn(page, keep) {
  if (keep) {
    await page.locator("#step-identity summary").click();
    await page.locator(`input[name=storage][value=${keep}]`).check();
  }
  await page.getByRole("button", { name: "Log in", exact: true }).click();
  await page.getByRole("button", { name: "Log out" }).waitFor();
}

export async function paste(page, token) {
  await page.getByLabel("Paste a token").check();
  await page.getByLabel("Token (JWT)").fill(token);
  await page.getByRole("button", { name: "Use this token" }).click();
}

export async function connect(page, door) {
  if (door) {
    if (!(await page.locator("#ways").isVisible())) await page.locator("#ways-more summary").click();
    await page.locator(`input[name=way][value=${door}]`).check();
  }
  const before = await subscribed(page).count();
  await page.getByRole("button", { name: "Connect and subscribe to news" }).click();
  await connected(page);
  // What is published from here on is heard.
  await subscribed(page).nth(before).waitFor({ state: "attached" });
}

/** The lines of the log that say so. */
export const subscribed = (page) => page.locator("#log .label", { hasText: /^subscribe done$/ });

export const connected = (page) => page.locator('#state[data-state="ready"]').waitFor();

/** Waits for a publication in the log. */
export const hears = (page, text) => page.locator("#log li.pub", { hasText: text }).first().waitFor();

export async function told(page, title) {
  await page.locator("#notice-title", { hasText: title }).waitFor();
}

export const fine = (page) => assert.deepEqual(page.problems, []);

/** By the server API. */
export async function publish(hub, channel, data) {
  const answer = await fetch(`http://${hub.address}/api/publish`, {
    method: "POST",
    headers: { "x-api-key": hub.key },
    body: JSON.stringify({ channel, data }),
  });
  assert.deepEqual(await answer.json(), { result: {} });
}

/** Until it holds; what it asks is asked of a server, so each look waits for an answer. */
export async function eventually(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) assert.ok(Date.now() < deadline, `never: ${what}`);
}

/** A blank page of a stranger: another origin than the hub's. */
export async function stranger() {
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html><title>blank</title>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}
