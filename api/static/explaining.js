// Where the model looked: the heatmap of a picture, and the choosers of its class, its method and what it is set against.

import { ask, askInLines, form, pathOf } from "./api.js";
import { at, make, milliseconds, readable } from "./dom.js";
import { explainProblem } from "./problems.js";

const MOST_CHOICES = 30; // labels in a chooser; of more labels those that were answered
const RISE = "rise"; // takes many predictions

export const isSampled = () => at("method").value === RISE;

export function offer(card) { // before there is an answer
  const facts = card.explain;
  at("explaining").hidden = facts === null;
  at("unexplained").hidden = facts !== null;
  at("unexplained").textContent = "This model has no explanations.";
  if (facts === null) return;
  at("method").replaceChildren(...facts.methods.map((name) => new Option(name, name, false, name === facts.method)));
  offerLabels(card, null);
}

export function offerLabels(card, answer) { // the classes that may be explained; what was chosen stays
  const labels = card.labels.length <= MOST_CHOICES || answer === null
    ? card.labels.slice(0, MOST_CHOICES)
    : Object.keys(answer.probabilities);
  for (const [id, first] of [["target", "the answer"], ["contrast", "nothing"]]) {
    const chosen = at(id).value;
    const options = labels.map((label) => new Option(readable(label), label, false, label === chosen));
    at(id).replaceChildren(new Option(first, ""), ...options);
  }
}

export function asked() { // the query of the explanation that is chosen
  const samples = isSampled() ? at("samples-count").value : "";
  return { method: at("method").value, target: at("target").value, contrast: at("contrast").value, samples };
}

export async function heatmapOf(card, file, signal) { // gives the answer with its heatmap in grey
  const path = pathOf(card, "explain", { output: "heatmap", ...asked() });
  const options = { method: "POST", body: form(file), signal };
  if (!isSampled()) return ask(path, options);
  const progress = at("sampling");
  progress.value = 0;
  progress.hidden = false;
  try {
    return await askInLines(path, options, (share) => { progress.value = share; });
  } finally {
    progress.hidden = true;
  }
}

export function tell(card, answer) { // what the heatmap is of
  const { explanation } = answer;
  const against = explanation.contrast === null || explanation.contrast === undefined ? "" : `, and not ${readable(explanation.contrast)}`;
  const work = explanation.evaluations ? `${explanation.evaluations.toLocaleString("en")} predictions` : "one pass";
  const text = `Why ${readable(explanation.target)}${against}: ${explanation.method}, ${work}, ${milliseconds(explanation.time_ms)}.`;
  at("explained").replaceChildren(make("p", { className: "small" }, text));
}

export function tellWait(text) {
  at("explained").replaceChildren(make("p", { className: "small" }, text));
}

export function tellProblem(problem, again) {
  const button = make("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  at("explained").replaceChildren(explainProblem(problem, make("p", { className: "actions" }, button)));
}

export const bitmapOf = async (base64) => createImageBitmap(await (await blobOf(base64)));

export async function blobOf(base64) { // of a PNG; what comes in JSON is decoded without a request
  return new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: "image/png" });
}
