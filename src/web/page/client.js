// A connection to the hub that reconnects: commands and their replies, subscriptions that survive a reconnect and recover what
// they missed, backoff with jitter. It does not depend on the page and reports by events: state, ready, frame, publication,
// closed and others.

import { parseJson, toJson } from "./json.js";
import { Subscription } from "./subscription.js";

/** Minimum and maximum reconnect delay. Each delay is random, so that the clients of a dead hub do not all reconnect at once. */
const BACKOFF_MS = [500, 15_000];
/** Time to wait for the session, or for a reply. */
const REPLY_TIMEOUT_MS = 10_000;

/** Returns whether a close code forbids to reconnect with the same token. */
const forbidsReconnect = (code) => (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000) || code === 3005;

export class HubClient extends EventTarget {
  #planConnection;
  #hasNewToken;
  #socket = null;
  #pending = new Map();
  #lastId = 1;
  #timer = null;
  #failures = 0;
  /** The code with which the last connection was closed, and the longest text that was sent over it. */
  #closedBy = null;
  #longestText = "";
  /** By channel. */
  subscriptions;
  state = "idle";
  /** The `connect` push or reply of the session. */
  session = null;

  /**
   * `plan` returns {url, protocols, first}, or a promise of it, for each attempt. `subscriptions`: those of an earlier client, which
   * this one continues. `hasNewToken` returns whether the next plan may have another token than the one that was closed with a code.
   */
  constructor(plan, subscriptions = new Map(), hasNewToken = () => false) {
    super();
    this.#planConnection = plan;
    this.#hasNewToken = hasNewToken;
    this.subscriptions = subscriptions;
  }

  /** Whether this is a further attempt: after a failure, or after a session. */
  get isReturning() {
    return this.#failures > 0 || this.session !== null;
  }

  get isReady() {
    return this.state === "ready";
  }

  connect() {
    this.#failures = 0;
    this.#open();
  }

  /** Closes the connection for good. */
  close() {
    this.#closeSocket();
    this.#setState("idle");
  }

  /** Reconnects now instead of waiting. */
  reconnectNow() {
    if (this.state === "waiting") this.#open();
  }

  send(text) {
    this.#socket.send(text);
    if (text.length > this.#longestText.length) this.#longestText = text;
    this.#emit("frame", { direction: "out", text });
  }

  /**
   * Sends a command; resolves with its reply, rejects with {code, message}, and `isClosed` if the connection ended before the
   * reply. `apply` is called with the reply before anything that the hub has sent after it is handled.
   */
  command(name, body, apply = null) {
    if (!this.isReady) return Promise.reject({ code: 0, message: "not connected" });
    const id = ++this.#lastId;
    this.send(toJson({ id, [name]: body }));
    return this.#awaitReply(id, apply);
  }

  /** Subscribes now if there is a session, and again in every later session. */
  async subscribe(channel, token = null) {
    const subscription = this.subscriptions.get(channel) ?? new Subscription();
    if (token) subscription.token = token;
    this.subscriptions.set(channel, subscription);
    if (!this.isReady) return;
    try {
      const apply = (reply) => this.#apply(channel, subscription, reply.subscribe);
      await this.command("subscribe", subscription.request(channel), apply);
    } catch (error) {
      // 105: the session is subscribed already, by its token or by an earlier command.
      if (error.code === 105) return;
      // After a temporary error the next session tries again.
      if (error.code !== 0 && !error.temporary) this.subscriptions.delete(channel);
      throw error;
    } finally {
      this.#emit("channels");
    }
  }

  unsubscribe(channel) {
    this.subscriptions.delete(channel);
    this.#emit("channels");
    return this.isReady ? this.command("unsubscribe", { channel }) : Promise.resolve({});
  }

  #apply(channel, subscription, result) {
    for (const publication of subscription.apply(result)) this.#emit("publication", { channel, publication, isRecovered: true });
  }

  /** Sends a newer token, as a command or as text depending on the kind of session. */
  refresh(token) {
    if (this.session?.isSdk) return this.command("refresh", { token });
    this.send(`Authorization: Bearer ${token}`);
    return this.#awaitReply("session");
  }

