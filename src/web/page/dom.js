// Finds and creates elements. Text stays text: no code of this page turns it into markup.

export const $ = (id) => document.getElementById(id);

/** Creates an element with properties and children; strings become text nodes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Shows an element if `isShown`, else hides it. */
export function setShown(element, isShown) {
  element.hidden = !isShown;
}

/** Returns the value of the selected radio button. */
export function selectedValue(name) {
  return document.querySelector(`input[name="${name}"]:checked`)?.value;
}

/** Runs `work` once, with `button` marked as busy until it has finished. */
export async function runBusy(button, work) {
  if (button.disabled || button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-busy");
  }
}
