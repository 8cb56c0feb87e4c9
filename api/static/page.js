"use strict";

const at = (id) => document.getElementById(id);
const drop = at("drop");
let shown = 0;
let card = null; // of the model that is asked
let asked = null; // name and version of the model whose values the form asks for

const KEY = "vitrine-key"; // in sessionStorage, which ends with the tab and no other site can read

function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  return fetch(path, key === null ? options : { ...options, headers: { "X-API-Key": key } });
}

function knock(answer) { // asks for a key
  at("door").hidden = false;
  drop.hidden = at("row").hidden = at("choice").hidden = at("links").hidden = true; // links carry no key
  at("model").textContent = sessionStorage.getItem(KEY) === null ? "This service asks for a key." : answer.detail;
  at("key").focus();
}

async function describe() {
  const response = await ask("/models");
  if (response.status === 401) return knock(await response.json());
  at("door").hidden = true;
  at("links").hidden = sessionStorage.getItem(KEY) !== null;
  const { default: name, models } = await response.json();
  const takers = models.filter((each) => each.state !== "missing");
  const wanted = at("chooser").value || name;
  card = takers.find((each) => each.name === wanted) ?? takers[0] ?? models.find((each) => each.name === name) ?? null;
  const pictures = card !== null && card.input.kind !== "row";
  at("chooser").replaceChildren(...takers.map((each) => new Option(each.title, each.name, false, each === card)));
  at("choice").hidden = takers.length < 2;
  drop.hidden = !pictures;
  at("row").hidden = pictures || !takers.includes(card);
  if (!at("row").hidden) askFor(`${card.name}:${card.version}`);
  at("model").textContent = card === null
    ? `There is no model ${name} here.`
    : `${card.title}, version ${card.version ?? "not installed"}, ${card.state}${card.detail ? `: ${card.detail}` : ""}`;
  at("quality").textContent = card === null ? "" : quality(card.metrics);
  if (models.some((each) => ["loading", "checking"].includes(each.state))) setTimeout(describe, 500);
}

function quality(metrics) { // the figures that a model's report leads with, and what they are of
  const figures = ["auc", "sensitivity", "specificity", "top1"].filter((name) => metrics[name] !== undefined).map((name) => {
    const limits = metrics[`${name}_ci95`];
    return `${name} ${metrics[name].toFixed(3)}${limits ? ` (${limits.map((limit) => limit.toFixed(3)).join(" to ")})` : ""}`;
  });
  const scans = metrics.scans === undefined ? "" : ` in ${metrics.scans} scans`;
  const of = `${metrics.n?.toLocaleString("en")}${scans} (${metrics.data})`;
  return figures.length ? `Measured on ${of}: ${figures.join(", ")}.` : "";
}

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function askFor(tag) { // an input for each value of a row, with the card's example in it
  if (asked === tag) return; // what was typed stays
  asked = tag;
  at("values").replaceChildren(...entries().map((entry) => {
    const { name, unit, description, example, categories, other_categories: others, missing, low, high } = entry;
    const field = { name, required: !missing, title: description };
    const chosen = categories && !others
      ? make("select", field, ...(missing ? [""] : []).concat(categories).map((value) => new Option(value, value, false, value === example)))
      : make("input", { ...field, value: example, ...(low === undefined || categories ? {} : { type: "number", step: "any" }) });
    if (chosen.type === "number" && low > -1e30) chosen.min = low;
    if (chosen.type === "number" && high < 1e30) chosen.max = high;
    return make("label", {}, `${name}${unit ? ` (${unit})` : ""}`, chosen);
  }));
}

function entries() { // what a row holds: features, which have a range, and what only identifies it
  return [...card.input.features, ...card.input.identifiers];
}

function valueOf(entry) {
  const text = at("row").elements.namedItem(entry.name).value;
  if (entry.categories) return text === "" ? null : entry.categories.find((category) => String(category) === text) ?? text;
  if (entry.low === undefined) return text;
  return text === "" ? null : Number(text);
}

function explain(explanation) { // a bar for each feature: to the right where it raised the output
  at("why").hidden = !explanation?.attributions;
  if (at("why").hidden) return;
  const { target, value, base_value: base, background, background_rows: rows } = explanation;
  at("of").textContent = `What each feature counted for: ${target} ${value.toPrecision(4)}, where the mean of `
    + `${rows} rows (${background}) is ${base.toPrecision(4)}.`;
  const strongest = Object.entries(explanation.attributions).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const longest = Math.max(Math.abs(strongest[0][1]), 1e-12);
  at("bars").replaceChildren(...strongest.slice(0, 20).flatMap(([name, share]) => {
    const bar = make("div", { className: share < 0 ? "down" : "up" });
    bar.style.width = `${50 * Math.abs(share) / longest}%`;
    const number = `${share < 0 ? "−" : "+"}${Math.abs(share).toPrecision(3)}`;
    return [make("div", {}, name), make("div", { className: "track" }, bar), make("div", { className: "number" }, number)];
  }));
}

