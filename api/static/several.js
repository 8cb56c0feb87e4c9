// Several pictures, or the rows of a file: sent in batches with progress, and shown as a table that sorts and exports.

import { ask, form, pathOf, patiently } from "./api.js";
import { rank, verdict } from "./answer.js";
import { announce, at, bar, make, number, percent } from "./dom.js";
import { saveCsv, saveJson } from "./exports.js";
import { countdown, explainProblem, GONE } from "./problems.js";

const PICTURES_A_REQUEST = 8; // so that there is progress
const ROWS_A_REQUEST = 250;
const THUMBNAIL = 64; // pixels of a side

let running = null;
let entries = []; // {name, subject, answer or problem}
let order = { by: "rank", descending: true };
let shown = null; // the card that answered
let openEntry = () => {};

export function prepareTable(onOpen) { // calls with the subject of an entry that is to be looked at
  openEntry = onOpen;
  at("stop").addEventListener("click", () => running?.abort());
  at("close-several").addEventListener("click", closeTable);
  at("several-csv").addEventListener("click", () => saveCsv(asTable(), `${shown.name}.csv`));
  at("several-json").addEventListener("click", () => saveJson(asJson(), `${shown.name}.json`));
  for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => {
    const by = button.dataset.sort;
    order = { by, descending: order.by === by ? !order.descending : by === "rank" };
    fill();
  });
}

export function closeTable() {
  running?.abort();
  running = null;
  entries = [];
  at("several").hidden = true;
}

export async function predictAll(card, subjects, note = "") { // files, or rows with their names: {name, subject}
  running?.abort();
  const control = running = new AbortController();
  Object.assign(order, { by: "rank", descending: true });
  entries = subjects.map((entry, index) => ({ ...entry, index }));
  shown = card;
  at("several").hidden = false;
  at("several-problem").replaceChildren();
  at("several-note").textContent = note;
  at("several-title").textContent = `${entries.length.toLocaleString("en")} ${card.input.kind === "row" ? "rows" : "pictures"}`;
  at("rank-name").textContent = rankName(card);
  at("several-progress").max = entries.length;
  fill();
  at("several").scrollIntoView({ block: "nearest" });
  try {
    await sendAll(card, control.signal);
    announce(`${entries.length} predictions are there, ${entries.filter((entry) => entry.problem).length} problems.`);
  } catch (problem) {
    if (problem.name !== GONE) at("several-problem").replaceChildren(explainProblem(problem));
  }
  if (running === control) finish();
}

async function sendAll(card, signal) {
  const size = Math.min(card.limits.max_items ?? 64, card.input.kind === "row" ? ROWS_A_REQUEST : PICTURES_A_REQUEST);
  progress(0);
  for (let start = 0; start < entries.length; start += size) {
    const part = entries.slice(start, start + size);
    const wait = (problem) => countdown(at("several-problem"), problem, signal);
    const { answer } = await patiently(() => ask(pathOf(card, "predict/batch", { label: card.labels.length > 0 ? "name" : "" }), {
      method: "POST", body: bodyOf(card, part), signal,
    }), wait);
    at("several-problem").replaceChildren();
    part.forEach((entry, index) => {
      const { error, ...given } = answer.predictions[index];
      Object.assign(entry, error === undefined ? { answer: given } : { problem: error });
    });
    progress(Math.min(start + size, entries.length));
    fill();
  }
}

function bodyOf(card, part) {
  if (card.input.kind === "row") return JSON.stringify({ samples: part.map((entry) => entry.subject) });
  const body = form(...part.map((entry) => entry.subject));
  if (part.length > 1) return body;
  const alone = new FormData(); // a batch of one
  alone.append("files", part[0].subject, part[0].subject.name);
  return alone;
}

function progress(count) {
  at("several-progress").hidden = at("stop").hidden = false;
  at("several-progress").value = count;
  at("several-count").textContent = `${count.toLocaleString("en")} of ${entries.length.toLocaleString("en")}`;
}

function finish() {
  running = null;
  at("several-progress").hidden = at("stop").hidden = true;
  const problems = entries.filter((entry) => entry.problem).length;
  const open = entries.filter((entry) => !entry.problem && !entry.answer).length;
  const parts = [`${entries.length - problems - open} answered`];
  if (problems > 0) parts.push(`${problems} with a problem`);
  if (open > 0) parts.push(`${open} not asked`);
  at("several-count").textContent = parts.join(", ");
}

