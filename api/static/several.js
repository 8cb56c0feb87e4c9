// Several pictures, or the rows of a file: sent in batches with progress, and shown as a table that sorts and exports.

import { ask, form, pathOf, patiently } from "./api.js";
import { rank, verdict } from "./answer.js";
import { announce, at, bar, make, number, percent } from "./dom.js";
import { saveCsv, saveJson } from "./exports.js";
import { countdown, explainProblem, GONE } from "./problems.js";

const PICTURES_A_REQUEST = 8; // so that there is progress
const ROWS_A_REQUEST = 250;
const MOST_SHOWN = 500; // rows of the table; the files that are saved hold them all
const OF_THE_FILES = [400, 413, 415, 422]; // statuses that another file, or fewer of them, might not get
const THUMBNAIL = 64; // pixels of a side

let running = null;
let entries = []; // {name, subject, answer or problem}
let order = { by: "rank", descending: true };
let shown = null; // the card that answered
let openEntry = () => {};
let drawing = Promise.resolve(); // thumbnails, one after the other: a picture is large while it is decoded

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
    if (running === control) at("several-problem").replaceChildren(...(problem.name === GONE ? [] : [explainProblem(problem)]));
  }
  if (running === control) finish();
}

async function sendAll(card, signal) {
  progress(0);
  let done = 0;
  for (const part of parts(card)) {
    await sendPart(card, part, signal);
    done += part.length;
    progress(done);
    fill();
  }
}

function* parts(card) { // what goes into a request each: so many, and no more bytes than one may have
  const { max_items: items = 64, max_bytes: bytes = Infinity } = card.limits;
  const most = Math.min(items, card.input.kind === "row" ? ROWS_A_REQUEST : PICTURES_A_REQUEST);
  let part = [];
  let size = 0;
  for (const entry of entries) {
    const own = (entry.subject.size ?? 0) + 1024; // with the lines around it
    if (part.length === most || (part.length > 0 && size + own > bytes)) {
      yield part;
      [part, size] = [[], 0];
    }
    part.push(entry);
    size += own;
  }
  if (part.length > 0) yield part;
}

async function sendPart(card, part, signal) {
  const path = pathOf(card, "predict/batch", { label: card.labels.length > 0 ? "name" : "" });
  const wait = (problem) => countdown(at("several-problem"), problem, signal);
  try {
    const { answer } = await patiently(() => ask(path, { method: "POST", body: bodyOf(card, part), signal }), wait);
    part.forEach((entry, index) => {
      const { error, ...given } = answer.predictions[index];
      Object.assign(entry, error === undefined ? { answer: given } : { problem: error });
    });
  } catch (problem) {
    if (!OF_THE_FILES.includes(problem.status)) throw problem;
    if (part.length === 1) part[0].problem = { status: problem.status, title: problem.title, detail: problem.message };
    else for (const entry of part) await sendPart(card, [entry], signal); // one of them costs the others nothing
  } finally {
    if (!signal.aborted) at("several-problem").replaceChildren();
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
  const all = sorted();
  at("several-rest").hidden = all.length <= MOST_SHOWN;
  at("several-rest").textContent = `The first ${MOST_SHOWN} are shown. What is saved holds all ${all.length.toLocaleString("en")}.`;
  at("table-body").replaceChildren(...all.slice(0, MOST_SHOWN).map((entry) => rowOf(entry)));
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
    drawing = drawing.then(() => draw(entry)).catch(() => {}); // the browser cannot read it, though the server may
  }
  return entry.thumbnail;
}

async function draw(entry) {
  if (!entries.includes(entry)) return; // the table was closed
  const bitmap = await createImageBitmap(entry.subject, { resizeHeight: THUMBNAIL, resizeQuality: "medium" });
  entry.thumbnail.getContext("2d").drawImage(bitmap, (THUMBNAIL - bitmap.width) / 2, 0);
  bitmap.close();
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
