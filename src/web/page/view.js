// Draws the session and its remaining time, notices, and the code of the last action.

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

/** Runs the action of the shown advice; null without one. */
let runAction = null;
let hideTimer = null;
/** Good news disappears after this time; the log keeps it. */
const GOOD_NOTICE_MS = 8000;

/** Shows an advice until the next one, or until it is dismissed. `kind` is "error", "good" or "info". Returns whether it is new. */
export function drawNotice(advice, kind = "error", action = null) {
  if ($("notice").hidden === false && $("notice-title").textContent === advice.title && kind === $("notice").dataset.kind) {
    // Shown already: a screen reader need not read it again for every attempt.
    if ($("notice-text").textContent === advice.text.replaceAll("`", "")) return false;
  }
  runAction = action && (() => action.run(advice));
  $("notice").dataset.kind = kind;
  $("notice-title").textContent = advice.title;
  // What is between backticks is code.
  $("notice-text").replaceChildren(...advice.text.split("`").map((part, at) => (at % 2 === 1 ? make("code", {}, part) : part)));
  setShown($("notice-action"), action !== null);
  if (action) $("notice-action").textContent = action.label;
  setShown($("notice"), true);
  clearTimeout(hideTimer);
  if (kind === "good") hideTimer = setTimeout(hideNotice, GOOD_NOTICE_MS);
  return true;
}

export function hideNotice() {
  runAction = null;
  setShown($("notice"), false);
}

// The notice stays on the screen: what scrolls below it must not hide behind it.
new ResizeObserver(() => {
  const height = $("notice").hidden ? 0 : $("notice").offsetHeight;
  document.documentElement.style.setProperty("--notice", `${height}px`);
}).observe($("notice"));
$("notice-close").addEventListener("click", hideNotice);
$("notice-action").addEventListener("click", () => {
  const run = runAction;
  hideNotice();
  run?.();
});

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
