// The two choices that this page demonstrates: where the token is stored, and how it is sent. Each option says what it costs; an
// unavailable one says why.

import { TOKEN_WAYS, first, nameOf, whyNot } from "./token_ways.js";
import { $, make } from "./dom.js";
import { STORAGES, loadChoices, saveChoice } from "./storage.js";

function createOption(group, { id, name }, description, isChosen, problem) {
  const input = make("input", { type: "radio", name: group, value: id, checked: isChosen, disabled: Boolean(problem) });
  const texts = make("span", { className: "choice-text" }, make("strong", {}, name), make("small", {}, ...description));
  if (problem) texts.append(make("small", { className: "problem" }, problem));
  return make("label", { className: problem ? "choice off" : "choice" }, input, texts);
}

export class Choices {
  /** "memory", "session", "local" or "cookie". */
  storage = "memory";
  way = null;
  #facts = null;
  #url = "";
  /** Where the current token is stored; null without one. */
  #storedIn = null;
  #onChange;

  /** `onChange` is called after each choice. */
  constructor(onChange) {
    this.#onChange = onChange;
    const { storage, way } = loadChoices();
    if (STORAGES.some((one) => one.id === storage)) this.storage = storage;
    this.way = way ?? null;
    $("storages").addEventListener("change", ({ target }) => this.#select("storage", target.value));
    $("ways").addEventListener("change", ({ target }) => this.#select("way", target.value));
    this.draw();
  }

  /** Applies what the hub supports. */
  setFacts(facts, url) {
    this.#facts = facts;
    this.#url = url;
    this.draw();
  }

  #select(choice, value) {
    this[choice] = value;
    saveChoice({ [choice]: value });
    this.#onChange();
    this.draw();
  }

  setStoredIn(storedIn) {
    this.#storedIn = storedIn;
    this.draw();
  }

  /** Returns why the token cannot be stored in this place; null if it can. */
  whyNoStorage(storage) {
    if (storage !== "cookie" || !this.#facts || this.#facts.login_cookie) return null;
    return 'Disabled on this hub: login.cookie is false, or auth.doors does not contain "cookie".';
  }

  draw() {
    if (this.whyNoStorage(this.storage)) this.storage = "memory";
    const storedIn = this.#storedIn ?? this.storage;
    if (this.way === null || whyNot(this.way, this.#facts, storedIn)) this.way = first(this.#facts, storedIn);
    // Drawing again must not take the focus from a user who chooses with the arrow keys.
    const focused = document.activeElement?.closest?.(".choices") ? document.activeElement : null;
    $("storages").replaceChildren(
      $("storages").firstElementChild,
      ...STORAGES.map((storage) => createOption("storage", storage, [storage.risk], storage.id === this.storage, this.whyNoStorage(storage.id))),
    );
    const describe = (way) => (way.example ? [`${way.cost} `, make("code", {}, way.example(this.#url))] : [way.cost]);
    $("ways").replaceChildren(
      $("ways").firstElementChild,
      ...TOKEN_WAYS.map((way) => createOption("way", way, describe(way), way.id === this.way, whyNot(way.id, this.#facts, storedIn))),
    );
    $("storage-summary").textContent = STORAGES.find((storage) => storage.id === this.storage).name;
    $("way-summary").textContent = this.way ? nameOf(this.way) : "no way that this page can use";
    if (focused) document.querySelector(`input[name="${focused.name}"][value="${focused.value}"]`)?.focus();
  }
}
