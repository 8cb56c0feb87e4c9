// One answer: what was answered, by how much, against which threshold, with what warnings, and how long it took.

import { announce, at, bar, make, milliseconds, number, percent, readable, threshold } from "./dom.js";

const SHOWN = 8; // labels that are shown before the rest is asked for
const STAGES = { queue: "waiting in the queue", decode: "decoding", infer: "inference", explain: "explanation" };

export function verdict(card, answer) { // what a person would call the answer, and its share
  if (answer.is_anomaly !== undefined) return [readable(card.labels[Number(answer.is_anomaly)]), null];
  if (answer.values !== undefined) {
    const values = Object.entries(answer.values);
    const [[name, value]] = values;
    const text = `${number(value)} ${answer.units?.[name] ?? ""}`.trim();
    return [values.length === 1 ? text : `${readable(name)} ${text}`, null];
  }
  return [readable(answer.prediction), answer.confidence];
}

export function rank(card, answer) { // by what a table is sorted: the positive label's probability, a score or a value
  if (answer.is_anomaly !== undefined) return answer.anomaly_score;
  if (answer.values !== undefined) return Object.values(answer.values)[0];
  return answer.probabilities[card.positive_label] ?? answer.confidence;
}

export function showAnswer(card, answer, timings) {
  const [label, share] = verdict(card, answer);
  const spoken = share === null ? label : `${label}, ${percent(share)}`;
  announce(spoken);
  at("ribbon").replaceChildren(make("a", { href: "#answer" }, spoken));
  const title = make("h2", { id: "label" }, label);
  const confidence = share === null ? null : make("p", { className: "confidence" }, percent(share));
  at("answered").replaceChildren(
    make("div", { className: "verdict" }, title, confidence),
    ...measures(card, answer),
    warnings(answer.warnings),
  );
  at("origin").textContent = origin(answer);
  showTimings(timings);
}

function measures(card, answer) {
  if (answer.is_anomaly !== undefined) return score(answer);
  if (answer.values !== undefined) return values(answer);
  const positive = answer.threshold === null ? null : card.positive_label;
  const labels = Object.entries(answer.probabilities).sort(([, one], [, other]) => other - one);
  const rows = labels.map(([label, share], index) => {
    const track = bar(share, { className: label === String(answer.prediction) ? "bar chosen" : "bar" });
    const row = measure(readable(label), label === positive ? threshold(track, answer.threshold) : track, percent(share));
    row.hidden = index >= SHOWN;
    return row;
  });
  const list = make("ul", { className: "measures" }, ...rows);
  const parts = [list];
  if (labels.length > SHOWN) {
    const more = make("button", { type: "button", className: "quiet" }, `Show all ${labels.length}`);
    more.addEventListener("click", () => {
      for (const row of rows) row.hidden = false;
      more.remove();
    });
    parts.push(more);
  }
  if (card.labels.length > labels.length) {
    const count = card.labels.length.toLocaleString("en");
    parts.push(make("p", { className: "small" }, `The ${labels.length} most probable of ${count} labels.`));
  }
  if (positive !== null) parts.push(aboutThreshold(answer, positive));
  return parts;
}

function aboutThreshold(answer, positive) {
  const share = answer.probabilities[positive];
  const side = share >= answer.threshold ? "reaches it" : "stays under it";
  return make("p", { className: "caption" }, make("span", { className: "key" }), `Threshold: from ${percent(answer.threshold)} on, the answer is `
    + `${readable(positive)}. This one ${side}.`);
}

function score(answer) {
  const { anomaly_score: value, threshold: limit } = answer;
  const track = threshold(bar(value / (2 * limit)), 0.5);
  const caption = `Threshold: an anomaly is answered above ${number(limit)}. The bar ends at twice that.`;
  return [
    make("ul", { className: "measures" }, measure("score", track, number(value))),
    make("p", { className: "caption" }, make("span", { className: "key" }), caption),
  ];
}

function values(answer) {
  const rows = Object.entries(answer.values).map(([name, value]) => {
    const unit = answer.units?.[name] ?? "";
    return make("div", {}, make("dt", {}, readable(name)), make("dd", {}, `${value.toPrecision(6)} ${unit}`));
  });
  return rows.length > 1 ? [make("dl", { className: "values" }, ...rows)] : [];
}

function measure(name, track, text) {
  return make("li", {}, make("span", { className: "name" }, name), track, make("span", { className: "number" }, text));
}

function warnings(texts) {
  if (texts.length === 0) return null;
  return make("ul", { className: "warnings", attributes: { "aria-label": "Warnings" } }, ...texts.map((text) => make("li", {}, text)));
}

export function showTimings(timings) { // queue, decode, infer and explain, in milliseconds
  const stages = Object.keys(STAGES).filter((name) => timings[name] !== undefined);
  const total = stages.reduce((sum, name) => sum + timings[name], 0);
  const parts = stages.map((name) => {
    const part = make("span", { className: `stage ${name}` });
    part.style.setProperty("--share", String(timings[name] / Math.max(total, 1e-9)));
    return part;
  });
  const legend = stages.map((name) => make("li", { className: name, title: STAGES[name] },
    make("span", { className: "dot" }), `${name} ${milliseconds(timings[name])}`));
  at("timings").replaceChildren(
    make("h3", {}, "Time"),
    make("div", { className: "stages", attributes: { "aria-hidden": "true" } }, ...parts),
    make("ul", { className: "stage-names" }, ...legend),
  );
}

function origin(answer) {
  const by = { early_exit: ", by the early exit", network: ", by the whole network" }[answer.answered_by] ?? "";
  const version = String(answer.version).slice(0, 8);
  return `${answer.model} ${version} on ${answer.device}${by}. Request ${answer.request_id}`;
}

export function attributions(explanation) { // a bar for each feature: to one side where it raised the output, else to the other
  const { target, value, base_value: base, background, background_rows: rows } = explanation;
  const of = `What each feature counted for: ${readable(target)} is ${number(value)} here, and ${number(base)} in the mean of `
    + `${rows} rows (${background}).`;
  const strongest = Object.entries(explanation.attributions).sort(([, one], [, other]) => Math.abs(other) - Math.abs(one));
  const longest = Math.max(Math.abs(strongest[0]?.[1] ?? 0), 1e-12);
  const bars = strongest.slice(0, 20).map(([name, share]) => {
    const track = bar(Math.abs(share) / longest, { className: share < 0 ? "bar two lowers" : "bar two raises" });
    return measure(readable(name), track, `${share < 0 ? "−" : "+"}${Number(Math.abs(share).toPrecision(2))}`);
  });
  const sides = make("p", { className: "sides" }, make("span", {}, `← lowers ${readable(target)}`), make("span", {}, "raises it →"));
  return [make("h3", {}, "Why"), make("p", { className: "caption" }, of), sides, make("ul", { className: "measures" }, ...bars)];
}
