// What the sections share: tables, pages of a list, messages, questions.

import { $, make, setShown } from "./dom.js";

/** Time for which a message of success stays. */
const GOOD_MESSAGE_MS = 6000;
let hideTimer = null;

/** Says that something was done. */
export function sayGood(text) {
  hideMessages();
  $("good").textContent = text;
  setShown($("good"), true);
  hideTimer = setTimeout(() => setShown($("good"), false), GOOD_MESSAGE_MS);
}

/** Says what has failed, until the next message or section. */
export function sayBad(text) {
  hideMessages();
  $("bad").textContent = text;
  setShown($("bad"), true);
}

export function hideMessages() {
  clearTimeout(hideTimer);
  for (const id of ["good", "bad"]) setShown($(id), false);
}

/** Removes the texts of messages and questions, and answers an open question with no. */
export function clearParts() {
  hideMessages();
  $("confirm").close();
  for (const id of ["good", "bad", "confirm-title", "confirm-text", "confirm-yes"]) $(id).textContent = "";
}

/** Asks before something that cannot be undone. Resolves with whether to do it. */
export function ask(title, text, yes) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Returns a link to a section: its name, and what it shows. */
export const link = (text, ...target) => make("a", { href: `#${target.map(encodeURIComponent).join("/")}` }, text);

/** Returns a button. */
export function button(text, label, onClick, className = "small") {
  const element = make("button", { type: "button", className, "aria-label": label }, text);
  element.addEventListener("click", onClick);
  return element;
}

/** Returns the text as an element that breaks anywhere. */
export const code = (text) => make("code", {}, text);

/**
 * Returns a table. `columns` are their titles, an empty one is that of buttons; a row has a cell, a text or an element, for each. The
 * roles are explicit, because a narrow screen shows each row as a block.
 */
export function table(label, columns, rows) {
  const head = columns.map((title) =>
    make("th", { scope: "col", role: "columnheader" }, title || make("span", { className: "hidden" }, "Actions")),
  );
  const body = rows.map((cells) =>
    make("tr", { role: "row" }, ...cells.map((content, at) => {
      const isName = at === 0;
      const properties = { role: isName ? "rowheader" : "cell", "data-label": columns[at] };
      return make(isName ? "th" : "td", isName ? { ...properties, scope: "row" } : properties, content);
    })),
  );
  return make("table", { role: "table", "aria-label": label },
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)),
    make("tbody", { role: "rowgroup" }, ...body),
  );
}

/** Returns facts as a list of names and values; those without a value are left out. */
export function facts(entries) {
  const shown = entries.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return make("dl", { className: "facts" }, ...shown.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

/** Returns a note about nodes that have not answered, or nothing. */
export function missingNodes(result) {
  if (!result.unreachable) return [];
  const names = result.unreachable.map(({ name }) => name).join(", ");
  return [make("p", { className: "message bad" }, `These nodes have not answered, and are not counted: ${names}.`)];
}

/** Shows a list page by page. Each page is loaded when it is shown. */
export class PagedList {
  #place;
  #load;
  #draw;
  #cursors = [undefined];
  #turn = 0;

  /** `load(cursor)` resolves with the result for a page, which may have the cursor of the next one; `draw(result)` returns elements. */
  constructor(place, load, draw) {
    this.#place = place;
    this.#load = load;
    this.#draw = draw;
  }

  /** Shows the first page. */
  restart() {
    return this.#show([undefined]);
  }

  /** Loads the page again. */
  reload() {
    return this.#show(this.#cursors);
  }

  /** Loads the page that the last of these cursors begins. If that fails, the page that is shown stays. */
  async #show(cursors) {
    const turn = ++this.#turn;
    this.#place.setAttribute("aria-busy", "true");
    try {
      const result = await this.#load(cursors.at(-1));
      // Another page was asked for meanwhile.
      if (turn !== this.#turn) return;
      this.#cursors = cursors;
      this.#place.replaceChildren(...missingNodes(result), ...this.#draw(result), this.#pager(result.cursor));
    } catch (error) {
      if (turn === this.#turn) sayBad(error.message);
    } finally {
      if (turn === this.#turn) this.#place.removeAttribute("aria-busy");
    }
  }

  #pager(next) {
    const number = this.#cursors.length;
    const go = (cursors) => async () => {
      await this.#show(cursors);
      this.#place.querySelector(".pager")?.focus();
    };
    const previous = button("Previous", "Previous page", go(this.#cursors.slice(0, -1)));
    const following = button("Next", "Next page", go([...this.#cursors, next]));
    previous.disabled = number === 1;
    following.disabled = !next;
    const refresh = button("Refresh", "Refresh the list", () => this.reload(), "small quiet");
    return make("div", { className: "pager", tabIndex: -1, role: "group", "aria-label": `Page ${number}` },
      previous, make("span", {}, `Page ${number}`), following, refresh);
  }
}
