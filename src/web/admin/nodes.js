// The nodes and their load.

import { call } from "./api.js";
import { Chart, MAX_SAMPLES } from "./chart.js";
import { $, make } from "./dom.js";
import { hideMessages, missingNodes, sayBad, table } from "./parts.js";
import { formatBytes, formatDuration, formatNumber, formatShort } from "./text.js";

const INTERVAL_MS = 2000;

/** What is measured: its title, its format, and its value for a node and its counters before, `seconds` ago. */
const MEASURES = {
  clients: ["Connections", formatShort, (node) => node.num_clients],
  publications: ["Publications / s", formatShort, (node, before, seconds) => (node.num_publications - before.num_publications) / seconds],
  deliveries: ["Deliveries / s", formatShort, (node, before, seconds) => (node.num_deliveries - before.num_deliveries) / seconds],
  cpu: ["CPU, % of a core", (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`, (node, before, seconds) => (node.cpu_ms - before.cpu_ms) / seconds / 10],
  memory: ["Memory", formatBytes, (node) => node.memory_bytes],
};
/** A round scale of memory is one of mebibytes. */
const UNITS = { memory: 1024 * 1024 };

const charts = Object.fromEntries(Object.entries(MEASURES).map(([name, [title, format]]) => [name, new Chart(title, format, UNITS[name])]));
/** The samples of each node by its id, and of all nodes by the empty id: each with a value for each measure. */
let series = new Map();
let before = { time: 0, nodes: new Map() };
let timer = null;
let turn = 0;
/** The message that the last poll has shown, because it failed. */
let failure = null;

function measure(nodes) {
  const time = performance.now();
  const seconds = (time - before.time) / 1000;
  const all = {};
  for (const node of nodes) {
    const old = before.nodes.get(node.uid);
    // Rates need two answers.
    node.load = Object.fromEntries(Object.entries(MEASURES).map(([name, [, , value]]) => [name, value.length === 1 ? value(node) : old ? Math.max(0, value(node, old, seconds)) : null]));
    for (const name of Object.keys(MEASURES)) if (node.load[name] !== null) all[name] = (all[name] ?? 0) + node.load[name];
    push(node.uid, node.load);
  }
  push("", all);
  for (const uid of series.keys()) if (uid && !nodes.some((node) => node.uid === uid)) series.delete(uid);
  before = { time, nodes: new Map(nodes.map((node) => [node.uid, node])) };
}

function push(uid, load) {
  const samples = series.get(uid) ?? [];
  samples.push(load);
  series.set(uid, samples.slice(-MAX_SAMPLES));
}

function drawCharts() {
  const samples = series.get($("nodes-pick").value) ?? [];
  for (const [name, chart] of Object.entries(charts)) chart.show(samples.map((sample) => sample[name] ?? null).filter((value) => value !== null));
}

function drawPick(nodes) {
  const pick = $("nodes-pick");
  const wanted = ["", ...nodes.map((node) => node.uid)];
  if (wanted.join() === [...pick.options].map((option) => option.value).join()) return;
  const chosen = pick.value;
  const labels = nodes.map((node) => make("option", { value: node.uid }, `${node.name} ${node.uid.slice(0, 8)}`));
  pick.replaceChildren(make("option", { value: "" }, "All nodes"), ...labels);
  pick.value = wanted.includes(chosen) ? chosen : "";
}

const COLUMNS = ["Node", "Connections", "Users", "Channels", "Subscriptions", "Publications / s", "Deliveries / s", "CPU", "Memory", "Up for", "Version"];

function drawTable(result) {
  const rows = result.nodes.map((node) => [
    make("span", {}, node.name, " ", make("small", { className: "id" }, node.uid.slice(0, 8))),
    formatNumber(node.num_clients), formatNumber(node.num_users), formatNumber(node.num_channels), formatNumber(node.num_subs),
    ...["publications", "deliveries", "cpu"].map((name) => (node.load[name] === null ? "…" : MEASURES[name][1](node.load[name]))), formatBytes(node.memory_bytes),
    formatDuration(node.uptime), node.version.replace("wardcast ", ""),
  ]);
  $("nodes-table").replaceChildren(...missingNodes(result), table("Nodes", COLUMNS, rows));
}

/** Asks, draws, and asks again later: one request at a time, and none while the page is not visible. */
async function poll(mine) {
  if (document.visibilityState === "visible") {
    try {
      const result = await call("info");
      if (mine !== turn) return;
      measure(result.nodes);
      drawPick(result.nodes);
      drawCharts();
      drawTable(result);
      if (failure) hideMessages();
      failure = null;
    } catch (error) {
      if (mine !== turn) return;
      // A message that is shown already is not read aloud again.
      if (failure !== error.message) sayBad(error.message);
      failure = error.message;
    }
  }
  timer = setTimeout(() => poll(mine), INTERVAL_MS);
}

$("nodes-pick").addEventListener("change", drawCharts);
$("nodes-charts").append(...Object.values(charts).map((chart) => chart.element));

export const nodes = {
  show: () => poll(++turn),
  hide() {
    turn += 1;
    failure = null;
    clearTimeout(timer);
  },
  /** Forgets what an earlier session has seen. */
  reset() {
    series = new Map();
    before = { time: 0, nodes: new Map() };
    drawPick([]);
    drawCharts();
  },
};
