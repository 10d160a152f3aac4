// A connection to the hub that reconnects: commands and their replies, subscriptions that survive a reconnect, backoff with
// jitter. It does not depend on the page and reports by events: state, ready, frame, pub, closed and others.

/** Minimum and maximum reconnect delay. Each delay is random, so that the clients of a dead hub do not all reconnect at once. */
const BACKOFF_MS = [500, 15_000];
/** Time to wait for the session, or for a reply. */
const PATIENCE_MS = 10_000;

/** Returns whether a close code forbids to reconnect. */
const isFinal = (code) => (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000) || code === 3005;

export class Link extends EventTarget {
  #plan;
  #socket = null;
  #pending = new Map();
  #lastId = 1;
  #timer = null;
  #failures = 0;
  #wanted = new Set();
  state = "idle";
  /** The `connect` push or reply of the session. */
  session = null;

  /** `plan` returns {url, protocols, first}, or a promise of it, for each attempt. */
  constructor(plan) {
    super();
    this.#plan = plan;
  }

  get channels() {
    return [...this.#wanted];
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
    this.#drop();
    this.#become("idle");
  }

  /** Reconnects now instead of waiting. */
  hurry() {
    if (this.state === "waiting") this.#open();
  }

  send(text) {
    this.#socket.send(text);
    this.#tell("frame", { direction: "out", text });
  }

  /** Sends a command; resolves with its reply, rejects with {code, message}. */
  command(name, body, id = ++this.#lastId) {
    if (!this.isReady) return Promise.reject({ code: 0, message: "not connected" });
    this.send(JSON.stringify({ id, [name]: body }));
    return this.#reply(id);
  }

  /** Subscribes now if there is a session, and again in every later session. */
  async subscribe(channel) {
    this.#wanted.add(channel);
    if (!this.isReady) return {};
    try {
      return await this.command("subscribe", { channel });
    } catch (error) {
      // 105: the session is subscribed already, by its token or by an earlier command.
      if (error.code === 105) return {};
      // After a temporary error the next session tries again.
      if (error.code !== 0 && !error.temporary) this.#wanted.delete(channel);
      throw error;
    } finally {
      this.#tell("channels");
    }
  }

  unsubscribe(channel) {
    this.#wanted.delete(channel);
    this.#tell("channels");
    return this.isReady ? this.command("unsubscribe", { channel }) : Promise.resolve({});
  }

  /** Sends a newer token, as a command or as text depending on the kind of session. */
  refresh(token) {
    if (this.session?.isSdk) return this.command("refresh", { token });
    this.send(`Authorization: Bearer ${token}`);
    return this.#reply("greeting");
  }

  #reply(id) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.#settle(id, { error: { code: 0, message: "no reply in time" } }), PATIENCE_MS);
      this.#pending.set(id, { resolve, reject, late });
    });
  }

  #settle(id, reply) {
    const waiting = this.#pending.get(id);
    if (!waiting) return;
    clearTimeout(waiting.late);
    this.#pending.delete(id);
    if (reply.error) waiting.reject(reply.error);
    else waiting.resolve(reply);
  }

  async #open() {
    this.#drop();
    this.#become("connecting");
    let plan;
    const own = (this.#socket = {});
    try {
      plan = await this.#plan();
      if (this.#socket !== own) return;
      this.#listen(new WebSocket(plan.url, plan.protocols ?? []), plan);
    } catch (error) {
      if (this.#socket === own) this.#lost({ code: 1006, reason: "", error, wasReady: false });
    }
  }

  #listen(socket, { first }) {
    this.#socket = socket;
    let told = null;
    this.#timer = setTimeout(() => socket.close(), PATIENCE_MS);
    const isOurs = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = isOurs(() => first && this.send(first));
    socket.onmessage = isOurs(({ data }) => {
      for (const line of String(data).split("\n")) if (line) told = this.#hear(line) ?? told;
    });
    socket.onclose = isOurs(({ code, reason }) => {
      // The disconnect push is more reliable than a close frame that a proxy may have replaced.
      const { code: said, reason: why } = told ?? { code, reason };
      this.#lost({ code: code === 1006 ? said : code, reason: reason || why, wasReady: this.isReady });
    });
  }

  /** Handles one message. Returns the `disconnect` push, which explains the close that follows. */
  #hear(line) {
    this.#tell("frame", { direction: "in", text: line });
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      return null;
    }
    if (message === null || typeof message !== "object") return null;
    if (Object.keys(message).length === 0) {
      // A ping of an SDK session.
      this.send("{}");
    } else if (message.id) {
      if (message.connect) this.#greeted({ ...message.connect, isSdk: true });
      else if (!this.isReady && message.error) this.#tell("denied", message.error);
      this.#settle(message.id, message);
    } else if (message.push?.connect) {
      this.#greeted(message.push.connect);
    } else if (message.push) {
      this.#pushed(message.push);
      return message.push.disconnect ?? null;
    }
    return null;
  }

  #greeted(session) {
    clearTimeout(this.#timer);
    const before = this.session;
    this.session = session;
    if (this.isReady) {
      this.#settle("greeting", session);
      this.#tell("greeted", session);
      return;
    }
    this.#failures = 0;
    this.#become("ready");
    const isBack = before !== null;
    this.#tell("ready", { session, isBack, isOtherHub: isBack && before.node !== session.node });
    for (const channel of this.#wanted) {
      this.subscribe(channel).catch((error) => this.#tell("refused", { channel, error }));
    }
  }

  #pushed(push) {
    const { channel } = push;
    if (push.pub) this.#tell("pub", { channel, ...push.pub });
    if (push.subscribe) this.#wanted.add(channel);
    if (push.unsubscribe) {
      this.#wanted.delete(channel);
      this.#tell("ended", { channel, ...push.unsubscribe });
      if (push.unsubscribe.code >= 2500) this.subscribe(channel).catch(() => {});
    }
    if (push.subscribe || push.unsubscribe) this.#tell("channels");
  }

  #lost(how) {
    this.#drop();
    this.#failures += 1;
    const isOver = isFinal(how.code);
    const most = Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** (this.#failures - 1));
    const wait = Math.round(most / 2 + (Math.random() * most) / 2);
    if (isOver) this.#become("idle");
    else {
      this.#timer = setTimeout(() => this.#open(), wait);
      this.#become("waiting");
    }
    this.#tell("gone", { ...how, isOver, failures: this.#failures });
  }

  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.close) socket.close();
    for (const id of [...this.#pending.keys()]) this.#settle(id, { error: { code: 0, message: "the connection ended" } });
  }

  #become(state) {
    this.state = state;
    this.#tell("state", state);
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
