// The page: which model is asked, what it is asked, and what its answer looks like. Each part has a module of its own.

import { attributions, showAnswer, showTimings } from "./answer.js";
import { ask, form, key, on, pathOf, patiently } from "./api.js";
import { showCard } from "./card.js";
import { announce, at, latest, make, save } from "./dom.js";
import { asked as askedExplanation, bitmapOf, blobOf, heatmapOf, isSampled, offer, offerLabels, tell, tellProblem, tellWait } from "./explaining.js";
import { command, copy, saveJson } from "./exports.js";
import { offerSamples, takeIn } from "./intake.js";
import { prepareLive } from "./live.js";
import { countdown, explainProblem, GONE } from "./problems.js";
import { askFor, entriesOf, fillIn, prepareRows, row } from "./rows.js";
import { rowsOf } from "./csv.js";
import { closeTable, predictAll, prepareTable } from "./several.js";
import { prepareStage, stage } from "./stage.js";
import { closeVersions, compareVersions, offerVersions } from "./versions.js";

const MANY_LABELS = 20; // beyond these an answer holds only the most probable ones
const PROMISES = [
  "the label, its probability and the threshold that decided,",
  "why: a heatmap over the picture, or what each feature counted for,",
  "what the model’s makers warn of, and how long it all took.",
];

let served = { default: "", models: [] }; // what GET /models answered
let card = null; // of the model that is asked
let picture = null; // the one that is shown, a File
let last = null; // {answer, explained, query} of what is shown
let early = []; // files that came before the models were known
let turn = new AbortController(); // of what is asked just now; whatever comes later than the next turn is dropped

const takesRows = () => card !== null && card.input.kind === "row";
const subject = () => (takesRows() ? row() : picture);

async function describe() {
  let answer;
  try {
    ({ answer } = await ask("/models"));
  } catch (problem) {
    if (problem.status === 401 || problem.status === 0) return; // the page asks for a key, or waits for the server
    at("answered").replaceChildren(explainProblem(problem));
    setTimeout(describe, 1000 * (problem.retryAfter ?? 5));
    return;
  }
  at("door").hidden = true;
  at("bench").hidden = false;
  at("links").hidden = key.isKnown; // links carry no key
  served = answer;
  const known = served.models.filter((model) => model.state !== "missing" || model.name === card?.name);
  const name = card?.name ?? served.default;
  const next = known.find((model) => model.name === name) ?? known[0] ?? null;
  at("chooser").replaceChildren(...known.map((model) => new Option(model.title, model.name, false, model === next)));
  at("chooser").disabled = known.length === 0;
  if (next === null) {
    at("title").textContent = "No model is installed";
    at("description").textContent = Object.values(served.unreadable ?? {}).join(" ") || (served.models[0]?.detail ?? "");
    return;
  }
  choose(next);
  if (early.length > 0) take(early.splice(0));
  if (known.some((model) => ["loading", "checking"].includes(model.state))) setTimeout(describe, 1000);
}

function choose(next) { // shows a model; what was asked of another is asked of this one
  const isOther = card === null || card.name !== next.name || card.version !== next.version;
  const wasReady = card?.state === "ready";
  card = next;
  at("title").textContent = card.title;
  at("description").textContent = card.description;
  at("about").disabled = false;
  at("state").textContent = card.state === "ready" ? `ready, version ${card.version.slice(0, 8)}` : `${card.state}${card.detail ? `: ${card.detail}` : ""}`;
  at("state").className = `chip ${card.state}`;
  at("pictures").hidden = at("sources").hidden = takesRows();
  at("row").hidden = !takesRows();
  document.body.classList.toggle("rows", takesRows());
  if (!isOther && wasReady) return;
  if (isOther) {
    turn.abort();
    closeTable();
    forget();
    offerVersions(card);
    if (takesRows()) askFor(card);
    else { offer(card); offerSamples(card); }
  }
  if (card.state !== "ready") {
    at("answered").replaceChildren(make("p", { className: "hint" }, `The model is not ready yet: ${card.detail || card.state}.`));
  } else if (takesRows()) askRow();
  else if (picture !== null) askPicture(picture);
}

