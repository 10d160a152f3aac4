// Explains errors that concern a channel: why it was refused, which option is off, which limit is reached, and what a reconnect
// recovered.

import { EXPIRED, forHttp, says } from "./advice.js";
import { RequestError } from "./hub.js";

/** What a command needs in the configuration: the option that permits it, and the one without which there is nothing to read. */
const NEEDS = {
  subscribe: { access: "allow_subscribe", permits: "user" },
  unsubscribe: { access: "allow_subscribe", permits: "user" },
  publish: { access: "allow_publish", permits: "user" },
  history: { access: "allow_history", permits: "subscriber", source: "history_size", example: "100" },
  presence: { access: "allow_presence", permits: "subscriber", source: "presence", example: "true" },
};

/** Returns the users to which a name limits its channel, or null: those after the first `#`. */
function usersOf(channel) {
  const at = channel.indexOf("#");
  return at < 0 ? null : channel.slice(at + 1).split(",");
}

/** Returns where the options of a channel are: its namespace, or [channels]. */
function optionsOf(channel) {
  const [before] = channel.replace(/^\$/, "").split("#");
  return before.includes(":") ? `the namespace “${before.split(":")[0]}”` : "[channels]";
}

/** Returns how to set options of a channel for a try: as flags, or in the configuration file. */
function toTry(channel, options) {
  const [place, all] = [optionsOf(channel), Object.entries(options)];
  if (place === "[channels]") return `To try it, start the hub with \`${all.map(([name, value]) => `--set channels.${name}=${value}`).join(" ")}\`.`;
  const inToml = (value) => (/^(\d+|true)$/.test(value) ? value : `"${value}"`);
  return `To try it, set ${all.map(([name, value]) => `\`${name} = ${inToml(value)}\``).join(" and ")} in ${place}.`;
}

const quoted = (user) => (user ? `“${user}”` : "an anonymous user");

/** Advice for a name that begins with `$`. `user` may be in a shell command, so it is shown only if it needs no quotes. */
export function needsToken(channel, user) {
  const forShell = /^[\w@.-]+$/.test(user ?? "") ? user : "USER";
  return {
    title: `“${channel}” needs a subscription token`,
    text:
      `A channel whose name begins with $ is open only to clients with a token for this channel and user, which your backend signs. ` +
      `To try it, paste what this prints: \`wardcast token --user ${forShell} --subscription '${channel.replaceAll("'", "'\\''")}'\``,
    action: "subscriptionToken",
    channel,
  };
}

/** Returns why a pasted subscription token is the wrong one; null if it may be right. The hub would close the connection for it. */
export function forOtherToken(claims, channel, user) {
  const action = { action: "subscriptionToken", channel };
  const owner = String(claims?.sub ?? "");
  if (claims === null || (claims.channel === channel && owner === (user ?? owner))) return null;
  if (claims.channel === undefined) {
    return { title: "That is not a subscription token", text: "It has no claim “channel”: it opens a connection (step 1), but no channel.", ...action };
  }
  const what = claims.channel === channel ? "user" : "channel";
  const [found, wanted] = what === "user" ? [quoted(owner), quoted(user)] : [`“${claims.channel}”`, `“${channel}”`];
  return { title: `That subscription token is for another ${what}`, text: `It is for ${found}, not for ${wanted}.`, ...action };
}

/** Advice for a name with users of whom this page's user is none. */
function forOutsider(channel, user) {
  const title = `“${channel}” is limited to its users`;
  const rule = "The names after # are the only users of the channel";
  if (user === null) return { title, text: `${rule}. A user is the “sub” of a token behind the user_prefix of its key, which this hub sets.` };
  const own = user ? `, or open one of your own: ${channel.split("#")[0]}#${user}` : "";
  return { title, text: `${rule}, and this page is logged in as ${quoted(user)}. Log in as one of them${own}.` };
}

/** Explains error 103. */
function forDenied({ command, channel, token, user }) {
  const { access, permits } = NEEDS[command];
  const option = `${access} of ${optionsOf(channel)}`;
  const members = usersOf(channel);
  const mayBeOutsider = user === null ? !channel.startsWith("$") : !members?.includes(user);
  if (members && mayBeOutsider) return forOutsider(channel, user);
  if (channel.startsWith("$")) {
    if (command !== "subscribe") {
      return {
        title: `No permission for “${channel}”`,
        text: `A channel whose name begins with $ is open only to its subscribers, and to them as far as ${option} says. Subscribe with a subscription token first.`,
      };
    }
    if (!token) return needsToken(channel, user);
    return {
      title: `The hub does not accept the subscription token for “${channel}”`,
      text: "It must be signed with the hub's key for this channel and user. `wardcast check-token` explains a token that is refused.",
      action: "subscriptionToken",
      channel,
    };
  }
  return {
    title: `No permission for “${channel}”`,
    text: `Neither the token's caps nor the configuration permits it: see ${option}. ${toTry(channel, { [access]: permits })}`,
  };
}