function rankName(card) {
  if (card.task === "anomaly-detection") return "score";
  if (card.labels.length === 0) return "value";
  return card.positive_label ? `probability of ${card.positive_label.replaceAll("_", " ")}` : "probability";
}

function sorted() {
  const value = {
    index: (entry) => entry.index,
    name: (entry) => entry.name,
    label: (entry) => (entry.answer ? verdict(shown, entry.answer)[0] : "\uffff"),
    rank: (entry) => (entry.answer ? rank(shown, entry.answer) : -Infinity),
  }[order.by];
  const way = order.descending ? -1 : 1;
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  return [...entries].sort((one, other) => {
    const [left, right] = [value(one), value(other)];
    if (typeof left === "string") return way * compare(left, right);
    return left === right ? one.index - other.index : way * (left < right ? -1 : 1);
  });
}

function fill() {
  for (const header of at("table").querySelectorAll("th[data-column]")) {
    const isThis = header.dataset.column === order.by;
    header.setAttribute("aria-sort", isThis ? (order.descending ? "descending" : "ascending") : "none");
  }
  at("table").classList.toggle("of-rows", shown.input.kind === "row");
  at("table-body").replaceChildren(...sorted().map((entry) => rowOf(entry)));
}

function rowOf(entry) { // of the table; an entry's thumbnail is drawn once
  const open = make("button", { type: "button", className: "link" }, entry.name);
  open.addEventListener("click", () => openEntry(entry.subject));
  const name = make("th", { scope: "row" }, open);
  const picture = make("td", { className: "thumbnail" }, entry.subject instanceof File ? thumbnailOf(entry) : "");
  if (entry.problem) {
    const text = `${entry.problem.title}: ${entry.problem.detail}`;
    return make("tr", { className: "failed" }, picture, name, make("td", { colSpan: 2 }, text));
  }
  if (!entry.answer) return make("tr", { className: "open" }, picture, name, make("td", {}, "…"), make("td"));
  const share = rank(shown, entry.answer);
  const isShare = entry.answer.probabilities !== undefined;
  const cell = isShare ? [bar(share), make("span", { className: "number" }, percent(share))] : [make("span", { className: "number" }, number(share))];
  return make("tr", {}, picture, name, make("td", {}, verdict(shown, entry.answer)[0]), make("td", { className: "share" }, ...cell));
}

function thumbnailOf(entry) {
  if (entry.thumbnail === undefined) {
    entry.thumbnail = make("canvas", { width: THUMBNAIL, height: THUMBNAIL, attributes: { "aria-hidden": "true" } });
    createImageBitmap(entry.subject, { resizeHeight: THUMBNAIL, resizeQuality: "medium" }).then((bitmap) => {
      entry.thumbnail.getContext("2d").drawImage(bitmap, (THUMBNAIL - bitmap.width) / 2, 0);
      bitmap.close();
    }, () => {}); // the browser cannot read it, though the server may
  }
  return entry.thumbnail;
}

function asTable() { // lists for a CSV, in the order that is shown
  const fields = shown.input.kind === "row" ? [...shown.input.features, ...shown.input.identifiers].map((entry) => entry.name) : [];
  const labels = shown.labels.length <= 20 && entries.some((entry) => entry.answer?.probabilities) ? shown.labels : [];
  const header = ["name", ...fields, "prediction", rankName(shown).replaceAll(" ", "_"), ...labels.map((label) => `p(${label})`), "model", "version", "problem"];
  return [header, ...sorted().map(({ name, subject, answer, problem }) => [
    name,
    ...fields.map((field) => subject[field] ?? ""),
    answer ? String(answer.prediction ?? verdict(shown, answer)[0]) : "",
    answer ? rank(shown, answer) : "",
    ...labels.map((label) => answer?.probabilities[label] ?? ""),
    shown.name,
    answer?.version ?? "",
    problem?.detail ?? "",
  ])];
}

function asJson() {
  return sorted().map(({ name, subject, answer, problem }) => ({
    name, ...(subject instanceof File ? {} : { row: subject }), ...(problem ? { error: problem } : { answer: answer ?? null }),
  }));
}
