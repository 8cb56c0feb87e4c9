// The live panel: requests, latency, queue and model states every two seconds, while it is open and the page is seen.

import { ask } from "./api.js";
import { at, draw, make, milliseconds, number } from "./dom.js";

const EVERY_MS = 2000;
const KEPT = 60; // points of a curve: two minutes

let models = () => ({ default: "", models: [] });
let clock = null;
const before = new Map(); // of each model: its counters and when they were read
const curves = { requests: [], latency: [], waiting: [] };

export function prepareLive(served) { // a function that gives what GET /models answered
  models = served;
  const follow = () => {
    clearTimeout(clock);
    clock = null;
    if (at("live").open && document.visibilityState === "visible") look();
    else before.clear(); // what happened meanwhile is no rate
  };
  at("live").addEventListener("toggle", follow);
  document.addEventListener("visibilitychange", follow);
}

async function look() {
  const started = performance.now();
  try {
    await refresh();
    at("live-problem").textContent = "";
  } catch (problem) {
    at("live-problem").textContent = problem.message;
  }
  if (at("live").open && document.visibilityState === "visible") {
    clearTimeout(clock);
    clock = setTimeout(look, Math.max(EVERY_MS - (performance.now() - started), 0));
  }
}

async function refresh() {
  const { default: name, models: cards } = models();
  const ready = cards.filter((card) => card.state === "ready");
  const [{ answer: health }, ...counters] = await Promise.all([
    ask("/health"),
    ...ready.map((card) => countersOf(card.name === name ? "/health/stats" : `/models/${card.name}/stats`)),
  ]);
  const now = performance.now();
  const stats = counters.filter((part) => part !== null);
  const rates = stats.map((part) => rateOf(part, now));
  showTiles(stats, rates);
  showStates(health, stats, rates);
}

async function countersOf(path) { // null of a model that is gone since the page asked what there is
  try {
    return (await ask(path)).answer;
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

function rateOf(counters, now) { // what happened since it was looked at last; null the first time
  const failed = Object.values(counters.failed).reduce((sum, count) => sum + count, 0);
  const { succeeded, queue_seconds: queue, decode_seconds: decode, waited_seconds: waited } = counters;
  const sums = { now, done: succeeded + failed, failed, busy: queue + decode + waited, succeeded };
  const last = before.get(counters.model);
  before.set(counters.model, sums);
  if (last === undefined || last.done > sums.done) return null;
  const answered = sums.succeeded - last.succeeded;
  return {
    requests: ((sums.done - last.done) * 1000) / (sums.now - last.now),
    failures: sums.failed - last.failed,
    answered,
    busy: sums.busy - last.busy,
  };
}

function showTiles(stats, rates) {
  const known = rates.filter((rate) => rate !== null);
  const sum = (name) => known.reduce((total, rate) => total + rate[name], 0);
  const waiting = stats.reduce((total, counters) => total + counters.waiting, 0);
  const running = stats.reduce((total, counters) => total + counters.running, 0);
  const longest = Math.max(0, ...stats.map((counters) => counters.expected_seconds));
  const requests = known.length > 0 ? sum("requests") : null;
  const latency = sum("answered") > 0 ? (1000 * sum("busy")) / sum("answered") : null;
  keep(curves.requests, requests);
  keep(curves.latency, latency);
  keep(curves.waiting, waiting);
  tile("requests", requests === null ? "–" : number(Math.round(requests * 10) / 10), "items a second");
  tile("latency", latency === null ? "–" : milliseconds(latency), "mean, with the queue");
  tile("waiting", number(waiting), `waiting, ${number(running)} running, ${milliseconds(1000 * longest)} ahead`);
}

function keep(curve, value) {
  curve.push(value);
  if (curve.length > KEPT) curve.shift();
}

function tile(name, value, caption) {
  const place = at(`live-${name}`);
  place.querySelector(".value").textContent = value;
  place.querySelector(".hint").textContent = caption;
  const top = Math.max(...curves[name].map((point) => point ?? 0), 1e-9);
  const places = curves[name].map((point, index) => (
    point === null ? null : `${(100 * (index + KEPT - curves[name].length)) / (KEPT - 1)},${28 - (26 * point) / top}`));
  const lines = draw("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  lines.append(draw("polyline", { points: places.filter((place) => place !== null).join(" ") }));
  place.querySelector(".curve").replaceChildren(lines);
}

function showStates(health, stats, rates) {
  const of = new Map(stats.map((counters, index) => [counters.model, [counters, rates[index]]]));
  const rows = Object.entries(health.models).map(([name, model]) => {
    const [counters, rate] = of.get(name) ?? [null, null];
    const failed = counters === null ? 0 : Object.values(counters.failed).reduce((sum, count) => sum + count, 0);
    return make("tr", {},
      make("th", { scope: "row" }, name),
      make("td", {}, make("span", { className: `chip ${model.state}`, title: model.detail }, model.state)),
      make("td", { className: "number" }, counters === null ? "" : number(counters.succeeded)),
      make("td", { className: "number" }, counters === null ? "" : number(failed)),
      make("td", { className: "number" }, rate === null ? "" : `${number(Math.round(rate.requests * 10) / 10)}`),
      make("td", { className: "detail" }, model.state === "ready" ? health.explanations[name] === "ready" ? "explains" : "" : model.detail));
  });
  at("live-models").replaceChildren(...rows);
  at("live-status").textContent = `${health.status}${health.detail ? `: ${health.detail}` : ""}`;
}
