"use strict";

const at = (id) => document.getElementById(id);
const drop = at("drop");
let shown = 0;
let card = null; // of the model that pictures go to

const KEY = "vitrine-key"; // in sessionStorage, which ends with the tab and no other site can read

function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  return fetch(path, key === null ? options : { ...options, headers: { "X-API-Key": key } });
}

function knock(answer) { // asks for a key
  at("door").hidden = false;
  drop.hidden = at("choice").hidden = at("links").hidden = true; // links carry no key
  at("model").textContent = sessionStorage.getItem(KEY) === null ? "This service asks for a key." : answer.detail;
  at("key").focus();
}

async function describe() {
  const response = await ask("/models");
  if (response.status === 401) return knock(await response.json());
  at("door").hidden = true;
  at("links").hidden = sessionStorage.getItem(KEY) !== null;
  const { default: name, models } = await response.json();
  const takers = models.filter((each) => each.task === "image-classification" && each.state !== "missing");
  const wanted = at("chooser").value || name;
  card = takers.find((each) => each.name === wanted) ?? takers[0] ?? models.find((each) => each.name === name) ?? null;
  const pictures = takers.length > 0;
  at("chooser").replaceChildren(...takers.map((each) => new Option(each.title, each.name, false, each === card)));
  at("choice").hidden = takers.length < 2;
  drop.hidden = !pictures;
  at("model").textContent = card === null
    ? `There is no model ${name} here.`
    : `${card.title}, version ${card.version ?? "not installed"}, ${card.state}${card.detail ? `: ${card.detail}` : ""}`
      + (pictures ? "" : ". This page is for pictures; the models here take rows, which the API's page has examples of.");
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

function list(texts) {
  at("warnings").replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

function show(answer) {
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const positive = card.positive_label ?? null; // the label that the threshold is about
  const [what, share] = positive === null
    ? [answer.prediction, answer.confidence]
    : [positive, answer.probabilities[positive]];
  at("label").textContent = answer.prediction;
  at("fill").style.width = percent(share);
  at("bar").setAttribute("aria-label", `${what}: ${percent(share)}`);
  at("mark").hidden = answer.threshold === null;
  at("mark").style.left = percent(answer.threshold ?? 0);
  at("numbers").textContent = Object.entries(answer.probabilities)
    .map(([label, share]) => `${label} ${percent(share)}`).join(" · ");
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
  at("fill").style.width = "0";
  at("mark").hidden = true;
  at("numbers").textContent = detail;
  list([]);
  at("small").textContent = "";
}

async function predict(file) {
  const turn = ++shown;
  at("preview").src = URL.createObjectURL(file);
  at("preview").hidden = false;
  at("hint").hidden = true;
  for (const id of ["overlay", "looked", "unexplained"]) at(id).hidden = true;
  at("answer").hidden = true;
  try {
    const query = `?label=name${card.explain ? "&include_gradcam=true" : ""}`;
    const response = await ask(`/models/${card.name}/predict${query}`, { method: "POST", body: file });
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
  describe().then(() => at("file").files[0] && predict(at("file").files[0]));
});
at("file").addEventListener("change", (event) => event.target.files[0] && predict(event.target.files[0]));
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
