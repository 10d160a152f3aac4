// The example backends of docs/examples/hooks, each with a hub and SDK clients: the cookie of their login is the credential.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { WebSocket } from "ws";

import { startHub, stopAtExit } from "../support/hub.mjs";
import { BINARY, createClient, createSubscription, FORMATS, subscribe, withDeadline } from "./support.mjs";

const EXAMPLES = new URL("../../docs/examples/hooks/", import.meta.url).pathname;
const BACKENDS = {
  FastAPI: [process.env.WARDCAST_PYTHON, "-m", "uvicorn", "fastapi_backend:app", "--port", "0"],
  Express: [process.execPath, "express_backend.mjs"],
};

/** Starts a backend; resolves with its address. */
async function startBackend(t, [command, ...args], secret) {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-backend-"));
  cpSync(EXAMPLES, folder, { recursive: true });
  // Node looks for packages beside the program.
  symlinkSync(new URL("node_modules", import.meta.url).pathname, join(folder, "node_modules"));
  const child = spawn(command, args, {
    cwd: folder,
    env: { PATH: process.env.PATH, HOOKS_SECRET: secret, PORT: "0", PYTHONDONTWRITEBYTECODE: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(stopAtExit(child, folder));
  let output = "";
  const listening = new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
        const found = output.match(/(?:running on http:\/\/|listening on )(127\.0\.0\.1:\d+)/);
        if (found) resolve(found[1]);
      });
    }
    child.once("close", () => reject(new Error(`the backend exited: ${output}`)));
  });
  return withDeadline(listening, "the backend");
}

/** Logs in, and returns the WebSocket of a page with the cookie. */
async function logIn(backend, hub, user, password) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`http://${backend}/login`, { method: "POST", headers, body: JSON.stringify({ user, password }) });
  assert.equal(response.status, 200);
  const cookie = response.headers.get("set-cookie").split(";")[0];
  return class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { headers: { Cookie: cookie, Origin: `http://${hub.address}` } });
    }
  };
}

for (const [name, command] of Object.entries(BACKENDS)) {
  for (const format of FORMATS) {
    test(`clients of the ${name} example log in there and do what it allows (${format.name})`, async (t) => {
      const secret = randomBytes(32).toString("hex");
      const backend = await startBackend(t, command, secret);
      const config = readFileSync(join(EXAMPLES, "wardcast.toml"), "utf8").replaceAll("127.0.0.1:3000", backend);
      const hub = await startHub(BINARY, { config, env: { WARDCAST_HOOKS__SECRET: secret } });
      t.after(() => hub.stop());

      const stranger = createClient(t, hub, { format });
      stranger.connect();
      assert.equal((await stranger.events.waitFor("disconnected")).code, 401);

      const client = async (user, password) => {
        const it = createClient(t, hub, { format, websocket: await logIn(backend, hub, user, password) });
        it.connect();
        assert.deepEqual(format.value((await it.events.waitFor("connected")).data), { hello: user });
        return it;
      };
      const [ann, bob] = [await client("ann", "correct horse"), await client("bob", "battery staple")];
      const [ofAnn, ofBob] = [await subscribe(ann, "room:1"), await subscribe(bob, "room:1")];
      await ofAnn.publish(format.data(" hello "));
      for (const it of [ofAnn, ofBob]) {
        assert.deepEqual(format.value((await it.events.waitFor("publication")).data), { from: "ann", text: "hello" });
      }
      await assert.rejects(ofAnn.publish(format.data(7)), { code: 400 });
      const foreign = createSubscription(ann, "room:2");
      foreign.subscribe();
      assert.equal((await foreign.events.waitFor("unsubscribed")).code, 403);
      await subscribe(bob, "room:2");
      assert.deepEqual(format.value((await bob.rpc("rooms", format.data(null))).data), ["room:1", "room:2"]);
      await assert.rejects(ann.rpc("nothing", format.data(null)), { code: 404 });
      for (let number = 0; number < 20; number++) ann.send(format.data({ number }));
      const sent = Array.from({ length: 20 }, (_, number) => ({ user: "ann", data: { number } }));
      const received = async () => (await fetch(`http://${backend}/messages`)).json();
      const all = async () => {
        while ((await received()).length < sent.length) await new Promise((resolve) => setTimeout(resolve, 20));
      };
      await withDeadline(all(), "the messages");
      assert.deepEqual(await received(), sent);

      const forged = await fetch(`http://${backend}/hooks/connect`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Wardcast-Signature": `t=${Math.floor(Date.now() / 1000)},v1=00` },
        body: "{}",
      });
      assert.equal(forged.status, 401);
    });
  }
}
