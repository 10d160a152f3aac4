// A backend in Express: its login is the credential of the hub's clients, and it decides what they may do.
//
//     npm install express
//     HOOKS_SECRET=$(openssl rand -hex 32) PORT=3000 node express_backend.mjs
//
// It keeps everything in memory, so run one process of it; several need a database.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

import express from "express";

const SECRET = process.env.HOOKS_SECRET;
if (!SECRET) throw new Error("set HOOKS_SECRET");
/** Seconds until the hub asks again whether a session or a subscription may go on. */
const LIFETIME = Number(process.env.LIFETIME ?? 3600);
/** Maximum ids of events that are remembered. */
const MAX_HANDLED = 10_000;
const PASSWORDS = new Map([["ann", "correct horse"], ["bob", "battery staple"]]);
const MEMBERS = new Map([["room:1", ["ann", "bob"]], ["room:2", ["bob"]]]);

const app = express();
const sessions = new Map();
const messages = [];
// What the events of the hub say: the user of each connection, the milliseconds that a user was connected, the rooms with
// subscribers, and who left a room while the connection went on.
const online = new Map();
const connectedMs = new Map();
const activeRooms = new Set();
const departures = [];
/** Ids of handled events, the oldest first. */
const handled = new Set();

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

const requireUser = (request, response, next) => {
  request.user = sessions.get(sessionOf(request));
  if (!request.user) return response.sendStatus(401);
  next();
};

app.post("/logout", requireUser, (request, response) => {
  sessions.delete(sessionOf(request));
  response.json({});
});

app.post("/leave", requireUser, express.json(), ({ user, body }, response) => {
  const room = body?.room;
  MEMBERS.set(room, (MEMBERS.get(room) ?? []).filter((member) => member !== user));
  response.json({});
});

app.get("/messages", (_, response) => response.json(messages));

app.get("/activity", (_, response) => {
  response.json({
    online: [...online.values()].sort(),
    connected_ms: Object.fromEntries(connectedMs),
    rooms: [...activeRooms].sort(),
    departures,
  });
});

function isFromHub(secret, signature, body) {
  const parts = signature.split(",").map((part) => part.split("="));
  const sent = parts.find(([name]) => name === "t")?.[1] ?? "0";
  const expected = createHmac("sha256", secret).update(`${sent}.`).update(body).digest();
  const isSame = (code) => code.length === expected.length && timingSafeEqual(code, expected);
  const isSigned = parts.some(([name, value]) => name === "v1" && isSame(Buffer.from(value ?? "", "hex")));
  return isSigned && Math.abs(Date.now() / 1000 - Number(sent)) < 300;
}

// The signature is that of the bytes of the body.
const hooks = express.Router().use(express.raw({ type: "application/json", limit: "1mb" }), (request, response, next) => {
  const signature = request.get("x-wardcast-signature") ?? "";
  if (!Buffer.isBuffer(request.body) || !isFromHub(SECRET, signature, request.body)) return response.sendStatus(401);
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

hooks.post("/events", ({ call }, response) => {
  for (const event of call.events) {
    // The hub repeats an event if it did not get the answer.
    if (handled.has(event.id)) continue;
    handled.add(event.id);
    if (handled.size > MAX_HANDLED) handled.delete(handled.values().next().value);
    handleEvent(event);
  }
  response.json({});
});

function handleEvent({ type, client, user, channel, time, connected_at: connectedAt }) {
  switch (type) {
    case "connect":
      online.set(client, user);
      break;
    case "disconnect":
      // After the failure of a node the end of a connection may have two events, which have different ids.
      if (online.delete(client)) connectedMs.set(user, (connectedMs.get(user) ?? 0) + time - connectedAt);
      break;
    case "unsubscribe":
      departures.push({ user, room: channel });
      break;
    case "occupied":
      activeRooms.add(channel);
      break;
    case "vacated":
      activeRooms.delete(channel);
      break;
  }
}

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