/** Explains error 108. The hub names the option that is off; reading also needs the permission. */
function forNotEnabled(message, { command, channel }) {
  const { access, permits, source, example } = NEEDS[command];
  const title = `${command[0].toUpperCase()}${command.slice(1)} is not enabled for “${channel}”`;
  return { title, text: `${says(message)} ${source ? toTry(channel, { [source]: example, [access]: permits }) : ""}` };
}

/** Explains error 109: with a subscription token it is that token which has expired. */
function forExpired({ channel, token }) {
  if (!token) return EXPIRED;
  return {
    title: `The subscription token for “${channel}” has expired`,
    text: "Paste a newer one. An application asks its backend for it, shortly before the old one expires.",
    action: "subscriptionToken",
    channel,
  };
}

/** Explains the error of a command, or of a publish request. `about`: {command, channel, user, token}; `user` is null if it is not known, `token` is that of the subscription. */
export function forCommand(error, about) {
  const { command, channel } = about;
  switch (error.code) {
    case 100:
      return { title: "The hub failed for the moment", text: "Its broker may be unavailable. Try again soon." };
    case 101:
      return { title: "A token is required", text: "Send a valid token with the command (auth.require_token_per_message).", action: "login" };
    case 102:
      return {
        title: `No namespace for “${channel}”`,
        text: "The part before the colon has to be one of [[namespaces]] in the hub's configuration. Names without a colon need none.",
      };
    case 103:
      return forDenied(about);
    case 104:
      return { title: "The hub does not know this method", text: "This page may be of another version: reload it." };
    case 105:
      return { title: `Already subscribed to “${channel}”`, text: "A connection can subscribe to a channel only once." };
    case 106: {
      const remedy = { subscribe: "Unsubscribe from a channel first.", publish: "Publish less data, or raise limits.publication_bytes." }[command];
      return { title: "A limit of the hub is reached", text: `${says(error.message)} ${remedy ?? ""}` };
    }
    case 107:
      return {
        title: "The hub cannot read the request",
        text: `${says(error.message)} A channel name has at most 255 bytes and no *, invisible characters or double spaces.`,
      };
    case 108:
      return forNotEnabled(error.message, about);
    case 109:
      return forExpired(about);
    case 111:
      return { title: "Too many requests", text: "The hub limits commands and publications per second. Try again in a moment." };
    case 112:
      return { title: "The missed publications are no longer available", text: "Subscribe again without a position." };
    case 0:
      if (error instanceof RequestError) return forHttp(error);
      return { title: "Not connected", text: `${error.message ?? "There is no connection"}: connect first, or wait for the page to reconnect.` };
    default:
      return error instanceof RequestError ? forHttp(error) : { title: `Error ${error.code}`, text: says(error.message) };
  }
}

const inWords = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const listed = (channels) => channels.map((channel) => `“${channel}”`).join(", ");

/** What a reconnect restored. `subscriptions`: by channel. */
export function forReconnect(subscriptions, isOtherHub) {
  const all = [...subscriptions];
  const recovered = all.filter(([, { recovery }]) => recovery?.isRecovered);
  const failed = all.filter(([, { recovery }]) => recovery && !recovery.isRecovered).map(([channel]) => channel);
  const without = all.filter(([, { recovery }]) => !recovery).map(([channel]) => channel);
  const missed = recovered.reduce((sum, [, { recovery }]) => sum + recovery.missed, 0);
  const texts = [];
  if (recovered.length > 0) texts.push(missed > 0 ? `${inWords(missed, "missed publication")} recovered.` : "Nothing was missed.");
  if (failed.length > 0) texts.push(`The missed publications in ${listed(failed)} are no longer in the history.`);
  if (without.length > 0) texts.push(`Publications in ${listed(without)} in between were missed: no history (history_size).`);
  return {
    title: isOtherHub ? "Connected again, to another or restarted hub" : "Connected again",
    text: `The subscriptions are restored. ${texts.join(" ")}`,
  };
}
