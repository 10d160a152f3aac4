// Generates the code of the last action, to copy: plain JavaScript, the SDK, curl. A placeholder replaces the token unless the user
// wants to see it.

import { httpUrl } from "./hub.js";
import { toJson } from "./json.js";

/** Quotes a text for JavaScript. */
const quote = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
/** Quotes a value for a shell. */
const shellQuote = (value) => `'${value.replaceAll("'", `'\\''`)}'`;
const commandText = (id, body) => quote(toJson({ id, ...body }));

/** Opens a connection, sends the token, and subscribes: three lines, however the token is sent. */
function plainCode(way, url, token, channel) {
  const subscribe = `ws.send(${commandText(1, { subscribe: { channel } })})`;
  const onMessage = "ws.onmessage = (message) => console.log(message.data);";
  const open = (address, protocols = "") => `const ws = new WebSocket(${address}${protocols});`;
  const joinLines = (...all) => all.join("\n");
  switch (way) {
    case "query":
      return joinLines(open(toJson(`${url}?token=${token}`)), onMessage, `ws.onopen = () => ${subscribe};`);
    case "subprotocol":
      return joinLines(open(toJson(url), `, ["wardcast.v1", ${toJson(token)}]`), onMessage, `ws.onopen = () => ${subscribe};`);
    case "cookie":
      return joinLines(open(toJson(url)), onMessage, `ws.onopen = () => ${subscribe};`);
    case "ticket":
      return joinLines(
        `const answer = await fetch(${toJson(httpUrl("/auth/ticket"))}, { method: "POST", headers: { authorization: ${toJson(`Bearer ${token}`)} } });`,
        open(`${toJson(`${url}?ticket=`)} + (await answer.json()).ticket`),
        onMessage,
        `ws.onopen = () => ${subscribe};`,
      );
    case "connect":
      return joinLines(
        open(toJson(url)),
        `ws.onmessage = ({ data }) => (data === "{}" ? ws.send("{}") : console.log(data));`,
        `ws.onopen = () => { ws.send(${commandText(1, { connect: { token } })}); ws.send(${commandText(2, { subscribe: { channel } })}); };`,
      );
    default:
      return joinLines(
        open(toJson(url)),
        onMessage,
        `ws.onopen = () => { ws.send("Authorization: Bearer ${token}"); ${subscribe}; };`,
      );
  }
}

function sdkCode(way, url, token, channel) {
  const options = way === "cookie" ? "" : `, { token: ${toJson(token)} }`;
  return [
    `import { Centrifuge } from "centrifuge";   // npm install centrifuge`,
    "",
    `const client = new Centrifuge(${toJson(url)}${options});`,
    `client.newSubscription(${toJson(channel)}).on("publication", ({ data }) => console.log(data)).subscribe();`,
    "client.connect();",
  ].join("\n");
}

/** Sends the token in a header, as every client except a browser can. What is typed afterwards is sent over the socket. */
function websocatCode(url, token, line) {
  return [
    "# curl does not read messages from the keyboard; websocat does. Clients other than browsers can send the token in a header.",
    `websocat -H ${shellQuote(`Authorization: Bearer ${token}`)} ${url}`,
    toJson(line),
  ].join("\n");
}

function loginCode(user, cookie) {
  const url = httpUrl("/auth/login");
  const body = cookie ? { username: user, password: "PASSWORD", cookie: true } : { username: user, password: "PASSWORD" };
  return {
    js: [
      `const answer = await fetch(${toJson(url)}, { method: "POST", headers: { "content-type": "application/json" },`,
      `  body: JSON.stringify(${toJson(body)}) });`,
      cookie ? "// The browser has stored the cookie; the body contains no token." : "const { access_token } = await answer.json();",
    ].join("\n"),
    curl: `curl ${url} -H 'Content-Type: application/json' -d ${shellQuote(toJson(body))}`,
    sdk: [
      "// The SDK calls this whenever it needs a token, also before the old one expires.",
      `const client = new Centrifuge(URL, { getToken: async () => {`,
      `  const answer = await fetch(${toJson(url)}, { method: "POST", headers: { "content-type": "application/json" },`,
      `    body: JSON.stringify(${toJson(body)}) });`,
      "  return (await answer.json()).access_token;",
      "} });",
    ].join("\n"),
    note: "Replace PASSWORD with yours.",
  };
}

