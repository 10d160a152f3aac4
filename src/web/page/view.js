// Draws the session and its remaining time, notices, subscriptions, and the code of the last action.

import { codeOf } from "./code.js";
import { $, make, setShown } from "./dom.js";
import { now } from "./hub.js";
import { PLACEHOLDER, formatDuration } from "./token.js";

const STATES = {
  idle: "Not connected",
  connecting: "Connecting…",
  ready: "Connected",
  waiting: "Reconnecting…",
};

/** `isReturning`: it was connected before. The text then stays the same for every attempt, or a screen reader would read each. */
export function showState(state, isReturning = false) {
  const shown = state === "connecting" && isReturning ? "waiting" : state;
  $("state").dataset.state = state;
  if ($("state-text").textContent !== STATES[shown]) $("state-text").textContent = STATES[shown];
}

/** Shows the remaining time by the hub's clock; `lifetime` is the token's whole lifetime. */
export function showExpiry(expiresAt, lifetime, margin) {
  setShown($("expiry"), expiresAt !== null);
  if (expiresAt === null) return;
  const left = expiresAt - now();
  $("expiry-label").textContent = left > 0 ? "Expires in" : "Token";
  $("expiry-time").textContent = left > 0 ? formatDuration(left) : "expired";
  $("expiry-bar").value = lifetime > 0 ? Math.min(1, Math.max(0, left / lifetime)) : 0;
  $("expiry").dataset.level = left <= 0 ? "expired" : left <= margin ? "soon" : "fine";
}

let noticeAction = null;
let hideTimer = null;
/** Good news disappears after this time; the log keeps it. */
const GOOD_NOTICE_MS = 8000;

/** Shows an advice until the next one, or until it is dismissed. `kind` is "error", "good" or "info". Returns whether it is new. */
export function drawNotice(advice, kind = "error", action = null) {
  if ($("notice").hidden === false && $("notice-title").textContent === advice.title && kind === $("notice").dataset.kind) {
    // Shown already: a screen reader need not read it again for every attempt.
    if ($("notice-text").textContent === advice.text) return false;
  }
  noticeAction = action;
  $("notice").dataset.kind = kind;
  $("notice-title").textContent = advice.title;
  $("notice-text").textContent = advice.text;
  setShown($("notice-action"), action !== null);
  if (action) $("notice-action").textContent = action.label;
  setShown($("notice"), true);
  clearTimeout(hideTimer);
  if (kind === "good") hideTimer = setTimeout(hideNotice, GOOD_NOTICE_MS);
  return true;
}

export function hideNotice() {
  noticeAction = null;
  setShown($("notice"), false);
}

$("notice-close").addEventListener("click", hideNotice);
$("notice-action").addEventListener("click", () => {
  const { run } = noticeAction ?? {};
  hideNotice();
  run?.();
});

let drawnChannels = null;

/** `counts` maps channels to the number of received publications. */
export function showSubscriptions(channels, counts, unsubscribe) {
  // Unchanged lists are not drawn again: a screen reader or the focus may be in them.
  if (drawnChannels !== channels.join("\n")) {
    drawnChannels = channels.join("\n");
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

let isCountScheduled = false;

/** Draws at most once per frame, however many publications arrive. */
export function showCounts(counts) {
  if (isCountScheduled) return;
  isCountScheduled = true;
  requestAnimationFrame(() => {
    isCountScheduled = false;
    for (const item of $("subscriptions").children) {
      const count = counts.get(item.querySelector(".channel")?.textContent) ?? 0;
      const text = count === 1 ? "1 message" : `${count} messages`;
      if (item.querySelector(".count")) item.querySelector(".count").textContent = text;
    }
  });
}

const TABS = ["js", "sdk", "curl"];

/** The panel that shows the code of the last action. */
export class CodePanel {
  #action = { name: "connect" };
  #tab = "js";
  #token;

  /** `token` returns the token of this page, or null. */
  constructor(token) {
    this.#token = token;
    for (const tab of TABS) {
      $(`tab-${tab}`).addEventListener("click", () => this.#selectTab(tab));
      $(`tab-${tab}`).addEventListener("keydown", (event) => this.#moveFocus(event, tab));
    }
    $("code-secret").addEventListener("change", () => this.draw());
    $("code-copy").addEventListener("click", () => this.#copy());
  }

  setAction(action) {
    this.#action = action;
    this.draw();
  }

  draw() {
    const showsToken = $("code-secret").checked;
    const code = codeOf(this.#action, (showsToken && this.#token()) || PLACEHOLDER);
    $("code-summary").textContent = code.title;
    $("code").textContent = code[this.#tab];
    const note = showsToken && this.#token() ? "This code contains your token: anyone who reads it can act as you until the token expires." : code.note;
    $("code-note").textContent = note;
  }

  #selectTab(chosen) {
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
  #moveFocus(event, tab) {
    const at = TABS.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + TABS.length, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = TABS[to % TABS.length];
    this.#selectTab(next);
    $(`tab-${next}`).focus();
  }

  async #copy() {
    const button = $("code-copy");
    try {
      await navigator.clipboard.writeText($("code").textContent);
      button.textContent = "Copied";
    } catch {
      // The clipboard needs TLS and a permission. Without them the code is selected, and a key copies it.
      getSelection().selectAllChildren($("code"));
      button.textContent = "Selected: copy it";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
}
