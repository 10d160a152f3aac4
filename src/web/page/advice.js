// What went wrong, and what to do next, in words. An advice is {title, text, action?}; the actions are the page's:
// "login", "connect", "switch".

import { Refused, clockAhead } from "./hub.js";
import { duration } from "./token.js";

const RESTARTED =
  "If the hub was restarted: in development each start makes new secrets, and tokens of the run before are worth nothing. " +
  "Log in again with the password that its terminal prints now.";

const seconds = (number) => `${number} second${number === 1 ? "" : "s"}`;

export const UNREACHABLE = {
  title: "The hub does not answer",
  text: "Is it running? Start it again in its terminal; this page looks for it by itself and keeps its subscriptions.",
};

export const OFFLINE = {
  title: "This computer is offline",
  text: "The page connects again as soon as the network is back.",
};

export const EXPIRED = {
  title: "The token's time is over",
  text: "The hub ends a session the moment its token ends, without grace. Log in again, or paste a newer token.",
  action: "login",
};

export const NOT_TAKEN = {
  title: "The hub does not take this token",
  text: `Its signature or its claims are not what the hub asks for. ${RESTARTED}`,
  action: "login",
};

const busyHub = (wait) => ({
  title: "Too many at once",
  text: `The hub has a limit on how fast or how many. Try again in ${seconds(wait || 5)}.`,
});

const foreign = {
  title: "This page's origin is not let in",
  text:
    "Add it to origins.allowed in the hub's configuration, or set server.public_url if a balancer in front changes the name. " +
    `This page is from ${location.origin}.`,
};

/** An answer over HTTP, to anything. */
function forAnswer(refused) {
  if (refused.status === 0) return navigator.onLine ? UNREACHABLE : OFFLINE;
  if (refused.status === 403) return foreign;
  if (refused.status === 429 || refused.status === 503) return busyHub(refused.retryAfter);
  if (refused.code === 109) return EXPIRED;
  if (refused.status === 401) return NOT_TAKEN;
  return { title: "That did not work", text: `The hub says: ${refused.message}.` };
}

export function forLogin(error) {
  if (!(error instanceof Refused)) return surprise(error);
  if (error.status === 401) {
    return {
      title: "Wrong user or password",
      text:
        "The terminal that runs the hub prints both. If the hub was restarted, it prints a new password: use the newest. " +
        "With Docker: docker compose logs init.",
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
      text: "Set login.users_file in its configuration, or paste a token: wardcast token --user ann prints one.",
    };
  }
  return forAnswer(error);
}

export function forTicket(error) {
  if (error?.status !== 404) return error instanceof Refused ? forAnswer(error) : surprise(error);
  return { title: "There are no tickets here", text: "Choose another door in step 2." };
}

/** A command or a publish that got an error. */
export function forCommand(error, channel) {
  const what = `“${channel}”`;
  switch (error.code) {
    case 102:
      return {
        title: `No namespace for ${what}`,
        text: "The part before the colon has to be one of [[namespaces]] in the hub's configuration. Plain names have none.",
      };
    case 101:
      return { title: "A token is required", text: "Send a valid token with the command (auth.require_token_per_message).", action: "login" };
    case 103:
      return {
        title: `No right to ${what}`,
        text:
          "Neither the token's caps nor the hub's configuration grants it: see channels.allow_subscribe and " +
          "channels.allow_publish.",
      };
    case 104:
      return { title: "The hub does not know this method", text: "This page may be of another version: reload it." };
    case 105:
      return { title: `Already subscribed to ${what}`, text: "A connection subscribes to a channel once." };
    case 106:
      return { title: "As many channels as there may be", text: "Unsubscribe from one first (limits.channels_per_session)." };
    case 107:
      return {
        title: "The hub cannot make sense of it",
        text: "A channel's name has at most 255 bytes and no *, control characters or doubled spaces; data has its limit, too.",
      };
    case 108:
      return {
        title: "Not enabled",
        text: "Enable it in the channel's options (channels.history_size, channels.presence). The hub has no rpc.",
      };
    case 109:
      return EXPIRED;
    case 112:
      return { title: "The missed publications are gone", text: "Subscribe again without a position." };
    case 100:
      return { title: "The hub could not do it just now", text: "Its broker may be away for a moment. Try again soon." };
    case 111:
      return { title: "Too fast", text: "The hub takes so many a second. Try again in a moment." };
    case 0:
      return { title: "Not connected", text: `${error.message ?? "There is no connection"}: connect first, or wait until it is back.` };
    default:
      return error instanceof Refused ? forAnswer(error) : { title: `Error ${error.code}`, text: `The hub says: ${error.message}.` };
  }
}

