// The lines of JavaScript in the banner of a development hub work unchanged in the console of the page that the banner names.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { assertNoProblems, openTab, withBrowser, withHub } from "./support.mjs";

withBrowser();

/** Returns what the banner says: the page to open, the lines to paste, and the command that publishes. */
function readBanner({ output }) {
  const [, listen] = output.match(/1\. Listen\. ([^]*?)2\. Publish\./);
  const [named] = listen.match(/(https?:\S+)|the page above/);
  return {
    page: named === "the page above" ? output.match(/Page +(\S+)/)[1] : named,
    lines: listen.match(/^ {3}ws[. ].*$/gm).join("\n"),
    curl: output.match(/^ {3}(curl .*)$/m)[1],
  };
}

/** Enters text into the console of a tab, as its developer tools do. */
async function enterIntoConsole(tab, text) {
  const session = await tab.context().newCDPSession(tab);
  const { exceptionDetails } = await session.send("Runtime.evaluate", {
    expression: text, includeCommandLineAPI: true, replMode: true, userGesture: true, objectGroup: "console",
  });
  assert.equal(exceptionDetails, undefined);
}

/** Opens `url`, pastes the banner's lines, executes its second command, and waits until the console shows the publication. */
async function followBanner({ lines, curl }, url, options) {
  const tab = await openTab(url, options);
  const isPublication = (message) => message.text().includes('"data":{"hello":"world"}');
  const subscribed = tab.waitForEvent("console", (message) => message.text().includes('"subscribe":{'));
  const published = tab.waitForEvent("console", isPublication);
  assert.equal(lines.split("\n").length, 3, lines);
  await enterIntoConsole(tab, lines);
  await subscribed;
  assert.equal(execFileSync("sh", ["-c", `${curl} --silent`], { encoding: "utf8" }), '{"result":{}}');
  await published;
  assertNoProblems(tab);
  await tab.context().close();
}

test("the banner's lines work in the console of its page, at localhost and at 127.0.0.1", () =>
  withHub({ users: null, secret: null }, async (hub) => {
    const banner = readBanner(hub);
    assert.match(banner.page, /^http:\/\/127\.0\.0\.1:\d+\/#login=demo:/);
    await followBanner(banner, banner.page);
    await followBanner(banner, banner.page.replace("127.0.0.1", "localhost"));
  }));

test("without the demo page, the banner's lines work on the page that it names instead", () =>
  withHub({ users: null, secret: null, settings: { "web.demo_page": false } }, async (hub) => {
    const banner = readBanner(hub);
    // The browser also asks for an icon, which such a hub does not have.
    const expects = /status of 404/;
    await followBanner(banner, banner.page, { expects });
    await followBanner(banner, banner.page.replace("127.0.0.1", "localhost"), { expects });
  }));

test("the banner's lines work over TLS", async () => {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-banner-"));
  const [cert, key] = [join(folder, "cert.pem"), join(folder, "key.pem")];
  try {
    const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    execFileSync("openssl", [...request, ...names, "-keyout", key, "-out", cert], { stdio: "ignore" });
    await withHub({ users: null, secret: null, settings: { "server.tls.cert": cert, "server.tls.key": key } }, async (hub) => {
      const banner = readBanner(hub);
      assert.match(banner.page, /^https:/);
      await followBanner(banner, banner.page, { ignoreHTTPSErrors: true });
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
