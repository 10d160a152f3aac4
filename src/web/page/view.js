// What the page shows of its state: the session and its time, notices, subscriptions, the code of the last action.

import { codeOf } from "./code.js";
import { $, make, show } from "./dom.js";
import { now } from "./hub.js";
import { PLACEHOLDER, duration } from "./token.js";

const STATES = {
  idle: "Not connected",
  connecting: "Connecting…",
  ready: "Connected",
  waiting: "Reconnecting…",
};

/** `isBack`: it was connected before. Then it reads the same with each try, or a screen reader would say every one of them. */
export function showState(state, isBack = false) {
  const said = state === "connecting" && isBack ? "waiting" : state;
  $("state").dataset.state = state;
  if ($("state-text").textContent !== STATES[said]) $("state-text").textContent = STATES[said];
}

/** The time that is left, by the hub's clock; `total` is how long it was. */
export function showExpiry(endsAt, total, margin) {
  show($("expiry"), endsAt !== null);
  if (endsAt === null) return;
  const left = endsAt - now();
  $("expiry-label").textContent = left > 0 ? "Expires in" : "Token";
  $("expiry-time").textContent = left > 0 ? duration(left) : "expired";
  $("expiry-bar").value = total > 0 ? Math.min(1, Math.max(0, left / total)) : 0;
  $("expiry").dataset.level = left <= 0 ? "over" : left <= margin ? "soon" : "fine";
}

let act = null;
let leaving = null;
/** Good news needs no answer: it leaves by itself, and stays in the log. */
const GOOD_MS = 8000;

/** An advice, until another comes or it is dismissed. `kind` is "error", "good" or "info". Gives whether it is new. */
export function notice(advice, kind = "error", action = null) {
  if ($("notice").hidden === false && $("notice-title").textContent === advice.title && kind === $("notice").dataset.kind) {
    // Said already: a reader need not hear it with each try.
    if ($("notice-text").textContent === advice.text) return false;
  }
  act = action;
  $("notice").dataset.kind = kind;
  $("notice-title").textContent = advice.title;
  $("notice-text").textContent = advice.text;
  show($("notice-action"), action !== null);
  if (action) $("notice-action").textContent = action.label;
  show($("notice"), true);
  clearTimeout(leaving);
  if (kind === "good") leaving = setTimeout(unnotice, GOOD_MS);
  return true;
}

export function unnotice() {
  act = null;
  show($("notice"), false);
}

$("notice-close").addEventListener("click", unnotice);
$("notice-action").addEventListener("click", () => {
  const { run } = act ?? {};
  unnotice();
  run?.();
});

let drawn = null;

/** `counts` is a map of channels to how many publications came. */
export function showSubscriptions(channels, counts, unsubscribe) {
  // Left alone if it is the same: a reader or the focus may be in it.
  if (drawn !== channels.join("\n")) {
    drawn = channels.join("\n");
    const items = channels.map((channel) => {
      const button = make("button", { type: "button", className: "small quiet", "aria-label": `Unsubscribe from ${channel}` }, "Unsubscribe");
      button.addEventListener("click", () => unsubscribe(channel));
      const count = make("span", { className: "hint count" });
      return make("li", {}, make("span", { className: "channel" }, channel), count, button);
    });
    if (items.length === 0) items.push(make("li", { className: "hint" }, "None yet."));
    $("subscriptions").replaceChildren(...items);
  }
  showCounts(counts);
}

let isCounting = false;

/** Once a frame at most, however many come. */
export function showCounts(counts) {
  if (isCounting) return;
  isCounting = true;
  requestAnimationFrame(() => {
    isCounting = false;
    for (const item of $("subscriptions").children) {
      const count = counts.get(item.querySelector(".channel")?.textContent) ?? 0;
      const text = count === 1 ? "1 message" : `${count} messages`;
      if (item.querySelector(".count")) item.querySelector(".count").textContent = text;
    }
  });
}

const TABS = ["js", "sdk", "curl"];

/** The panel with the code of the last action. */
export class Code {
  #action = { name: "connect" };
  #tab = "js";
  #token;

  /** `token` gives the token of this page, or null. */
  constructor(token) {
    this.#token = token;
    for (const tab of TABS) {
      $(`tab-${tab}`).addEventListener("click", () => this.#choose(tab));
      $(`tab-${tab}`).addEventListener("keydown", (event) => this.#move(event, tab));
    }
    $("code-secret").addEventListener("change", () => this.draw());
    $("code-copy").addEventListener("click", () => this.#copy());
  }

  of(action) {
    this.#action = action;
    this.draw();
  }

  draw() {
    const withSecret = $("code-secret").checked;
    const code = codeOf(this.#action, (withSecret && this.#token()) || PLACEHOLDER);
    $("code-summary").textContent = code.title;
    $("code").textContent = code[this.#tab];
    const note = withSecret && this.#token() ? "Your token is in it: whoever reads it is you, until it expires." : code.note;
    $("code-note").textContent = note;
  }

  #choose(chosen) {
    this.#tab = chosen;
    for (const tab of TABS) {
      const isChosen = tab === chosen;
      $(`tab-${tab}`).setAttribute("aria-selected", String(isChosen));
      $(`tab-${tab}`).tabIndex = isChosen ? 0 : -1;
    }
    $("code-panel").setAttribute("aria-labelledby", `tab-${chosen}`);
    this.draw();
  }

  /** Arrow keys, as in every list of tabs (ARIA Authoring Practices). */
  #move(event, tab) {
    const at = TABS.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + TABS.length, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = TABS[to % TABS.length];
    this.#choose(next);
    $(`tab-${next}`).focus();
  }

  async #copy() {
    const button = $("code-copy");
    try {
      await navigator.clipboard.writeText($("code").textContent);
      button.textContent = "Copied";
    } catch {
      // No clipboard without TLS, or not allowed: then it is marked, and a key copies it.
      getSelection().selectAllChildren($("code"));
      button.textContent = "Marked: copy it";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
}
