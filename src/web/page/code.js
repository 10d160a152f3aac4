// Generates the code of the last action, to copy: plain JavaScript, the SDK, curl. A placeholder replaces the token unless the user
// wants to see it.

import { httpUrl } from "./hub.js";

const text = (value) => JSON.stringify(value);
/** Quotes a value for a shell. */
const shell = (value) => `'${value.replaceAll("'", `'\\''`)}'`;
const command = (id, body) => `'${text({ id, ...body }).replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

/** Opens a connection, sends the token, and subscribes: three lines, however the token is sent. */
function plain(door, url, token, channel) {
  const subscribe = `ws.send(${command(1, { subscribe: { channel } })})`;
  const heard = "ws.onmessage = (message) => console.log(message.data);";
  const open = (address, protocols = "") => `const ws = new WebSocket(${address}${protocols});`;
  const lines = (...all) => all.join("\n");
  switch (door) {
    case "query":
      return lines(open(text(`${url}?token=${token}`)), heard, `ws.onopen = () => ${subscribe};`);
    case "subprotocol":
      return lines(open(text(url), `, ["wardcast.v1", ${text(token)}]`), heard, `ws.onopen = () => ${subscribe};`);
    case "cookie":
      return lines(open(text(url)), heard, `ws.onopen = () => ${subscribe};`);
    case "ticket":
      return lines(
        `const answer = await fetch(${text(httpUrl("/auth/ticket"))}, { method: "POST", headers: { authorization: ${text(`Bearer ${token}`)} } });`,
        open(`${text(`${url}?ticket=`)} + (await answer.json()).ticket`),
        heard,
        `ws.onopen = () => ${subscribe};`,
      );
    case "connect":
      return lines(
        open(text(url)),
        `ws.onmessage = ({ data }) => (data === "{}" ? ws.send("{}") : console.log(data));`,
        `ws.onopen = () => { ws.send(${command(1, { connect: { token } })}); ws.send(${command(2, { subscribe: { channel } })}); };`,
      );
    default:
      return lines(
        open(text(url)),
        heard,
        `ws.onopen = () => { ws.send("Authorization: Bearer ${token}"); ${subscribe}; };`,
      );
  }
}

function sdk(door, url, token, channel) {
  const options = door === "cookie" ? "" : `, { token: ${text(token)} }`;
  return [
    `import { Centrifuge } from "centrifuge";   // npm install centrifuge`,
    "",
    `const client = new Centrifuge(${text(url)}${options});`,
    `client.newSubscription(${text(channel)}).on("publication", ({ data }) => console.log(data)).subscribe();`,
    "client.connect();",
  ].join("\n");
}

/** Sends the token in a header, as every client except a browser can. What is typed afterwards is sent over the socket. */
function typed(url, token, line) {
  return [
    "# curl does not read messages from the keyboard; websocat does. Clients other than browsers can send the token in a header.",
    `websocat -H ${shell(`Authorization: Bearer ${token}`)} ${url}`,
    text(line),
  ].join("\n");
}

function login(user, cookie) {
  const url = httpUrl("/auth/login");
  const body = cookie ? { username: user, password: "PASSWORD", cookie: true } : { username: user, password: "PASSWORD" };
  return {
    js: [
      `const answer = await fetch(${text(url)}, { method: "POST", headers: { "content-type": "application/json" },`,
      `  body: JSON.stringify(${text(body)}) });`,
      cookie ? "// The browser has stored the cookie; the body contains no token." : "const { access_token } = await answer.json();",
    ].join("\n"),
    curl: `curl ${url} -H 'Content-Type: application/json' -d ${shell(text(body))}`,
    sdk: [
      "// The SDK calls this whenever it needs a token, also before the old one expires.",
      `const client = new Centrifuge(URL, { getToken: async () => {`,
      `  const answer = await fetch(${text(url)}, { method: "POST", headers: { "content-type": "application/json" },`,
      `    body: JSON.stringify(${text(body)}) });`,
      "  return (await answer.json()).access_token;",
      "} });",
    ].join("\n"),
    note: "Replace PASSWORD with yours.",
  };
}

function publish(over, channel, data, token) {
  const url = httpUrl(`/v1/channels/${encodeURIComponent(channel)}/messages`);
  const rest = [
    `await fetch(${text(url)}, { method: "POST",`,
    `  headers: { "content-type": "application/json", authorization: ${text(`Bearer ${token}`)} },`,
    `  body: JSON.stringify(${text(data)}) });`,
  ].join("\n");
  return {
    js: over === "rest" ? rest : `ws.send(${command(2, { publish: { channel, data } })});`,
    sdk: `await client.publish(${text(channel)}, ${text(data)});`,
    curl: `curl ${url} -H ${shell(`Authorization: Bearer ${token}`)} -H 'Content-Type: application/json' -d ${shell(text(data))}`,
    note: "A backend sends its API key instead: the header X-API-Key in place of Authorization.",
  };
}

function refresh(isSdk, token, user) {
  return {
    js: isSdk ? `ws.send(${command(3, { refresh: { token } })});` : `ws.send("Authorization: Bearer ${token}");`,
    sdk: login(user, false).sdk,
    curl: login(user, false).curl,
    note: "A newer token of the same user. Subscriptions that it no longer permits end at once; all others continue.",
  };
}

/** {title, js, sdk, curl, note} of an action: {name, door, url, channel, data, over, user, cookie, isSdk}. */
export function codeOf(action, token) {
  const { name, door, url, channel = "news", user = "ann" } = action;
  switch (name) {
    case "login":
      return { title: "log in", ...login(user, action.cookie) };
    case "publish":
      return { title: `publish to ${channel}`, ...publish(action.over, channel, action.data, token) };
    case "subscribe":
    case "unsubscribe":
      return {
        title: `${name} ${name === "subscribe" ? "to" : "from"} ${channel}`,
        js: `ws.send(${command(2, { [name]: { channel } })});`,
        sdk:
          name === "subscribe"
            ? `client.newSubscription(${text(channel)}).on("publication", ({ data }) => console.log(data)).subscribe();`
            : `client.getSubscription(${text(channel)}).unsubscribe();`,
        curl: typed(url, token, { id: 2, [name]: { channel } }),
        note: "",
      };
    case "refresh":
      return { title: "refresh the token", ...refresh(action.isSdk, token, user) };
    default:
      return {
        title: "connect and subscribe",
        js: plain(door, url, token, channel),
        sdk: sdk(door, url, token, channel),
        curl: typed(url, token, { id: 1, subscribe: { channel } }),
        note: door === "connect" ? "After a connect command pings are messages: the second line answers them." : "Browsers answer the hub's pings automatically.",
      };
  }
}
