// The page's elements by their ids, and new ones. All text becomes text: nothing here, or anywhere, makes markup of it.

export const $ = (id) => document.getElementById(id);

/** A new element with properties and children; strings among these become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Shows an element exactly if `is_shown`. */
export function show(element, isShown) {
  element.hidden = !isShown;
}

/** The value of the radio button that is chosen. */
export function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`)?.value;
}

/** Runs `work` with `button` off, so that it happens once; says that it is under way. */
export async function busy(button, work) {
  if (button.disabled || button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-busy");
  }
}