function forget() { // the answer to another question
  last = null;
  busy(false);
  at("result").hidden = at("why").hidden = true;
  at("ribbon").textContent = "";
  at("explained").replaceChildren();
  at("answered").replaceChildren(make("p", {}, "Here will stand:"), make("ul", { className: "promise" }, ...PROMISES.map((text) => make("li", {}, text))));
  closeVersions();
}

function take(files) {
  if (card === null || !at("door").hidden) early = files;
  else if (takesRows()) askTable(...files);
  else if (files.length === 1) askPicture(files[0]);
  else predictAll(card, files.map((file) => ({ name: file.name, subject: file })));
}

async function askTable(file, ...left) {
  const text = await file.text().catch(() => "");
  if (!takesRows()) return;
  const { rows, others, lacking } = rowsOf(text, entriesOf(card));
  if (rows.length === 0 || lacking.length > 0) {
    const lack = rows.length === 0 ? "has no line below a header with the features’ names" : `lacks columns that the model asks for: ${lacking.join(", ")}`;
    newTurn();
    forget();
    at("answered").replaceChildren(explainProblem({ title: "No rows", message: `${file.name} ${lack}.` }));
    return;
  }
  const notes = [others.length > 0 && `Left out, since the model takes no such value: ${others.join(", ")}.`,
    left.length > 0 && `One file at a time; not read: ${left.map((other) => other.name).join(", ")}.`];
  await predictAll(card, rows.map((values, index) => ({ name: `row ${index + 1}`, subject: values })), notes.filter(Boolean).join(" "));
}

function newTurn() {
  turn.abort();
  turn = new AbortController();
  return turn.signal;
}

const labelQuery = () => (card.labels.length === 0 || card.task === "anomaly-detection" ? {} : {
  label: "name", top_k: card.labels.length > MANY_LABELS ? 10 : "",
});

function busy(isBusy) {
  at("answer").setAttribute("aria-busy", String(isBusy));
}

async function answerTo(query, body, signal) { // shows the answer, or what went wrong; null then
  busy(true);
  try {
    const path = pathOf(card, "predict", query);
    const wait = (problem) => {
      if (problem.status === 503) describe(); // it may be out of service
      return countdown(at("answered"), problem, signal);
    };
    const { answer, timings } = await patiently(() => ask(path, { method: "POST", body, signal }), wait);
    if (signal.aborted) return null;
    showAnswer(card, answer, answer.explanation ? { ...timings, explain: answer.explanation.time_ms } : timings);
    last = { answer, timings, query, action: "predict" };
    at("result").hidden = false;
    at("command").textContent = command(card, "predict", query, subject());
    at("save-overlay").hidden = true;
    return answer;
  } catch (problem) {
    if (signal.aborted || problem.name === GONE) return null;
    forget();
    const again = make("button", { type: "button" }, "Try again");
    again.addEventListener("click", repeat);
    at("answered").replaceChildren(explainProblem(problem, make("p", { className: "actions" }, again)));
    if (problem.status === 404) describe();
    return null;
  } finally {
    if (!signal.aborted) busy(false);
  }
}

const repeat = () => (takesRows() ? askRow() : picture !== null && askPicture(picture));

async function askPicture(file) {
  const signal = newTurn();
  picture = file;
  closeVersions();
  if (card.state !== "ready") return;
  const [seen, answer] = await Promise.all([stage.show(file), answerTo(labelQuery(), form(file), signal)]);
  if (signal.aborted || answer === null) return;
  offerLabels(card, answer);
  if (!seen) await showByServer(file, signal);
  if (card.explain !== null && !isSampled()) await explain();
  else if (card.explain !== null) tellWait("This method takes many predictions. Press “Explain” for it.");
}

async function showByServer(file, signal) { // a picture that this browser cannot read, such as a TIFF
  if (card.explain === null || isSampled()) return;
  try {
    const query = { output: "overlay", alpha: 0 };
    const { answer } = await ask(pathOf(card, "explain", query), { method: "POST", body: form(file), signal });
    if (!signal.aborted) await stage.show(await blobOf(answer.gradcam_heatmap), file.name);
  } catch (problem) {
    if (problem.name !== GONE) tellProblem(problem, repeat);
  }
}

