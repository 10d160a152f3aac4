// Runs the README's SDK code unchanged against a real hub, except for its two hosts, and checks the syntax of every JavaScript
// block in the documentation.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { api, connectClient, startHub, withDeadline, subscribe } from "./support.mjs";

const folder = new URL("readme/", import.meta.url);
// Inside node_modules, where the copies can import the SDK as an application would.
const copies = new URL(`node_modules/.readme-${process.pid}/`, import.meta.url);
// Browsers have WebSocket; Node before 22 does not.
const browser = 'import { WebSocket } from "ws";\nglobalThis.WebSocket ??= WebSocket;\n';

let hub;
let backend;
before(async () => {
  hub = await startHub();
  mkdirSync(copies);
  backend = createServer((_, answer) => answer.end(hub.sign({ sub: "reader", channels: ["server-side"] })));
  await new Promise((resolve) => backend.listen(0, "127.0.0.1", resolve));
});
after(async () => {
  backend.close();
  rmSync(copies, { recursive: true });
  await hub.stop();
});

/** Runs a file of the README. Returns a function that waits until the output matches a pattern. */
function run(t, name) {
  const hosts = { "wss://hub.example.com": `ws://${hub.address}`, "https://app.example.com": `http://127.0.0.1:${backend.address().port}` };
  let text = readFileSync(new URL(name, folder), "utf8");
  for (const [host, local] of Object.entries(hosts)) text = text.replaceAll(host, local);
  const copy = new URL(name, copies);
  writeFileSync(copy, name.endsWith(".mjs") ? browser + text : text);
  const command = name.endsWith(".mjs") ? [process.execPath] : [process.env.WARDCAST_PYTHON, "-u"];
  const child = spawn(command[0], [...command.slice(1), copy.pathname], { env: { PATH: process.env.PATH, NO_PROXY: "*" } });
  t.after(() => child.kill());
  let output = "";
  let wake = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text) => ((output += text), wake()));
  }
  child.once("exit", () => (output += "(exited)"));
  return async (pattern) => {
    while (!pattern.test(output)) {
      const more = new Promise((resolve) => (wake = resolve));
      await withDeadline(more, `${pattern}; output instead: ${output}`);
    }
    return output;
  };
}

test("SDK code with getToken publishes and receives", async (t) => {
  const waitForOutput = run(t, "sdk.mjs");
  await waitForOutput(/\{ hello: 'world' \}/);
  await api(hub, "publish", { channel: "news", data: "of REST" });
  await waitForOutput(/of REST/);
});

test("SDK code with a token in the URL publishes and receives publications of the token's channels", async (t) => {
  const news = await subscribe(await connectClient(t, hub), "news");
  const waitForOutput = run(t, "query.mjs");
  // A client that has published is connected. Before that, the SDK does not know the channels and drops publications.
  assert.deepEqual((await news.events.waitFor("publication")).data, { hello: "world" });
  await api(hub, "publish", { channel: "server-side", data: "to you" });
  await waitForOutput(/server-side to you/);
});

test("Python SDK code with get_token publishes and receives", async (t) => {
  const waitForOutput = run(t, "sdk.py");
  await waitForOutput(/\{'hello': 'world'\}/);
  await api(hub, "publish", { channel: "news", data: "of REST" });
  await waitForOutput(/of REST/);
});

test("every SDK block of the README is run by these tests", () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const blocks = [...readme.matchAll(/^```(?:js|javascript|python|py)\n([^]*?)^```$/gm)].map(([, block]) => block);
  const files = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), "utf8"));
  for (const block of blocks.filter((block) => /centrifuge/i.test(block))) {
    assert.ok(files.includes(block), `not a file of tests/sdk/readme:\n${block}`);
  }
});

test("every JavaScript block of the README and docs parses", () => {
  const root = new URL("../../", import.meta.url);
  const docs = readdirSync(new URL("docs/", root)).filter((name) => name.endsWith(".md"));
  let checked = 0;
  for (const name of ["README.md", ...docs.map((name) => `docs/${name}`)]) {
    const text = readFileSync(new URL(name, root), "utf8");
    for (const [, block] of text.matchAll(/^```(?:js|javascript)\n([^]*?)^```$/gm)) {
      const file = new URL(`block-${checked}.mjs`, copies);
      writeFileSync(file, block);
      const { status, stderr } = spawnSync(process.execPath, ["--check", file.pathname], { encoding: "utf8" });
      assert.equal(status, 0, `${name}: ${stderr}\n${block}`);
      checked += 1;
    }
  }
  assert.ok(checked >= 3, `only ${checked} JavaScript blocks found`);
});