function list(texts) {
  at("warnings").replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function summary(answer) { // what is said, of what the bar is, how long it is, where its mark stands, and the numbers
  if (answer.is_anomaly !== undefined) {
    const { anomaly_score: score, threshold } = answer;
    const numbers = `score ${score.toPrecision(3)}, an anomaly above ${threshold.toPrecision(3)}`;
    return [card.labels[Number(answer.is_anomaly)], "score", Math.min(score / (2 * threshold), 1), 0.5, numbers];
  }
  if (answer.values !== undefined) {
    const values = Object.entries(answer.values).map(([name, value]) => `${name} ${value.toPrecision(6)} ${answer.units?.[name] ?? ""}`);
    return [values.join(", "), "", null, null, ""];
  }
  const positive = card.positive_label ?? null; // the label that the threshold is about
  const [what, share] = positive === null
    ? [answer.prediction, answer.confidence]
    : [positive, answer.probabilities[positive]];
  const numbers = Object.entries(answer.probabilities).map(([label, share]) => `${label} ${percent(share)}`).join(" · ");
  return [answer.prediction, what, share, answer.threshold, numbers];
}

function show(answer) {
  const [label, what, share, mark, numbers] = summary(answer);
  at("label").textContent = label;
  at("bar").hidden = share === null;
  at("fill").style.width = percent(share ?? 0);
  at("bar").setAttribute("aria-label", `${what}: ${percent(share ?? 0)}`);
  at("mark").hidden = mark === null;
  at("mark").style.left = percent(mark ?? 0);
  at("numbers").textContent = numbers;
  explain(answer.explanation);
  list(answer.warnings);
  at("looked").hidden = !answer.gradcam_heatmap;
  if (answer.gradcam_heatmap) at("overlay").src = `data:image/png;base64,${answer.gradcam_heatmap}`;
  at("unexplained").hidden = !answer.explanation_error;
  at("unexplained").textContent = answer.explanation_error ?? "";
  look();
  const by = { early_exit: " by the early exit", network: " by the whole network" }[answer.answered_by] ?? "";
  const took = `${answer.inference_time_ms.toFixed(0)} ms on ${answer.device}${by}`;
  at("small").textContent = `${took}, request ${answer.request_id}`;
}

function look() {
  const shows = at("switch").checked && !at("looked").hidden;
  at("overlay").hidden = !shows;
  at("preview").hidden = shows;
}

function fail(title, detail) {
  at("label").textContent = title;
  explain(null);
  at("fill").style.width = "0";
  at("mark").hidden = true;
  at("numbers").textContent = detail;
  list([]);
  at("small").textContent = "";
}

async function predict(body) { // a picture's file, or the JSON of a row
  const turn = ++shown;
  if (body instanceof File) {
    at("preview").src = URL.createObjectURL(body);
    at("preview").hidden = false;
    at("hint").hidden = true;
  }
  for (const id of ["overlay", "looked", "unexplained"]) at(id).hidden = true;
  at("answer").hidden = true;
  try {
    const query = `?label=name${card.explain ? "&include_explanation=true" : ""}`;
    const response = await ask(`/models/${card.name}/predict${query}`, { method: "POST", body });
    const answer = await response.json();
    if (turn !== shown) return;
    if (response.status === 401) return knock(answer);
    response.ok ? show(answer) : fail(answer.title, answer.detail);
  } catch (error) {
    if (turn === shown) fail("No answer", `The server could not be reached (${error.message}).`);
  }
  at("answer").hidden = false;
}

at("chooser").addEventListener("change", () => {
  shown += 1;
  for (const id of ["overlay", "looked", "unexplained", "answer"]) at(id).hidden = true;
  describe().then(() => !drop.hidden && at("file").files[0] && predict(at("file").files[0]));
});
at("file").addEventListener("change", (event) => event.target.files[0] && predict(event.target.files[0]));
at("row").addEventListener("submit", (event) => {
  event.preventDefault();
  predict(JSON.stringify(Object.fromEntries(entries().map((entry) => [entry.name, valueOf(entry)]))));
});
at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  describe();
});
at("switch").addEventListener("change", look);
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
});
describe();
