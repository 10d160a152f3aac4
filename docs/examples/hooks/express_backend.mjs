// A backend in Express: its login is the credential of the hub's clients, and it decides what they may do.
//
//     npm install express
//     HOOKS_SECRET=$(openssl rand -hex 32) PORT=3000 node express_backend.mjs

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

import express from "express";

const SECRET = process.env.HOOKS_SECRET;
if (!SECRET) throw new Error("set HOOKS_SECRET");
const LIFETIME = 3600;
const PASSWORDS = new Map([["ann", "correct horse"], ["bob", "battery staple"]]);
const MEMBERS = new Map([["room:1", ["ann", "bob"]], ["room:2", ["bob"]]]);

const app = express();
const sessions = new Map();
const messages = [];

const now = () => Math.floor(Date.now() / 1000);
const error = (code, message) => ({ error: { code, message } });
const isMember = ({ user, channel }) => MEMBERS.get(channel)?.includes(user) ?? false;
const sessionOf = (request) => /(?:^|;\s*)session=([^;]*)/.exec(request.get("cookie") ?? "")?.[1];

function isEqual(one, other) {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}

app.post("/login", express.json(), (request, response) => {
  const { user, password } = request.body ?? {};
  if (!PASSWORDS.has(user) || !isEqual(PASSWORDS.get(user), String(password))) return response.sendStatus(401);
  const session = randomBytes(32).toString("base64url");
  sessions.set(session, user);
  response.cookie("session", session, { httpOnly: true, sameSite: "lax", secure: request.secure }).json({});
});

app.get("/messages", (_, response) => response.json(messages));

// The signature is that of the bytes of the body.
const hooks = express.Router().use(express.raw({ type: "application/json", limit: "1mb" }), (request, response, next) => {
  const [, time, code] = /^t=(\d+),v1=([0-9a-f]+)$/.exec(request.get("x-wardcast-signature") ?? "") ?? [];
  const expected = time && createHmac("sha256", SECRET).update(`${time}.`).update(request.body).digest("hex");
  if (!expected || !isEqual(expected, code) || Math.abs(now() - Number(time)) > 300) return response.sendStatus(401);
  request.call = JSON.parse(request.body);
  next();
});
app.use("/hooks", hooks);

hooks.post("/connect", (request, response) => {
  const session = sessionOf(request);
  const user = sessions.get(session);
  if (!user) return response.json(error(401, "log in"));
  // The session is in the meta of every later call.
  response.json({ result: { user, expire_at: now() + LIFETIME, data: { hello: user }, meta: { session } } });
});

hooks.post("/refresh", ({ call }, response) => {
  const isOpen = sessions.has(call.meta.session);
  response.json({ result: isOpen ? { expire_at: now() + LIFETIME } : { expired: true } });
});

hooks.post("/subscribe", ({ call }, response) => {
  response.json(isMember(call) ? { result: { expire_at: now() + LIFETIME } } : error(403, "not a member"));
});

hooks.post("/sub_refresh", ({ call }, response) => {
  response.json({ result: isMember(call) ? { expire_at: now() + LIFETIME } : { expired: true } });
});

hooks.post("/publish", ({ call }, response) => {
  if (!isMember(call)) return response.json(error(403, "not a member"));
  if (typeof call.data !== "string" || call.data.length > 200) {
    return response.json(error(400, "a message is a text of at most 200 characters"));
  }
  response.json({ result: { data: { from: call.user, text: call.data.trim() } } });
});

hooks.post("/rpc", ({ call }, response) => {
  if (call.method !== "rooms") return response.json(error(404, "no such method"));
  const rooms = [...MEMBERS].filter(([, users]) => users.includes(call.user)).map(([room]) => room);
  response.json({ result: { data: rooms.sort() } });
});

hooks.post("/send", ({ call }, response) => {
  messages.push({ user: call.user, data: call.data });
  response.json({ result: {} });
});

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
