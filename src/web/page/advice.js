// Explains errors: what went wrong and what to do next. An advice is {title, text, action?}; the page implements the actions
// "login", "connect", "switch" and "subscriptionToken". A text may contain code between backticks.

import { RequestError, clockAhead } from "./hub.js";
import { formatDuration } from "./token.js";

const RESTARTED =
  "If the hub was restarted with other secrets (`--ephemeral` creates new ones), older tokens are invalid. " +
  "Log in again with the password that its terminal prints now.";

/** Quotes the hub's own words, which name the field, the option or the limit. */
export const says = (message) => `The hub says: ${message}.`;

const seconds = (number) => `${number} second${number === 1 ? "" : "s"}`;

export const UNREACHABLE = {
  title: "The hub does not answer",
  text: "Is it running? Start it again in its terminal. This page reconnects automatically and keeps its subscriptions.",
};

export const OFFLINE = {
  title: "This computer is offline",
  text: "The page reconnects as soon as the network is available.",
};

export const EXPIRED = {
  title: "The token has expired",
  text: "The hub ends a session when its token expires, without a grace period. Log in again, or paste a newer token.",
  action: "login",
};

/** The refresh token was refused. */
export const LOGIN_ENDED = {
  title: "Your login has ended",
  text:
    "It was logged out elsewhere or not used for too long, or the hub has other secrets now; then its terminal prints a new password. " +
    "Log in again: the page keeps its subscriptions.",
};

/** A token whose `nbf` is in the future. The hub's code is that of an expired or an invalid one. */
export const NOT_YET_VALID = {
  title: "The token is not valid yet",
  text: "Its claim “nbf” is in the future. Wait, or correct the clock of the machine that signs the tokens. `wardcast check-token` shows both times.",
  action: "login",
};

export const TOKEN_NOT_ACCEPTED = {
  title: "The hub does not accept this token",
  text: `Its signature or its claims do not match the hub's configuration. ${RESTARTED}`,
  action: "login",
};

const limitReached = (wait) => ({
  title: "Too many requests or connections",
  text: `A limit of the hub is reached. Try again in ${seconds(wait || 5)}.`,
});

const ORIGIN_NOT_ALLOWED = {
  title: "This page's origin is not allowed",
  text:
    "Add it to origins.allowed in the hub's configuration, or set server.public_url if a load balancer in front changes the host name. " +
    `The origin of this page is ${location.origin}.`,
};

/** Explains an HTTP error of any request. */
export function forHttp(error) {
  if (error.status === 0) return navigator.onLine ? UNREACHABLE : OFFLINE;
  if (error.status === 403) return ORIGIN_NOT_ALLOWED;
  if (error.status === 429 || error.status === 503) return limitReached(error.retryAfter);
  if (error.code === 109) return EXPIRED;
  if (error.status === 401) return TOKEN_NOT_ACCEPTED;
  return { title: "That did not work", text: says(error.message) };
}

export function forLogin(error) {
  if (!(error instanceof RequestError)) return forUnexpected(error);
  if (error.status === 401) {
    return {
      title: "Wrong user or password",
      text:
        "The terminal that runs the hub prints both. A hub that was restarted with `--ephemeral` has a new password: use the newest. " +
        "With Docker: `docker compose logs init`.",
    };
  }
  if (error.status === 429) {
    return {
      title: "Too many failed logins",
      text: `Wait ${seconds(error.retryAfter || 1)}, then try again. Each wrong password from here makes the next wait longer.`,
    };
  }
  if (error.status === 404) {
    return {
      title: "This hub has no login",
      text: "Set login.users_file in its configuration, or paste a token: `wardcast token --user ann` prints one.",
    };
  }
  return forHttp(error);
}

export function forTicket(error) {
  if (error?.status !== 404) return error instanceof RequestError ? forHttp(error) : forUnexpected(error);
  return { title: "This hub has no tickets", text: "Choose another way to send the token in step 2." };
}

