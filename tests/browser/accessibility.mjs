// What is checked of every page: the rules of axe-core, and contrast.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Runs axe-core in the page. Returns the violations as text. */
export async function findViolations(page) {
  const session = await page.context().newCDPSession(page);
  const run = `${AXE}; axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations)`;
  // The page's security policy permits no script of others; the developer tools are not subject to it.
  const { result, exceptionDetails } = await session.send("Runtime.evaluate", { expression: run, awaitPromise: true, returnByValue: true });
  assert.equal(exceptionDetails, undefined);
  return result.value.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).join(", ")}`);
}

/** Finds text with a contrast under 4.5 to its background (WCAG 2.2, 1.4.3), except in disabled controls. Runs in the page. */
export function findLowContrast() {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (colour, under) => {
    context.globalAlpha = 1;
    context.fillStyle = under;
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return `rgb(${[...context.getImageData(0, 0, 1, 1).data].slice(0, 3).join(" ")})`;
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/\d+/g).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    const under = element.parentElement ? background(element.parentElement) : "white";
    return pixel(getComputedStyle(element).backgroundColor, under);
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const isOff = element.closest(":disabled, .off, .hidden, .skip") || element.parentElement?.querySelector(":scope > input:disabled");
    if (!hasText || isOff || !element.checkVisibility()) continue;
    const under = background(element);
    const [one, two] = [luminance(pixel(getComputedStyle(element).color, under)), luminance(under)].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (two + 0.05);
    if (contrast < 4.5) found.push(`${element.className || element.id || element.tagName}: ${contrast.toFixed(2)}`);
  }
  return [...new Set(found)];
}
