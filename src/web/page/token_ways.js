// The ways to send a token (`auth.doors`): what each costs, and which of them this page can use.

export const TOKEN_WAYS = [
  {
    id: "message",
    name: "First message",
    cost: "Not in URLs or headers, so not in any log. The connection is not authenticated until the message arrives.",
  },
  {
    id: "subprotocol",
    name: "Subprotocol",
    cost: "In a header, beside the name of a protocol: not in URLs, and checked in the handshake. Some proxies log headers.",
  },
  {
    id: "ticket",
    name: "Ticket",
    cost: "Needs one request first. The URL contains a ticket that opens one connection within seconds and is worthless afterwards.",
  },
  {
    id: "query",
    name: "Query string",
    cost: "The simplest way. URLs appear in logs and histories: use it with tokens that live for minutes.",
  },
  {
    id: "connect",
    name: "Connect command",
    cost: "Used by the SDKs: the first command carries the token. Pings are then messages that your code has to answer.",
  },
  {
    id: "cookie",
    name: "Cookie",
    cost: "The browser sends it automatically, and no script can read it. Only for pages of the hub's own origin or of listed ones.",
  },
  {
    id: "header",
    name: "Header",
    cost: "For servers, mobile apps and command lines:",
    example: (url) => `websocat -H "Authorization: Bearer TOKEN" ${url}`,
  },
];

const NAMES = Object.fromEntries(TOKEN_WAYS.map((way) => [way.id, way.name]));
export const nameOf = (way) => NAMES[way] ?? way;

/** Returns why this page cannot use a way to send the token; null if it can. */
export function whyNot(way, facts, storedIn) {
  if (facts && !facts.doors.includes(way)) return `Disabled on this hub: auth.doors does not contain "${way}".`;
  if (way === "header") return "Browsers do not let pages set it.";
  if (way === "cookie" && storedIn !== "cookie") return "Needs the token to be stored in the cookie (step 1).";
  if (way !== "cookie" && storedIn === "cookie") return "This page does not have the token: only the cookie contains it.";
  return null;
}

/** Returns the way that is used unless the user chooses another. */
export function first(facts, storedIn) {
  return TOKEN_WAYS.find((way) => !whyNot(way.id, facts, storedIn))?.id ?? null;
}

/** Returns how to open a connection in this way: address, subprotocols and the first message. `subs`: see the connect command. */
export function planConnection(way, url, { token, ticket, subs }) {
  switch (way) {
    case "query":
      return { url: `${url}?token=${encodeURIComponent(token)}` };
    case "ticket":
      return { url: `${url}?ticket=${encodeURIComponent(ticket)}` };
    case "subprotocol":
      return { url, protocols: ["wardcast.v1", token] };
    case "message":
      return { url, first: `Authorization: Bearer ${token}` };
    case "connect":
      return { url, first: JSON.stringify({ id: 1, connect: { token, name: "demo page", subs } }) };
    default:
      return { url };
  }
}
