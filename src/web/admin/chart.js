// A line chart of the last minutes, drawn as SVG.

import { make } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 80;
/** Samples that are shown: three minutes. */
const MAX_SAMPLES = 90;

function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Rounds up to 1, 2 or 5 times a power of ten, so that the scale does not change with each sample. */
function roundUp(largest) {
  if (largest <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(largest));
  return [1, 2, 5, 10].map((step) => step * power).find((scale) => scale >= largest);
}

export class Chart {
  #samples = [];
  #format;
  #unit;
  #value = make("span", { className: "chart-value" }, "…");
  #scale = make("span", { className: "chart-scale", "aria-hidden": "true" });
  #area = shape("path", { class: "chart-area" });
  #line = shape("path", { class: "chart-line", "vector-effect": "non-scaling-stroke" });
  /** The element of the page. */
  element;

  /** `format` makes text of a value. The scale is a round number of `unit`. */
  constructor(title, format, unit = 1) {
    this.#format = format;
    this.#unit = unit;
    const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "chart" });
    picture.append(shape("path", { class: "chart-grid", d: `M0 ${HEIGHT / 2}H${WIDTH}`, "vector-effect": "non-scaling-stroke" }), this.#area, this.#line);
    this.element = make("figure", { className: "card figure" },
      make("figcaption", {}, make("span", { className: "chart-title" }, title), this.#value), picture, this.#scale);
  }

  /** Shows these samples: numbers, the newest last. */
  show(samples) {
    this.#samples = samples.slice(-MAX_SAMPLES);
    const newest = this.#samples.at(-1);
    this.#value.textContent = newest === undefined ? "…" : this.#format(newest);
    const scale = roundUp(Math.max(0, ...this.#samples) / this.#unit) * this.#unit;
    this.#scale.textContent = this.#format(scale);
    const start = WIDTH - ((this.#samples.length - 1) * WIDTH) / (MAX_SAMPLES - 1);
    const points = this.#samples.map((value, at) => {
      const x = start + (at * WIDTH) / (MAX_SAMPLES - 1);
      return `${x.toFixed(1)} ${(HEIGHT - (value / scale) * (HEIGHT - 4)).toFixed(1)}`;
    });
    this.#line.setAttribute("d", points.length > 0 ? `M${points.join("L")}` : "");
    this.#area.setAttribute("d", points.length > 0 ? `M${start.toFixed(1)} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z` : "");
  }
}

export { MAX_SAMPLES };