const CLOSES = {
  3000: { title: "The connection was cut", text: "The server API cut it. The page reconnects automatically." },
  3001: { title: "The hub is shutting down", text: "The page reconnects automatically." },
  3004: { title: "The hub could not subscribe to the token's channels", text: "Its broker may be unavailable. The page reconnects automatically." },
  3005: EXPIRED,
  3006: { ...EXPIRED, title: "A subscription of the token has expired" },
  3008: {
    title: "This page read too slowly",
    text: "More bytes were queued for it than limits.outbox_bytes allows. It reconnects automatically; unsubscribe from busy channels.",
  },
  3010: { title: "A publication is missing", text: "The page reconnects to recover it." },
  3012: { title: "No answer to a ping", text: "The network was interrupted, or the computer slept. The page reconnects automatically." },
  3013: { title: "Too many commands", text: "The page sent more than limits.commands_per_second. It reconnects automatically." },
  3500: TOKEN_NOT_ACCEPTED,
  3501: { title: "The hub could not read a command", text: "This page may be of another version: reload it.", action: "connect" },
  3502: {
    title: "The connection was not authenticated",
    text: "The token did not arrive within auth.first_message_timeout. Connect again.",
    action: "connect",
  },
  3503: { title: "The hub ended the session", text: "The server API disconnected this user.", action: "connect" },
  3504: {
    title: "Too many connections of this user",
    text: "Close another tab or client, then connect (limits.connections_per_user).",
    action: "connect",
  },
  3505: {
    title: "The token subscribes to too many channels",
    text: "More than limits.channels_per_session. Ask for a token with fewer.",
    action: "login",
  },
  3506: { title: "Text on a Protobuf connection, or the reverse", text: "This page may be of another version: reload it.", action: "connect" },
  3508: { title: "Not available", text: "The hub has no hook for the command send (hooks.send).", action: "connect" },
  3509: { title: "Too many errors", text: "The page sent too many messages that the hub cannot read. Connect again.", action: "connect" },
};

/** Explains the close code of a connection. */
export function forClose(code, reason) {
  if (code === 3500 && reason === "token expired") return EXPIRED;
  if (CLOSES[code]) return CLOSES[code];
  const isFinal = code >= 3000 && ((code >= 3500 && code < 4000) || code >= 4500);
  const text = `Reason: ${reason || "none given"} (${code}).`;
  if (isFinal) return { title: "The hub ended the session", text, action: "connect" };
  return { title: "The connection was lost", text: "The page reconnects automatically and keeps its subscriptions." };
}

/** The hub closed the connection with 1009. `bytes`: the length of the longest message that was sent over it. */
export function messageTooBig(bytes, facts) {
  const inBytes = (number) => `${number.toLocaleString("en")} bytes`;
  return {
    title: "The message was too large (1009)",
    text:
      `It had ${inBytes(bytes)}. The hub accepts ${inBytes(facts.message_bytes)} (limits.message_bytes) and closes a connection that sends more. ` +
      `The data of a publication may have ${inBytes(facts.publication_bytes)} (limits.publication_bytes). The page reconnects automatically.`,
  };
}

/** A handshake was refused although the hub answers and the token is valid. A browser does not tell a page more. */
export const HANDSHAKE_REFUSED = {
  title: "The handshake was refused",
  text:
    "The hub answers and accepts the token, but the browser got no WebSocket. Possible causes: a limit on connections, an origin " +
    "that is not allowed, or a proxy that does not pass WebSockets. See the browser's network tab and the hub's log. The page keeps trying.",
};

/** The page was opened with a login in its address while a user is logged in. */
export const anotherLogin = (user, now) => ({
  title: `This address contains a login of “${user}”`,
  text: `You are still logged in as “${now}”. Use the new login if the hub has other secrets now, but only if the address came from your terminal.`,
  action: "switch",
});

/** The same when the browser sends the cookie. */
export const COOKIE_NOT_ACCEPTED = {
  title: "The cookie did not open the connection",
  text: `It does not exist, has expired, or the hub does not accept it. Safari stores it over https only. ${RESTARTED}`,
  action: "login",
};

/** Explains a difference between this computer's clock and the hub's, by which tokens expire. Null if they agree. */
export function forClocks(claims) {
  if (clockAhead === null || Math.abs(clockAhead) < 5000) return null;
  const by = formatDuration(Math.abs(clockAhead));
  const now = Date.now() + clockAhead;
  const text = `This computer's clock is ${by} ${clockAhead > 0 ? "behind" : "ahead of"} the hub's. Times on this page follow the hub's.`;
  if (claims?.nbf * 1000 > now) return `${text} The token is not valid yet: one of the two clocks is wrong.`;
  return `${text} A backend with this clock would sign tokens that ${clockAhead > 0 ? "expire too early" : "live too long or are refused"}.`;
}

export function forUnexpected(error) {
  return { title: "Something unexpected happened", text: `${error?.message ?? error}. Reload the page.` };
}
