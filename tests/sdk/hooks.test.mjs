// The example backends of docs/examples/hooks, each with a hub and SDK clients: the cookie of their login is the credential.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac, randomBytes, randomUUID } from "node:crypto";
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

/** Starts a backend; resolves with its address. `env` is added to its environment. */
async function startBackend(t, [command, ...args], env) {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-backend-"));
  cpSync(EXAMPLES, folder, { recursive: true });
  // Node looks for packages beside the program.
  symlinkSync(new URL("node_modules", import.meta.url).pathname, join(folder, "node_modules"));
  const child = spawn(command, args, {
    cwd: folder,
    env: { PATH: process.env.PATH, PORT: "0", PYTHONDONTWRITEBYTECODE: "1", ...env },
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

/** Starts a hub with the configuration of the examples. */
async function startHubOf(t, backend, env, settings = {}) {
  const config = readFileSync(join(EXAMPLES, "wardcast.toml"), "utf8").replaceAll("127.0.0.1:3000", backend);
  const hub = await startHub(BINARY, { config, env, settings });
  t.after(() => hub.stop());
  return hub;
}

const post = (backend, path, headers, body) =>
  fetch(`http://${backend}${path}`, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body });

/** Logs in; resolves with the cookie. */
async function logIn(backend, user, password) {
  const response = await post(backend, "/login", {}, JSON.stringify({ user, password }));
  assert.equal(response.status, 200);
  return response.headers.get("set-cookie").split(";")[0];
}

/** Returns the WebSocket of a page with this cookie. */
const socketWith = (cookie, hub) =>
  class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { headers: { Cookie: cookie, Origin: `http://${hub.address}` } });
    }
  };

/** Waits until `read` resolves with a value that `holds`, and resolves with it. */
async function waitUntil(what, read, holds) {
  let value;
  const wait = async () => {
    while (!holds((value = await read()))) await new Promise((resolve) => setTimeout(resolve, 20));
    return value;
  };
  return withDeadline(wait(), what).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(value)}`);
  });
}

const getJson = async (backend, path) => (await fetch(`http://${backend}${path}`)).json();

