// The list of subscriptions: what each has received, its position, and the history and presence of its channel.

import { $, make, runBusy, setShown } from "./dom.js";
import { shorten } from "./log.js";

/** Maximum entries of a history or presence, and characters of each. */
const ENTRIES = 50;
const CHARACTERS = 300;

function createEntry({ label, text, by }) {
  const entry = make("li", {}, make("strong", {}, label), make("code", {}, shorten(text, CHARACTERS)));
  if (by) entry.append(make("span", { className: "by" }, by));
  return entry;
}

/** What is known of a subscription, in a few words. */
function describe({ received, position, recovery, isServerSide }) {
  const facts = [received === 1 ? "1 message" : `${received} messages`];
  if (position) facts.push(`offset ${position.offset}`);
  if (recovery?.isRecovered) facts.push(recovery.missed > 0 ? `recovered ${recovery.missed}` : "nothing missed");
  if (recovery && !recovery.isRecovered) facts.push("not recovered");
  if (isServerSide) facts.push("subscribed by the hub");
  return facts.join(" · ");
}

/** One subscription. Its buttons show the history or the presence below it, and hide it again. */
class Item {
  #facts = make("span", { className: "hint facts" });
  #details = make("div", { className: "details", hidden: true });
  #buttons;
  /** The button whose details are shown; null if none are. */
  #shown = null;

  constructor(channel, id, { unsubscribe, readHistory, readPresence }) {
    this.#details.id = `details-${id}`;
    const opens = (name, read) => {
      const button = make("button", { type: "button", className: "small", "aria-label": `${name} of ${channel}` }, name);
      button.setAttribute("aria-controls", this.#details.id);
      button.addEventListener("click", () => runBusy(button, () => this.#toggle(button, () => read(channel))));
      return button;
    };
    this.#buttons = [opens("History", readHistory), opens("Presence", readPresence)];
    const end = make("button", { type: "button", className: "small quiet", "aria-label": `Unsubscribe from ${channel}` }, "Unsubscribe");
    end.addEventListener("click", () => unsubscribe(channel));
    const head = make("div", { className: "about" }, make("span", { className: "channel" }, channel), this.#facts);
    this.element = make("li", {}, head, make("div", { className: "item-buttons" }, ...this.#buttons, end), this.#details);
    this.#show(null);
  }

  /** `isReady`: whether there is a session that can be asked. */
  draw(subscription, isReady) {
    const facts = describe(subscription);
    if (this.#facts.textContent !== facts) this.#facts.textContent = facts;
    for (const button of this.#buttons) button.disabled = !isReady;
    if (!isReady) this.#show(null);
  }

  async #toggle(button, read) {
    if (this.#shown === button) return this.#show(null);
    const found = await read();
    if (!found) return;
    const entries = found.entries.slice(0, ENTRIES).map(createEntry);
    if (found.entries.length > ENTRIES) entries.push(make("li", { className: "hint" }, `and ${found.entries.length - ENTRIES} more`));
    this.#details.replaceChildren(make("p", { className: "hint" }, found.title), make("ol", {}, ...entries));
    this.#show(button);
  }

  #show(button) {
    this.#shown = button;
    for (const each of this.#buttons) each.setAttribute("aria-expanded", String(each === button));
    setShown(this.#details, button !== null);
  }
}

export class SubscriptionList {
  #actions;
  /** By channel. An item stays the same element while its subscription lives: a screen reader or the focus may be in it. */
  #items = new Map();
  #created = 0;
  #subscriptions = new Map();
  #isReady = false;
  #isDrawScheduled = false;

  constructor(actions) {
    this.#actions = actions;
  }

  /** `subscriptions`: by channel. */
  draw(subscriptions, isReady) {
    [this.#subscriptions, this.#isReady] = [subscriptions, isReady];
    const isUnchanged = subscriptions.size === this.#items.size && [...subscriptions.keys()].every((channel) => this.#items.has(channel));
    if (!isUnchanged || subscriptions.size === 0) this.#createItems();
    this.scheduleFacts();
  }

  #createItems() {
    const before = this.#items;
    this.#items = new Map();
    for (const channel of this.#subscriptions.keys()) {
      this.#items.set(channel, before.get(channel) ?? new Item(channel, (this.#created += 1), this.#actions));
    }
    for (const [channel, { element }] of before) if (!this.#items.has(channel)) element.remove();
    const elements = [...this.#items.values()].map(({ element }) => element);
    if (elements.length === 0) elements.push(make("li", { className: "hint" }, "None yet."));
    $("subscriptions").replaceChildren(...elements);
  }

  /** Draws the facts at most once per frame, however many publications arrive. */
  scheduleFacts() {
    if (this.#isDrawScheduled) return;
    this.#isDrawScheduled = true;
    requestAnimationFrame(() => {
      this.#isDrawScheduled = false;
      for (const [channel, item] of this.#items) {
        const subscription = this.#subscriptions.get(channel);
        if (subscription) item.draw(subscription, this.#isReady);
      }
    });
  }
}