async function explain() {
  const signal = turn.signal;
  const file = picture;
  if (file === null || last === null) return;
  tellWait("Asking where the model looked …");
  try {
    const wait = (problem) => countdown(at("explained"), problem, signal);
    const { answer } = await patiently(() => heatmapOf(card, file, signal), wait);
    const heatmap = await bitmapOf(answer.gradcam_heatmap);
    if (signal.aborted) return;
    stage.lay(heatmap, answer.explanation);
    tell(card, answer);
    last = { ...last, explained: answer };
    showTimings({ ...last.timings, explain: answer.explanation.time_ms });
    at("command").textContent = command(card, "explain", askedExplanation(), file);
    at("save-overlay").hidden = false;
    announce("The heatmap is there.");
  } catch (problem) {
    if (signal.aborted || problem.name === GONE) return;
    stage.lay(null);
    tellProblem(problem, explain);
  }
}

const askRow = latest(async () => { // while a slider moves, of the rows that come only the newest
  if (!takesRows() || card.state !== "ready") return;
  const signal = newTurn();
  closeVersions();
  const query = { ...labelQuery(), ...(card.explain ? { include_explanation: true } : {}) };
  const answer = await answerTo(query, JSON.stringify(row()), signal);
  if (answer === null) return;
  at("why").hidden = !answer.explanation?.attributions && !answer.explanation_error;
  if (answer.explanation?.attributions) at("why").replaceChildren(...attributions(answer.explanation));
  else if (answer.explanation_error) at("why").replaceChildren(make("p", { className: "hint" }, answer.explanation_error));
});

function prepareResult() {
  at("save-overlay").addEventListener("click", async () => save(await stage.snapshot(), `${stem()}-overlay.png`));
  at("save-json").addEventListener("click", () => saveJson(last.explained ? { prediction: last.answer, explanation: last.explained } : last.answer, `${stem()}.json`));
  at("copy").addEventListener("click", async () => {
    const isCopied = await copy(at("command").textContent, at("command"));
    at("copy").textContent = isCopied ? "Copied" : "Selected: press Ctrl+C";
    announce(at("copy").textContent);
    setTimeout(() => { at("copy").textContent = "Copy"; }, 2000);
  });
  at("compare").addEventListener("click", () => compareVersions(card, subject(), turn.signal));
  at("close-versions").addEventListener("click", closeVersions);
  for (const id of ["method", "target", "contrast"]) at(id).addEventListener("change", () => {
    at("samples-field").hidden = !isSampled();
    at("explain").hidden = !isSampled();
    if (isSampled()) tellWait("This method takes many predictions. Press “Explain” for it.");
    else explain();
  });
  at("explain").addEventListener("click", explain);
}

const stem = () => (takesRows() ? card.name : picture.name.replace(/\.\w+$/, ""));

function prepareDoor() {
  on("key", (problem) => {
    at("door").hidden = false;
    at("bench").hidden = true;
    at("links").hidden = true;
    closeTable();
    at("door-problem").textContent = key.isKnown ? problem.message : "";
    at("key").focus();
  });
  at("door").addEventListener("submit", (event) => {
    event.preventDefault();
    key.use(at("key").value.trim());
    at("key").value = "";
    describe().then(() => at("door").hidden && last === null && card?.state === "ready" && repeat());
  });
}

function prepareConnection() {
  let asking = null;
  on("reachable", (isReachable) => {
    at("offline").hidden = isReachable;
    if (isReachable || asking !== null) return;
    asking = setInterval(async () => { // until it answers again
      if (!await fetch("/health/live").then((response) => response.status < 500, () => false)) return;
      clearInterval(asking);
      asking = null;
      at("offline").hidden = true;
      announce("The server answers again.");
      await describe();
      if (last === null && card?.state === "ready") repeat();
    }, 2000);
  });
}

at("chooser").addEventListener("change", () => choose(served.models.find((model) => model.name === at("chooser").value)));
at("about").addEventListener("click", () => showCard(card));
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
prepareStage();
prepareResult();
prepareDoor();
prepareConnection();
prepareRows(askRow, askRow);
prepareTable((chosen) => {
  if (chosen instanceof File) askPicture(chosen);
  else { fillIn(chosen); askRow(); }
  at("answer").scrollIntoView({ block: "nearest" });
});
prepareLive(() => served);
takeIn(take);
describe();
