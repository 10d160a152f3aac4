// Starts a hub as a process for tests in JavaScript. Needs only Node 18 or later.
//
//     const hub = await startHub("target/debug/wardcast", { settings: { "auth.reject": "close" }, users: { ann: "password" } });
//     hub.address, hub.token, hub.key, hub.password; hub.sign({ sub: "ann" }); await hub.stop();

import { spawn, spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Maximum time of every wait; generous, because other tests may use the machine at the same time. */
export const PATIENCE_MS = 20_000;
/** The secret of `sign` and of the hub. */
export const SECRET = "the secret of the tests in JavaScript, long enough";

const running = new Set();
const folders = new Set();

function stopAll() {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}
process.on("exit", stopAll);
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** Kills a process and removes its folder when the tests exit. Returns a function that kills it and removes the folder now. */
export function stopAtExit(child, folder) {
  running.add(child);
  folders.add(folder);
  return () => {
    child.kill("SIGKILL");
    running.delete(child);
    folders.delete(folder);
    rmSync(folder, { recursive: true, force: true });
  };
}

/** Returns a token signed with HS256. `ttl` is in seconds; an `exp` claim takes precedence. */
export function sign(claims, { secret = SECRET, ttl = 3600 } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + ttl;
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ exp, ...claims })}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

/** Returns the content of a users file; `wardcast hash-password` hashes the passwords. */
function usersFile(binary, users) {
  const entries = Object.entries(users).map(([name, password]) => {
    const hashed = spawnSync(binary, ["hash-password"], { input: `${password}\n`, encoding: "utf8" });
    if (hashed.status !== 0) throw new Error(`hash-password: ${hashed.stderr}`);
    return `[[users]]\nname = ${JSON.stringify(name)}\npassword = "${hashed.stdout.trim()}"\n`;
  });
  return entries.join("\n");
}

/**
 * Starts a development hub. Resolves when it has printed its banner. `settings` become `--set KEY=VALUE`, `env` its environment,
 * `config` (TOML) its configuration file, and `users` {name: password} a users file; with `secret: null` the hub generates its own secret.
 */
export async function startHub(binary, { settings = {}, env = {}, config, users, secret = SECRET } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "wardcast-hub-"));
  const all = { "server.bind": "127.0.0.1:0", ...settings };
  if (secret) all["auth.hmac_secret"] = secret;
  if (users) {
    all["login.users_file"] = join(folder, "users.toml");
    writeFileSync(all["login.users_file"], usersFile(binary, users), { mode: 0o600 });
  }
  const flags = Object.entries(all).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
  if (config) {
    const path = join(folder, "wardcast.toml");
    writeFileSync(path, config, { mode: 0o600 });
    flags.push("--config", path);
  }
  const child = spawn(binary, ["serve", ...flags], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const remove = stopAtExit(child, folder);
  const exited = new Promise((resolve) => child.once("close", (code, signal) => resolve({ code, signal })));
  const hub = {
    pid: child.pid,
    /** The path of its users file, if it has one. */
    usersFile: all["login.users_file"],
    /** Everything that it has printed to stdout and stderr. */
    output: "",
    /** Resolves with {code, signal} when the process has exited. */
    exited,
    sign: (claims, options) => sign(claims, { secret: secret ?? undefined, ...options }),
    /** Sends a signal, SIGTERM by default. Resolves with {code, signal} when the process has exited. */
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      const exit = await exited;
      remove();
      return exit;
    },
  };
  await new Promise((resolve, reject) => {
    const fail = (why) => reject(new Error(`the hub ${why}:\n${hub.output}`));
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      fail(`did not start within ${PATIENCE_MS} ms`);
    }, PATIENCE_MS);
    child.once("error", (error) => fail(error.message));
    exited.then(() => (clearTimeout(timer), fail("exited")));
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        hub.output += text;
        if (/Ctrl-C stops\./.test(hub.output)) (clearTimeout(timer), resolve());
      });
    }
  });
  const find = (pattern) => hub.output.match(pattern)?.[1];
  hub.address = find(/wss?:\/\/([^/\s]+)\//);
  /** The base URL of the server API, with the path prefix. */
  hub.api = find(/curl .*?(https?:\/\/\S+)\/api\/publish/);
  hub.token = find(/token=([\w.-]+)/);
  hub.key = find(/X-API-Key: ([^']+)'/);
  hub.password = find(/#login=demo:(\w+)/);
  return hub;
}
