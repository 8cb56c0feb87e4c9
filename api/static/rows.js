// The form of a model of rows: a value each with its unit, range and example, and a slider that moves the answer.

import { at, make, readable } from "./dom.js";
import { valueOf } from "./csv.js";

const STEPS = 1000; // of a slider
const ENDLESS = 1e30; // what a card has where a value has no limit

let entries = []; // of the card: features, which have a range, and what only identifies a row
let asked = ""; // name and version of the model whose values the form asks for

export function prepareRows(onChange, onSubmit) { // calls with the row
  at("values").addEventListener("input", (event) => {
    follow(event.target);
    if (at("row").checkValidity()) onChange(row());
  });
  at("row").addEventListener("submit", (event) => {
    event.preventDefault();
    onSubmit(row());
  });
  at("example").addEventListener("click", () => {
    fillIn(Object.fromEntries(entries.map((entry) => [entry.name, entry.example])));
    onSubmit(row());
  });
}

export const entriesOf = (card) => [...card.input.features, ...card.input.identifiers];

export function askFor(card) { // what was typed stays, while the model is the same
  const tag = `${card.name}:${card.version}`;
  if (asked === tag) return;
  asked = tag;
  entries = entriesOf(card);
  const own = card.input.features.map((entry) => field(entry));
  const others = card.input.identifiers.map((entry) => field(entry));
  const group = make("fieldset", {}, make("legend", {}, "What only identifies the row"), ...others);
  at("values").replaceChildren(...own, ...(others.length > 0 ? [group] : []));
}

export function row() {
  return Object.fromEntries(entries.map((entry) => [entry.name, valueOf(entry, inputOf(entry.name).value)]));
}

export function fillIn(values) { // by the names of the card
  for (const { name } of entries) {
    inputOf(name).value = values[name] ?? "";
    follow(inputOf(name));
  }
}

const inputOf = (name) => at("row").elements.namedItem(name);

function field(entry) {
  const { name, unit, description, example, categories, other_categories: others, missing } = entry;
  const id = `value-${name}`;
  const hint = [description, rangeText(entry), missing ? "may be empty" : ""].filter((text) => text).join("; ");
  const properties = { id, name, required: !missing, attributes: hint ? { "aria-describedby": `${id}-hint` } : {} };
  const input = categories && !others
    ? make("select", properties, ...(missing ? [""] : []).concat(categories).map((value) => new Option(readable(value), value, false, value === example)))
    : make("input", { ...properties, value: example ?? "", autocomplete: "off", ...numeric(entry) });
  const label = make("label", { htmlFor: id }, readable(name), unit && !name.endsWith(`_${unit}`) ? make("span", { className: "unit" }, ` ${unit}`) : null);
  const slider = isNumeric(entry) ? sliderOf(entry, input) : null;
  return make("div", { className: "field" }, label, input, slider, hint ? make("p", { id: `${id}-hint`, className: "hint" }, hint) : null);
}

const isNumeric = (entry) => entry.low !== undefined && !entry.categories;

function numeric(entry) {
  if (!isNumeric(entry)) return { type: "text", ...(entry.max_length ? { maxLength: entry.max_length } : {}) };
  const limits = { ...(entry.low > -ENDLESS ? { min: entry.low } : {}), ...(entry.high < ENDLESS ? { max: entry.high } : {}) };
  return { type: "number", step: "any", inputMode: "decimal", ...limits };
}

function rangeText({ low, high, categories }) {
  if (low === undefined || categories) return "";
  const text = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });
  if (low > -ENDLESS && high < ENDLESS) return `${text(low)} to ${text(high)}`;
  return low > -ENDLESS ? `from ${text(low)} on` : high < ENDLESS ? `at most ${text(high)}` : "";
}

function scaleOf({ low, high, example }) { // a range that is wide beside its example is run through by ratios
  const middle = example ?? 0;
  const from = low > -ENDLESS ? low : middle - 2 * Math.max(Math.abs(middle), 1);
  const to = high < ENDLESS ? high : middle + 2 * Math.max(Math.abs(middle), 1);
  const unit = Math.max((middle - from) / 10, (to - from) / 1e9);
  const isWide = (to - from) > 20 * (middle - from) && middle > from;
  const whole = isWide ? Math.log1p((to - from) / unit) : 1;
  return {
    value: (step) => (isWide ? from + unit * Math.expm1((whole * step) / STEPS) : from + ((to - from) * step) / STEPS),
    step: (value) => STEPS * (isWide ? Math.log1p(Math.max(value - from, 0) / unit) / whole : (value - from) / (to - from)),
    low: from,
    high: to,
  };
}

function sliderOf(entry, input) {
  const scale = scaleOf(entry);
  const label = `${readable(entry.name)}, slider`;
  const slider = make("input", { type: "range", min: 0, max: STEPS, step: 1, attributes: { "aria-label": label } });
  slider.dataset.slides = entry.name;
  const isWhole = Number.isInteger(entry.example) && Number.isInteger(entry.low);
  input.fromSlider = () => {
    const value = Math.min(Math.max(scale.value(Number(slider.value)), scale.low), scale.high);
    input.value = isWhole ? Math.round(value) : Number(value.toPrecision(4));
    slider.setAttribute("aria-valuetext", input.value);
  };
  input.toSlider = () => {
    slider.value = scale.step(Number(input.value));
    slider.setAttribute("aria-valuetext", input.value);
  };
  input.toSlider();
  return slider;
}

function follow(changed) { // a slider moves its number, and a number its slider
  if (changed.dataset.slides !== undefined) inputOf(changed.dataset.slides).fromSlider();
  else changed.toSlider?.();
}
