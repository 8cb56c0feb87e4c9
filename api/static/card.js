// A model's card in a window: what it is, what it was trained on, what was measured, and what its limits are.

import { at, draw, make, number, readable } from "./dom.js";

const FIGURES = { auc: "AUC", sensitivity: "Sensitivity", specificity: "Specificity", f2: "F2", top1: "Top-1 accuracy",
  top5: "Top-5 accuracy", accuracy: "Accuracy", r2: "R²", mae: "Mean absolute error", rmse: "Root mean square error", brier: "Brier score",
  ece: "Calibration error" };

export function showCard(card) {
  const parts = [
    make("p", { className: "lead" }, card.description),
    warnings(card.warnings),
    section("Measured", ...figures(card.metrics)),
    section("Trained on", make("p", {}, card.data)),
    section("Limits", facts(limits(card))),
    section("Network", facts(network(card))),
    section("Explanations", facts(explanations(card))),
  ];
  at("card-title").textContent = card.title;
  at("card-body").replaceChildren(...parts.filter((part) => part !== null));
  at("card").showModal();
  at("card-body").scrollTop = 0;
}

function section(title, ...content) {
  const shown = content.filter((part) => part !== null);
  return shown.length === 0 ? null : make("section", {}, make("h3", {}, title), ...shown);
}

function facts(pairs) {
  const entries = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (entries.length === 0) return null;
  return make("dl", { className: "facts" }, ...entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function warnings(texts) {
  return texts.length === 0 ? null : make("ul", { className: "warnings" }, ...texts.map((text) => make("li", {}, text)));
}

function figures(metrics) {
  const names = Object.keys(FIGURES).filter((name) => typeof metrics[name] === "number");
  if (names.length === 0) return [make("p", {}, "Nothing was measured of this version.")];
  const rows = names.map((name) => {
    const limits = metrics[`${name}_ci95`];
    const interval = limits ? `${limits[0].toFixed(3)} to ${limits[1].toFixed(3)}` : "";
    return make("tr", {}, make("th", { scope: "row" }, FIGURES[name]), make("td", {}, metrics[name].toFixed(3)),
      make("td", {}, interval), make("td", { className: "plot" }, isShare(name) ? interval && plot(metrics[name], limits) : ""));
  });
  const head = ["", "value", "95 % interval", "0 to 1"].map((text) => make("th", { scope: "col" }, text));
  head[0].append(make("span", { className: "unseen" }, "figure"));
  const scans = metrics.scans === undefined ? "" : ` in ${metrics.scans} scans`;
  const count = metrics.n === undefined ? "" : `${metrics.n.toLocaleString("en")}${scans}: `;
  return [
    make("table", { className: "figures" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    make("p", { className: "small" }, `On ${count}${metrics.data ?? "data that the report does not name"}.`),
    ...elsewhere(metrics),
  ];
}

const isShare = (name) => !["mae", "rmse", "r2"].includes(name);

function plot(value, [low, high]) { // an interval on a line from 0 to 1
  const picture = draw("svg", { viewBox: "0 0 100 12", "aria-hidden": "true", preserveAspectRatio: "none" });
  picture.append(
    draw("line", { x1: 0, x2: 100, y1: 6, y2: 6, class: "axis" }),
    draw("line", { x1: 100 * low, x2: 100 * high, y1: 6, y2: 6, class: "interval" }),
    draw("line", { x1: 100 * value, x2: 100 * value, y1: 1, y2: 11, class: "point" }),
  );
  return picture;
}

function elsewhere(metrics) { // what was measured on other data than the figures above
  const others = Object.values(metrics).filter((part) => typeof part === "object" && part !== null && typeof part.data === "string");
  if (others.length === 0) return [];
  return [make("ul", { className: "elsewhere" }, ...others.map((part) => {
    const measured = Object.keys(FIGURES).filter((name) => typeof part[name] === "number").slice(0, 3)
      .map((name) => `${FIGURES[name].replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase())} ${part[name].toFixed(3)}`);
    return make("li", {}, `On ${part.n?.toLocaleString("en") ?? ""} ${part.data}: ${measured.join(", ")}.`);
  }))];
}

function limits(card) {
  const { max_items: items, max_bytes: bytes, max_pixels: pixels, min_side: least, max_side: most } = card.limits;
  return [
    ["In one request", items && `${items.toLocaleString("en")} ${card.input.kind === "row" ? "rows" : "pictures"}`],
    ["Size of a request", bytes && `${number(bytes / 2 ** 20)} MiB`],
    ["Pixels", pixels && `${number(pixels / 1e6)} megapixels`],
    ["Shortest side", least && `${least} pixels`],
    ["Longest side", most && `${most.toLocaleString("en")} pixels`],
  ];
}

function network(card) {
  const input = card.input.kind === "row"
    ? `${card.input.features.length} features`
    : `a picture, resized to ${card.input.size?.[1]} × ${card.input.size?.[0]} pixels`;
  const labels = card.labels.length <= 20 ? card.labels.map(readable).join(", ") : card.labels.length.toLocaleString("en");
  return [
    ["Architecture", `${card.architecture}, ${card.parameters.toLocaleString("en")} parameters`],
    ["Takes", input],
    ["Labels", labels],
    ["Threshold", card.threshold === null || card.threshold === undefined ? null : `${card.threshold}, of ${readable(card.positive_label)}`],
    ["Version", card.version && `${card.version} (${card.variant})`],
    ["Difference from its original", card.parity?.largest_difference?.toPrecision(2)],
    ["Licence", card.licence],
    ["Not confirmed by anybody", card.assumed?.join(", ")],
  ];
}

function explanations(card) {
  const facts = card.explain;
  if (!facts) return [];
  const { quality = {}, cost } = facts;
  const pointing = quality.pointing_game === undefined ? null
    : `the peak lies on the object in ${(100 * quality.pointing_game).toFixed(0)} % of ${quality.n.toLocaleString("en")} ${quality.data}`;
  return [
    ["Methods", facts.methods.join(", ")],
    ["Measured", pointing],
    ["Why no gradient", facts.no_gradient],
    ["Takes", cost && `${number(cost.methods[facts.method]?.ms ?? NaN)} ms by ${facts.method}, beside ${number(cost.prediction_ms)} ms for a prediction (${cost.machine})`],
    ["Background", facts.background && `${facts.background_rows} rows, ${facts.background}`],
  ];
}