  #awaitReply(id, apply = null) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.#completeRequest(id, { error: { code: 0, message: "no reply in time" } }), REPLY_TIMEOUT_MS);
      this.#pending.set(id, { resolve, reject, late, apply });
    });
  }

  #completeRequest(id, reply) {
    const waiting = this.#pending.get(id);
    if (!waiting) return;
    clearTimeout(waiting.late);
    this.#pending.delete(id);
    if (reply.error) return waiting.reject(reply.error);
    waiting.apply?.(reply);
    waiting.resolve(reply);
  }

  async #open() {
    this.#closeSocket();
    this.#setState("connecting");
    let plan;
    const attempt = (this.#socket = {});
    try {
      plan = await this.#planConnection();
      if (this.#socket !== attempt) return;
      this.#useSocket(new WebSocket(plan.url, plan.protocols ?? []), plan);
    } catch (error) {
      if (this.#socket === attempt) this.#handleClose({ code: 1006, reason: "", error, wasReady: false });
    }
  }

  #useSocket(socket, { first }) {
    this.#socket = socket;
    this.#longestText = "";
    this.#timer = setTimeout(() => socket.close(), REPLY_TIMEOUT_MS);
    const ifCurrent = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = ifCurrent(() => first && this.send(first));
    socket.onmessage = ifCurrent(({ data }) => {
      for (const line of String(data).split("\n")) if (line) this.#handleMessage(line);
    });
    socket.onclose = ifCurrent(({ code, reason }) => this.#handleClose({ code, reason, wasReady: this.isReady }));
  }

  #handleMessage(line) {
    this.#emit("frame", { direction: "in", text: line });
    let message;
    try {
      message = parseJson(line);
    } catch {
      return;
    }
    if (message === null || typeof message !== "object") return;
    if (Object.keys(message).length === 0) {
      // A ping of an SDK session.
      this.send("{}");
    } else if (message.id) {
      if (message.connect) this.#startSession({ ...message.connect, isSdk: true });
      else if (!this.isReady && message.error) this.#emit("connect-error", message.error);
      this.#completeRequest(message.id, message);
    } else if (message.push?.connect) {
      this.#startSession(message.push.connect);
    } else if (message.push) {
      this.#handlePush(message.push);
    }
  }

  #startSession(session) {
    clearTimeout(this.#timer);
    const before = this.session;
    this.session = session;
    if (this.isReady) {
      this.#completeRequest("session", session);
      return;
    }
    this.#failures = 0;
    this.#setState("ready");
    const isReconnect = before !== null;
    const how = { isReconnect, isOtherHub: isReconnect && before.node !== session.node, closedBy: this.#closedBy };
    this.#emit("ready", { session, ...how });
    this.#restoreSubscriptions(session.subs ?? {}).then(() => this.isReady && this.session === session && this.#emit("restored", how));
  }

  /** `granted`: the subscriptions that come with the session, by channel. */
  async #restoreSubscriptions(granted) {
    for (const [channel, result] of Object.entries(granted)) this.#addServerSide(channel, result);
    const others = [...this.subscriptions.keys()].filter((channel) => !Object.hasOwn(granted, channel));
    await Promise.all(others.map((channel) => this.#subscribeAgain(channel)));
  }

  #addServerSide(channel, result) {
    const subscription = this.subscriptions.get(channel) ?? new Subscription();
    subscription.isServerSide = true;
    this.subscriptions.set(channel, subscription);
    this.#apply(channel, subscription, result);
    this.#emit("channels");
  }

  #subscribeAgain(channel) {
    const subscription = this.subscriptions.get(channel);
    subscription.isServerSide = false;
    return this.subscribe(channel).catch((error) => this.#emit("subscribe-error", { channel, error, token: subscription.token }));
  }

  #handlePush({ channel, pub, subscribe, unsubscribe }) {
    if (pub) {
      this.subscriptions.get(channel)?.receive(pub);
      this.#emit("publication", { channel, publication: pub, isRecovered: false });
    }
    if (subscribe) this.#addServerSide(channel, subscribe);
    if (!unsubscribe || !this.subscriptions.has(channel)) return;
    if (unsubscribe.code >= 2500) this.#subscribeAgain(channel);
    else this.subscriptions.delete(channel);
    this.#emit("unsubscribed", { channel, ...unsubscribe });
    this.#emit("channels");
  }

  #handleClose(how) {
    this.#closeSocket();
    this.#closedBy = how.code;
    this.#failures += 1;
    const isFinal = forbidsReconnect(how.code) && !this.#hasNewToken(how.code);
    const maximum = Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** (this.#failures - 1));
    const wait = Math.round(maximum / 2 + (Math.random() * maximum) / 2);
    if (isFinal) this.#setState("idle");
    else {
      this.#timer = setTimeout(() => this.#open(), wait);
      this.#setState("waiting");
    }
    this.#emit("closed", { ...how, isFinal, failures: this.#failures, longestText: this.#longestText });
  }

  #closeSocket() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.close) socket.close();
    for (const id of [...this.#pending.keys()]) this.#completeRequest(id, { error: { code: 0, message: "the connection ended", isClosed: true } });
  }

  #setState(state) {
    this.state = state;
    this.#emit("state", state);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
