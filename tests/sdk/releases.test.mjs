// Releases of npm `centrifuge` that people still run, beside the newest one: how they take the codes that end or refresh a
// connection.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";

import { FORMATS, api, createClient, createSubscription, startHub, subscribe } from "./support.mjs";

const EXPIRED = 1_600_000_000;
const require = createRequire(import.meta.url);
const releases = ["centrifuge-3.1", "centrifuge-4.1", "centrifuge-5.0", "centrifuge-5.3", "centrifuge"].flatMap((name) => {
  const inProtobuf = require(`${name}/build/protobuf`);
  // Before 5.0, the class for Protobuf is the default export and has an option for the format.
  const classes = { JSON: require(name).Centrifuge, Protobuf: inProtobuf.Centrifuge ?? withProtobuf(inProtobuf.default) };
  return FORMATS.map((format) => ({ ...format, name: `${name}, ${format.name}`, Centrifuge: classes[format.name] }));
});

function withProtobuf(Centrifuge) {
  return class extends Centrifuge {
    constructor(url, options) {
      super(url, { ...options, protocol: "protobuf" });
    }
  };
}

let hub;
before(async () => (hub = await startHub({ "channels.history_size": 10 })));
after(() => hub.stop());

/** Defines a test for each release and format; all run at once, because most wait for a token to expire. */
function testReleases(name, body) {
  describe(name, { concurrency: true }, () => {
    for (const [number, format] of releases.entries()) test(format.name, (t) => body(t, format, `${serial++}-${number}`));
  });
}
let serial = 0;

async function connect(t, format, options) {
  const client = createClient(t, hub, { format, ...options });
  client.connect();
  await client.events.waitFor("connected");
  return client;
}

testReleases("an invalid token ends the client with 3500", async (t, format) => {
  const client = createClient(t, hub, { format, token: "a.b.c" });
  client.connect();
  const { code, reason } = await client.events.waitFor("disconnected");
  assert.deepEqual([code, reason, client.state], [3500, "invalid token", "disconnected"]);
});

testReleases("a disconnect of the server API ends the client with 3503", async (t, format, user) => {
  const client = await connect(t, format, { token: hub.sign({ sub: user }) });
  await api(hub, "disconnect", { user });
  const { code, reason } = await client.events.waitFor("disconnected");
  assert.deepEqual([code, reason, client.state], [3503, "force disconnect", "disconnected"]);
});

testReleases("a refresh with an expired token closes with 3005, and the client recovers with the next one", async (t, format, user) => {
  const tokens = [hub.sign({ sub: user }, { ttl: 3 }), hub.sign({ sub: user, exp: EXPIRED }), hub.sign({ sub: user })];
  const client = await connect(t, format, { getToken: async () => tokens.shift() });
  const channel = `refreshed-${user}`;
  const news = await subscribe(client, channel, { recoverable: true });
  await api(hub, "publish", { channel, data: 1 });
  assert.equal(format.value((await news.events.waitFor("publication")).data), 1);
  assert.equal((await client.events.waitFor("connecting")).code, 3005);
  // Requests without a reply may fail before.
  while ((await client.events.waitFor("error")).error.code !== 109);
  assert.equal((await news.events.waitFor("subscribed")).recovered, true);
  await api(hub, "publish", { channel, data: 2 });
  assert.equal(format.value((await news.events.waitFor("publication")).data), 2);
});

testReleases("a refresh with an expired subscription token ends with 2501, and the next one subscribes again", async (t, format, user) => {
  const client = await connect(t, format, { token: hub.sign({ sub: user }) });
  const channel = `$${user}`;
  const tokens = [
    hub.sign({ sub: user, channel }, { ttl: 3 }),
    hub.sign({ sub: user, channel, exp: EXPIRED }),
    hub.sign({ sub: user, channel }),
  ];
  const secret = createSubscription(client, channel, { getToken: async () => tokens.shift(), minResubscribeDelay: 20 });
  secret.subscribe();
  await secret.events.waitFor("subscribed");
  assert.equal((await secret.events.waitFor("subscribing")).code, 2501);
  await secret.events.waitFor("subscribed");
  assert.ok(!client.events.has("connecting"));
});

test("a stopping hub closes all releases with 3001, and they return to the next", async (t) => {
  const key = "the API key of these tests, long enough";
  const first = await startHub({ "api.key": key });
  t.after(() => first.stop());
  const clients = await Promise.all(releases.map(async (format, number) => {
    const client = createClient(t, first, { format, token: first.sign({ sub: `${number}` }) });
    client.connect();
    await client.events.waitFor("connected");
    return { client, news: await subscribe(client, "news") };
  }));
  await first.stop();
  for (const { client } of clients) assert.equal((await client.events.waitFor("connecting")).code, 3001, client.format.name);
  const second = await startHub({ "server.bind": first.address, "api.key": key });
  t.after(() => second.stop());
  for (const { news } of clients) await news.events.waitFor("subscribed");
  await api(second, "publish", { channel: "news", data: 1 });
  for (const { client, news } of clients) assert.equal(client.format.value((await news.events.waitFor("publication")).data), 1);
});