for (const [name, command] of Object.entries(BACKENDS)) {
  for (const format of FORMATS) {
    test(`clients of the ${name} example log in there and do what it allows (${format.name})`, async (t) => {
      const [secret, other] = [randomBytes(32).toString("hex"), randomBytes(32).toString("hex")];
      const backend = await startBackend(t, command, { HOOKS_SECRET: secret });
      // The secret is being changed: calls have two signatures, and the backend knows the secret of either.
      const [current, previous] = format.name === "JSON" ? [other, secret] : [secret, other];
      const hub = await startHubOf(t, backend, { WARDCAST_HOOKS__SECRET: current, WARDCAST_HOOKS__PREVIOUS_SECRET: previous });

      const stranger = createClient(t, hub, { format });
      stranger.connect();
      assert.equal((await stranger.events.waitFor("disconnected")).code, 401);

      for (const password of ["größe", "", 5]) {
        assert.equal((await post(backend, "/login", {}, JSON.stringify({ user: "ann", password }))).status, 401);
      }
      const client = async (user, password) => {
        const it = createClient(t, hub, { format, websocket: socketWith(await logIn(backend, user, password), hub) });
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
      const all = await waitUntil("the messages", () => getJson(backend, "/messages"), ({ length }) => length >= sent.length);
      assert.deepEqual(all, sent);

      const now = Math.floor(Date.now() / 1000);
      for (const signature of [`t=${now},v1=00`, `t=${now}`, "", "t=,v1=", "v1", "=,="]) {
        const forged = await post(backend, "/hooks/connect", { "X-Wardcast-Signature": signature }, "{}");
        assert.equal(forged.status, 401, signature);
      }
      assert.equal((await post(backend, "/hooks/connect", {}, "{}")).status, 401);
    });
  }

  test(`sessions and subscriptions of the ${name} example last as long as it renews them`, async (t) => {
    const secret = randomBytes(32).toString("hex");
    const backend = await startBackend(t, command, { HOOKS_SECRET: secret, LIFETIME: "4" });
    const hub = await startHubOf(t, backend, { WARDCAST_HOOKS__SECRET: secret });
    const cookie = await logIn(backend, "ann", "correct horse");
    const ann = createClient(t, hub, { websocket: socketWith(cookie, hub) });
    ann.connect();
    await ann.events.waitFor("connected");
    const room = await subscribe(ann, "room:1");
    const renewals = async () => {
      const answer = await fetch(`http://${hub.address}/metrics`, { headers: { "X-API-Key": hub.key } });
      const text = await answer.text();
      const count = (hook) => Number(text.match(`wardcast_hook_calls_total{hook="${hook}",outcome="answered"} (\\d+)`)?.[1] ?? 0);
      return [count("refresh"), count("sub_refresh")];
    };
    await waitUntil("two renewals of each", renewals, (counts) => Math.min(...counts) >= 2);
    assert.ok(!ann.events.has("connecting") && !ann.events.has("disconnected"));
    assert.ok(!room.events.has("subscribing") && !room.events.has("unsubscribed"));

    // The subscription ends when the backend no longer renews it, and a new one is refused.
    assert.equal((await post(backend, "/leave", { Cookie: cookie }, '{"room":"room:1"}')).status, 200);
    assert.equal((await room.events.waitFor("subscribing")).code, 2501);
    assert.equal((await room.events.waitFor("unsubscribed")).code, 403);
    assert.ok(!ann.events.has("connecting"));
    // So does the session.
    assert.equal((await post(backend, "/logout", { Cookie: cookie }, "{}")).status, 200);
    assert.equal((await ann.events.waitFor("connecting")).code, 3005);
    assert.equal((await ann.events.waitFor("disconnected")).code, 401);
  });

  test(`events tell the ${name} example what its users do, and it handles each once`, async (t) => {
    const secret = randomBytes(32).toString("hex");
    const backend = await startBackend(t, command, { HOOKS_SECRET: secret });
    const env = { WARDCAST_HOOKS__SECRET: secret };
    const hub = await startHubOf(t, backend, env, { "hooks.events.vacated_delay": "100ms" });
    const activity = (what, holds) => waitUntil(what, () => getJson(backend, "/activity"), holds);
    const connect = async (user, password) => {
      const it = createClient(t, hub, { websocket: socketWith(await logIn(backend, user, password), hub) });
      it.connect();
      await it.events.waitFor("connected");
      return it;
    };
    const clients = [await connect("ann", "correct horse"), await connect("bob", "battery staple")];
    const rooms = [await subscribe(clients[0], "room:1"), await subscribe(clients[1], "room:1"), await subscribe(clients[1], "room:2")];
    await activity("two users and two rooms", ({ online, rooms }) => `${online} ${rooms}` === "ann,bob room:1,room:2");
    rooms[0].unsubscribe();
    await activity("ann has left", ({ departures }) => departures.length > 0);
    clients[1].disconnect();
    const after = await activity("bob and all subscribers are gone", ({ online, rooms }) => `${online} ${rooms}` === "ann ");
    assert.deepEqual(after.departures, [{ user: "ann", room: "room:1" }]);
    assert.ok(after.connected_ms.bob > 0, JSON.stringify(after));

    const event = { time: 5_000, node: randomUUID(), client: randomUUID(), user: "eve", transport: "websocket", protocol: "json" };
    const body = JSON.stringify({
      events: [
        { ...event, id: randomUUID(), type: "connect" },
        { ...event, id: randomUUID(), type: "disconnect", connected_at: 3_000 },
        { id: randomUUID(), type: "unsubscribe", time: 5_000, node: event.node, client: event.client, user: "eve", channel: "room:2" },
      ],
    });
    const now = Math.floor(Date.now() / 1000);
    const signature = `t=${now},v1=${createHmac("sha256", secret).update(`${now}.${body}`).digest("hex")}`;
    for (let time = 0; time < 2; time++) {
      assert.equal((await post(backend, "/hooks/events", { "X-Wardcast-Signature": signature }, body)).status, 200);
    }
    assert.equal((await post(backend, "/hooks/events", { "X-Wardcast-Signature": signature }, `${body} `)).status, 401);
    const { online, connected_ms, departures } = await getJson(backend, "/activity");
    assert.deepEqual([online, connected_ms.eve, departures.length], [["ann"], 2_000, 2]);
  });
}
