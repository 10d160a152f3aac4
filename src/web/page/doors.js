// The doors: how a token gets in, what each costs, and which of them this page can use.

export const DOORS = [
  {
    id: "message",
    name: "First message",
    cost: "Stays out of URLs and headers, so out of every log. The connection is nobody's until it has arrived.",
  },
  {
    id: "subprotocol",
    name: "Subprotocol",
    cost: "In a header, beside the name of a protocol: out of URLs, and the handshake decides. Some proxies log headers.",
  },
  {
    id: "ticket",
    name: "Ticket",
    cost: "One request before. What the URL gives away opens one connection, once, and soon: then it is worthless.",
  },
  {
    id: "query",
    name: "Query string",
    cost: "The simplest. URLs stand in logs and histories: for tokens that live for minutes.",
  },
  {
    id: "connect",
    name: "Connect command",
    cost: "What the SDKs do: the first command brings the token. Then pings are messages, and code has to answer them.",
  },
  {
    id: "cookie",
    name: "Cookie",
    cost: "The browser brings it by itself, and no script ever holds it. Only for pages of the hub's own or of listed origins.",
  },
  {
    id: "header",
    name: "Header",
    cost: "For servers, phones and command lines:",
    example: (url) => `websocat -H "Authorization: Bearer TOKEN" ${url}`,
  },
];

const NAMES = Object.fromEntries(DOORS.map((door) => [door.id, door.name]));
export const nameOf = (door) => NAMES[door] ?? door;

/** Why a door cannot be used; null when it can. */
export function whyNot(door, facts, where) {
  if (facts && !facts.doors.includes(door)) return `Closed here: auth.doors leaves "${door}" out.`;
  if (door === "header") return "Browsers let no page set it.";
  if (door === "cookie" && where !== "cookie") return "Needs the token in the cookie (step 1).";
  if (door !== "cookie" && where === "cookie") return "This page does not hold the token: only the cookie brings it.";
  return null;
}

/** The door that is used unless another is chosen. */
export function first(facts, where) {
  return DOORS.find((door) => !whyNot(door.id, facts, where))?.id ?? null;
}

/** How a connection is opened through a door: address, subprotocols and the first message. */
export function plan(door, url, { token, ticket }) {
  switch (door) {
    case "query":
      return { url: `${url}?token=${encodeURIComponent(token)}` };
    case "ticket":
      return { url: `${url}?ticket=${encodeURIComponent(ticket)}` };
    case "subprotocol":
      return { url, protocols: ["wardcast.v1", token] };
    case "message":
      return { url, first: `Authorization: Bearer ${token}` };
    case "connect":
      return { url, first: JSON.stringify({ id: 1, connect: { token, name: "demo page" } }) };
    default:
      return { url };
  }
}
