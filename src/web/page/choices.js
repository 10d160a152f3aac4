// The two choices that this page demonstrates: where the token is stored, and how it is sent. Each option says what it costs; an
// unavailable one says why.

import { DOORS, first, nameOf, whyNot } from "./doors.js";
import { $, make } from "./dom.js";
import { KEEPS, choices, remember } from "./keep.js";

function option(group, { id, name }, about, isChosen, problem) {
  const input = make("input", { type: "radio", name: group, value: id, checked: isChosen, disabled: Boolean(problem) });
  const texts = make("span", { className: "choice-text" }, make("strong", {}, name), make("small", {}, ...about));
  if (problem) texts.append(make("small", { className: "problem" }, problem));
  return make("label", { className: problem ? "choice off" : "choice" }, input, texts);
}

export class Choices {
  /** "memory", "session", "local" or "cookie". */
  keep = "memory";
  door = null;
  #facts = null;
  #url = "";
  /** Where the current token is stored; null without one. */
  #where = null;
  #changed;

  /** `changed` is called after each choice. */
  constructor(changed) {
    this.#changed = changed;
    const { keep, door } = choices();
    if (KEEPS.some((one) => one.id === keep)) this.keep = keep;
    this.door = door ?? null;
    $("keeps").addEventListener("change", ({ target }) => this.#choose("keep", target.value));
    $("doors").addEventListener("change", ({ target }) => this.#choose("door", target.value));
    this.draw();
  }

  /** Applies what the hub supports. */
  know(facts, url) {
    this.#facts = facts;
    this.#url = url;
    this.draw();
  }

  #choose(what, value) {
    this[what] = value;
    remember({ [what]: value });
    this.#changed();
    this.draw();
  }

  stand(where) {
    this.#where = where;
    this.draw();
  }

  /** Returns why the token cannot be stored in this place; null if it can. */
  whyNoKeep(keep) {
    if (keep !== "cookie" || !this.#facts || this.#facts.login_cookie) return null;
    return 'Disabled on this hub: login.cookie is false, or auth.doors does not contain "cookie".';
  }

  draw() {
    if (this.whyNoKeep(this.keep)) this.keep = "memory";
    const where = this.#where ?? this.keep;
    if (this.door === null || whyNot(this.door, this.#facts, where)) this.door = first(this.#facts, where);
    // Drawing again must not take the focus from a user who chooses with the arrow keys.
    const focused = document.activeElement?.closest?.(".choices") ? document.activeElement : null;
    $("keeps").replaceChildren(
      $("keeps").firstElementChild,
      ...KEEPS.map((keep) => option("keep", keep, [keep.risk], keep.id === this.keep, this.whyNoKeep(keep.id))),
    );
    const about = (door) => (door.example ? [`${door.cost} `, make("code", {}, door.example(this.#url))] : [door.cost]);
    $("doors").replaceChildren(
      $("doors").firstElementChild,
      ...DOORS.map((door) => option("door", door, about(door), door.id === this.door, whyNot(door.id, this.#facts, where))),
    );
    $("keep-summary").textContent = KEEPS.find((keep) => keep.id === this.keep).name;
    $("door-summary").textContent = this.door ? nameOf(this.door) : "no way that this page can use";
    if (focused) document.querySelector(`input[name="${focused.name}"][value="${focused.value}"]`)?.focus();
  }
}