function publishCode({ transport, channel, data, hasInternalApi }, token) {
  const url = httpUrl(`/v1/channels/${encodeURIComponent(channel)}/messages`);
  const text = toJson(data);
  // In JavaScript code, a number that it cannot hold would be another one.
  const isExact = JSON.stringify(JSON.parse(text)) === text;
  const rest = [
    `await fetch(${toJson(url)}, { method: "POST",`,
    `  headers: { "content-type": "application/json", authorization: ${toJson(`Bearer ${token}`)} },`,
    `  body: ${isExact ? `JSON.stringify(${text})` : quote(text)} });`,
  ].join("\n");
  const rounds = isExact ? "" : "JavaScript, and with it the SDK, writes this data differently: it rounds large numbers. ";
  return {
    js: transport === "rest" ? rest : `ws.send(${commandText(2, { publish: { channel, data } })});`,
    sdk: `await client.publish(${toJson(channel)}, ${text});`,
    curl: `curl ${url} -H ${shellQuote(`Authorization: Bearer ${token}`)} -H 'Content-Type: application/json' -d ${shellQuote(text)}`,
    note: `${rounds}A backend publishes over REST with its API key${hasInternalApi ? ", at the address of server.internal_bind" : ""}: the header X-API-Key instead of Authorization.`,
  };
}

function refreshCode(isSdk, token, user) {
  return {
    js: isSdk ? `ws.send(${commandText(3, { refresh: { token } })});` : `ws.send("Authorization: Bearer ${token}");`,
    sdk: loginCode(user, false).sdk,
    curl: loginCode(user, false).curl,
    note: "A newer token of the same user. Subscriptions that it no longer permits end at once; all others continue.",
  };
}

/** The exchange of a refresh token. */
function renewCode(cookie) {
  const url = httpUrl("/auth/refresh");
  const body = { refresh_token: "REFRESH_TOKEN" };
  const options = cookie
    ? '{ method: "POST" }'
    : `{\n  method: "POST", headers: { "content-type": "application/json" },\n  body: JSON.stringify(${toJson(body)}),\n}`;
  const result = cookie ? "// The browser has stored both cookies; the body contains no token." : "const { access_token, refresh_token } = await answer.json();   // store both: the old one is spent";
  return {
    title: "renew the token",
    js: `const answer = await fetch(${toJson(url)}, ${options});\n${result}`,
    sdk: `// In getToken of the SDK, before the login is asked for again.\nconst answer = await fetch(${toJson(url)}, ${options});\n${result}`,
    curl: cookie ? `curl -X POST ${url} -b cookies.txt -c cookies.txt -H 'Origin: ${location.origin}'` : `curl ${url} -H 'Content-Type: application/json' -d ${shellQuote(toJson(body))}`,
    note: "Each refresh token works once. Tabs that share one take turns (navigator.locks). 401: the login has ended, so ask for the password.",
  };
}

/** A command that reads a channel: history or presence. The server API reads the same with its key. */
function readCode(name, channel, options, hasInternalApi) {
  const url = hasInternalApi ? `INTERNAL_URL/api/${name}` : httpUrl(`/api/${name}`);
  const body = { channel, ...options };
  const argument = Object.keys(options).length > 0 ? `, ${toJson(options)}` : "";
  return {
    title: `${name} of ${channel}`,
    js: `ws.send(${commandText(4, { [name]: body })});`,
    sdk: `await client.${name}(${toJson(channel)}${argument});`,
    curl: `curl ${url} -H 'X-API-Key: API_KEY' -d ${shellQuote(toJson(body))}`,
    note: `A backend reads the same with its API key${hasInternalApi ? ", at the address of server.internal_bind" : ""}.`,
  };
}

/** {title, js, sdk, curl, note} of an action: {name, way, url, channel, data, transport, user, cookie, isSdk, hasToken, options}. */
export function codeOf(action, token) {
  const { name, way, url, channel = "news", user = "ann" } = action;
  switch (name) {
    case "login":
      return { title: "log in", ...loginCode(user, action.cookie) };
    case "publish":
      return { title: `publish to ${channel}`, ...publishCode({ ...action, channel }, token) };
    case "history":
    case "presence":
      return readCode(name, channel, action.options, action.hasInternalApi);
    case "subscribe":
    case "unsubscribe": {
      const withToken = action.hasToken ? { token: "SUBSCRIPTION_TOKEN" } : {};
      const sdkOptions = action.hasToken ? `, ${toJson(withToken)}` : "";
      return {
        title: `${name} ${name === "subscribe" ? "to" : "from"} ${channel}`,
        js: `ws.send(${commandText(2, { [name]: { channel, ...withToken } })});`,
        sdk:
          name === "subscribe"
            ? `client.newSubscription(${toJson(channel)}${sdkOptions}).on("publication", ({ data }) => console.log(data)).subscribe();`
            : `client.getSubscription(${toJson(channel)}).unsubscribe();`,
        curl: websocatCode(url, token, { id: 2, [name]: { channel, ...withToken } }),
        note: "",
      };
    }
    case "renew":
      return renewCode(action.cookie);
    case "refresh":
      return { title: "refresh the token", ...refreshCode(action.isSdk, token, user) };
    default:
      return {
        title: "connect and subscribe",
        js: plainCode(way, url, token, channel),
        sdk: sdkCode(way, url, token, channel),
        curl: websocatCode(url, token, { id: 1, subscribe: { channel } }),
        note: way === "connect" ? "After a connect command pings are messages: the second line answers them." : "Browsers answer the hub's pings automatically.",
      };
  }
}
