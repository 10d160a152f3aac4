// Starts hubs that share a Redis, for tests in JavaScript that use them like one hub. Needs redis-server and redis-cli.
//
//     const hub = await startNodes("target/debug/wardcast", { settings: { "channels.history_size": 10 } });

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { PATIENCE_MS, startHub, stopAtExit } from "./hub.mjs";

const NODES = 2;
const KEY = "the API key of the nodes, long enough";

/** Starts an empty Redis on a unix socket. */
async function startRedis() {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-redis-"));
  const socket = join(folder, "redis.sock");
  const flags = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder];
  const child = spawn("redis-server", flags, { stdio: ["ignore", "pipe", "ignore"] });
  const stop = stopAtExit(child, folder);
  let output = "";
  await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`redis-server exited:\n${output}`)));
    child.stdout.on("data", (text) => /ready to accept connections/.test((output += text)) && resolve());
  });
  return { socket, stop };
}

/** Waits until a hub is ready and knows all nodes. */
async function waitForNodes({ address, output }, prefix) {
  const deadline = Date.now() + PATIENCE_MS;
  const call = { method: "POST", headers: { "X-API-Key": KEY }, body: "{}" };
  const nodes = async () => (await (await fetch(`http://${address}${prefix}/api/info`, call)).json()).result?.nodes.length;
  while ((await fetch(`http://${address}/health/ready`)).status !== 200 || (await nodes()) !== NODES) {
    if (Date.now() > deadline) throw new Error(`the hub does not find the other one:\n${output}`);
  }
}

/**
 * Starts two hubs on one Redis. The result is like that of `startHub`, but `address` is that of each hub in turn, `addresses`
 * has all of them, and `loseState` empties the Redis.
 */
export async function startNodes(binary, { settings = {} } = {}) {
  const redis = await startRedis();
  const all = { ...settings, "api.key": KEY, "broker.type": "redis", "broker.redis.url": `unix://${redis.socket}` };
  const hubs = [];
  const stop = async () => {
    await Promise.all(hubs.map((hub) => hub.stop()));
    redis.stop();
  };
  try {
    for (let number = 0; number < NODES; number++) hubs.push(await startHub(binary, { settings: all }));
    for (const hub of hubs) await waitForNodes(hub, settings["server.path_prefix"] ?? "");
  } catch (error) {
    await stop();
    throw error;
  }
  const addresses = hubs.map(({ address }) => address);
  let turn = 0;
  return {
    get address() {
      return addresses[turn++ % NODES];
    },
    addresses,
    key: KEY,
    sign: hubs[0].sign,
    loseState() {
      const flushed = spawnSync("redis-cli", ["-s", redis.socket, "FLUSHALL"], { encoding: "utf8" });
      if (flushed.stdout.trim() !== "OK") throw new Error(`FLUSHALL: ${flushed.stdout} ${flushed.stderr}`);
    },
    stop,
  };
}