const CLOSES = {
  3001: { title: "The hub is going down", text: "It told its clients to come back: this page does, by itself." },
  3004: { title: "The hub could not subscribe to the token's channels", text: "Its broker may be unavailable. The page connects again." },
  3005: EXPIRED,
  3006: { ...EXPIRED, title: "A subscription of the token has expired" },
  3008: {
    title: "This page read too slowly",
    text: "More waited for it than limits.outbox_bytes allows. It connects again by itself; unsubscribe from what is too loud.",
  },
  3010: { title: "A publication is missing", text: "The page connects again to recover it." },
  3012: { title: "No answer to a ping", text: "The network stood still, or the computer slept. The page connects again by itself." },
  3013: { title: "Too many commands", text: "The page asked faster than limits.commands_per_second. It connects again by itself." },
  3500: NOT_TAKEN,
  3501: { title: "The hub could not read a command", text: "This page may be of another version: reload it.", action: "connect" },
  3502: {
    title: "Nobody said who this is",
    text: "The token did not arrive within auth.first_message_timeout. Connect again.",
    action: "connect",
  },
  3503: { title: "The hub ended the session", text: "Somebody with the API key ordered it.", action: "connect" },
  3504: {
    title: "Too many connections of this user",
    text: "Close another tab or client, then connect (limits.connections_per_user).",
    action: "connect",
  },
  3505: {
    title: "The token brings too many channels",
    text: "More than limits.channels_per_session. Ask for a token with fewer.",
    action: "login",
  },
  3506: { title: "Text on a Protobuf connection, or the reverse", text: "This page may be of another version: reload it.", action: "connect" },
  3508: { title: "Not available", text: "The hub has no send command.", action: "connect" },
  3509: { title: "Too many errors", text: "The hub had enough of messages it cannot read. Connect again.", action: "connect" },
};

/** A connection that was closed with a code. */
export function forClose(code, reason) {
  if (code === 3500 && reason === "token expired") return EXPIRED;
  if (CLOSES[code]) return CLOSES[code];
  const stays = code >= 3000 && ((code >= 3500 && code < 4000) || code >= 4500);
  const text = `The hub said: ${reason || "nothing"} (${code}).`;
  if (stays) return { title: "The hub ended the session", text, action: "connect" };
  return { title: "The connection was lost", text: "The page connects again by itself and keeps its subscriptions." };
}

/** A handshake that was refused while hub and token seem good: a browser tells no more. */
export const REFUSED = {
  title: "The handshake was refused",
  text:
    "The hub answers and takes the token, but the browser got no WebSocket. A limit on connections, a foreign Origin or a proxy " +
    "that passes no WebSockets may be why: the browser's network tab and the hub's log tell. The page goes on trying.",
};

/** An address with a login in it, opened by somebody who is logged in. */
export const anotherLogin = (user, now) => ({
  title: `This address brings a login of “${user}”`,
  text: `You are “${now}” here, and stay so. After a restart of the hub, use it; if it did not come from your terminal, do not.`,
  action: "switch",
});

/** The same where the browser brings the cookie. */
export const NO_COOKIE = {
  title: "The cookie did not open the connection",
  text: `It is gone, its time is over, or the hub does not take it; Safari keeps it over https only. ${RESTARTED}`,
  action: "login",
};

export const BACK = { title: "Connected again", text: "Subscriptions are as they were. What was published meanwhile was not heard." };
export const OTHER_HUB = {
  title: "Connected again, to a hub that has started since",
  text: "Subscriptions are as they were. What was published meanwhile was not heard.",
};

/** Clocks: tokens end by the hub's. Null when the two agree. */
export function aboutClock(claims) {
  if (clockAhead === null || Math.abs(clockAhead) < 5000) return null;
  const by = duration(Math.abs(clockAhead));
  const now = Date.now() + clockAhead;
  const text = `This computer's clock is ${by} ${clockAhead > 0 ? "behind" : "ahead of"} the hub's. Times here go by the hub's.`;
  if (claims?.nbf * 1000 > now) return `${text} The token is not good yet: one of the two clocks is wrong.`;
  return `${text} A backend with this clock would sign tokens that ${clockAhead > 0 ? "end too early" : "live too long or are refused"}.`;
}

export function surprise(error) {
  return { title: "Something unexpected happened", text: `${error?.message ?? error}. Reload the page.` };
}
