// The README's code for SDKs, run as it stands there against a real hub; only its two hosts are replaced.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { api, connected, hub as start, soon, subscribed } from "./support.mjs";

const folder = new URL("readme/", import.meta.url);
// Inside node_modules, where a copy finds the SDK as an application would.
const copies = new URL(`node_modules/.readme-${process.pid}/`, import.meta.url);
// What Node before 22 does not have, and browsers do.
const browser = 'import { WebSocket } from "ws";\nglobalThis.WebSocket ??= WebSocket;\n';

let hub;
let backend;
before(async () => {
  hub = await start();
  mkdirSync(copies);
  backend = createServer((_, answer) => answer.end(hub.sign({ sub: "reader", channels: ["brought"] })));
  await new Promise((resolve) => backend.listen(0, "127.0.0.1", resolve));
});
after(async () => {
  backend.close();
  rmSync(copies, { recursive: true });
  await hub.stop();
});

/** Runs a file of the README; what it prints can be waited for. */
function run(t, name) {
  const hosts = { "wss://hub.example.com": `ws://${hub.address}`, "https://app.example.com": `http://127.0.0.1:${backend.address().port}` };
  let text = readFileSync(new URL(name, folder), "utf8");
  for (const [host, ours] of Object.entries(hosts)) text = text.replaceAll(host, ours);
  const copy = new URL(name, copies);
  writeFileSync(copy, name.endsWith(".mjs") ? browser + text : text);
  const command = name.endsWith(".mjs") ? [process.execPath] : [process.env.WARDCAST_PYTHON, "-u"];
  const child = spawn(command[0], [...command.slice(1), copy.pathname], { env: { PATH: process.env.PATH, NO_PROXY: "*" } });
  t.after(() => child.kill());
  let output = "";
  let woken = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text) => ((output += text), woken()));
  }
  child.once("exit", () => (output += "(it has ended)"));
  return async (pattern) => {
    while (!pattern.test(output)) {
      const more = new Promise((resolve) => (woken = resolve));
      await soon(more, `${pattern}; instead: ${output}`);
    }
    return output;
  };
}

test("an SDK with getToken publishes and hears", async (t) => {
  const says = run(t, "sdk.mjs");
  await says(/\{ hello: 'world' \}/);
  await api(hub, "publish", { channel: "news", data: "of REST" });
  await says(/of REST/);
});

test("an SDK with a token in the URL publishes, and hears what the token brings", async (t) => {
  const news = await subscribed(await connected(t, hub), "news");
  const says = run(t, "query.mjs");
  // Who publishes has been connected: before, an SDK knows nothing of the channels and drops what comes.
  assert.deepEqual((await news.heard.next("publication")).data, { hello: "world" });
  await api(hub, "publish", { channel: "brought", data: "to you" });
  await says(/brought to you/);
});

test("the SDK of Python with get_token publishes and hears", async (t) => {
  const says = run(t, "sdk.py");
  await says(/\{'hello': 'world'\}/);
  await api(hub, "publish", { channel: "news", data: "of REST" });
  await says(/of REST/);
});

test("the README has no other code for SDKs than what is run here", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const blocks = [...readme.matchAll(/^```(?:js|javascript|python|py)\n([^]*?)^```$/gm)].map(([, block]) => block);
  const files = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), "utf8"));
  for (const block of blocks.filter((block) => /centrifuge/i.test(block))) {
    assert.ok(files.includes(block), `not a file of tests/sdk/readme/:\n${block}`);
  }
});
