// The versions of a model side by side, on the picture or the row that is looked at.

import { ask, form, pathOf, patiently } from "./api.js";
import { rank, verdict } from "./answer.js";
import { at, bar, make, milliseconds, number, percent, threshold } from "./dom.js";
import { explainProblem } from "./problems.js";

export function offerVersions(card) {
  at("compare").hidden = card.versions.length < 2;
  at("compare").textContent = `Compare ${card.versions.length} versions`;
  closeVersions();
}

export function closeVersions() {
  at("versions").hidden = true;
  at("versions-list").replaceChildren();
}

export async function compareVersions(card, subject, signal) { // one after the other, so that none slows another down
  at("versions").hidden = false;
  const columns = card.versions.map((version) => make("li", { className: "version" },
    make("h3", {}, version.slice(0, 8)), version === card.version ? make("p", { className: "small" }, "what the name alone means") : null,
    make("p", { className: "hint" }, "…")));
  at("versions-list").replaceChildren(...columns);
  at("versions").scrollIntoView({ block: "nearest" });
  for (const [index, version] of card.versions.entries()) {
    const place = columns[index].lastChild;
    try {
      place.replaceWith(...await columnOf(card, version, subject, signal));
    } catch (problem) {
      if (problem.name === "AbortError") return;
      place.replaceWith(explainProblem(problem));
    }
  }
}

async function columnOf(card, version, subject, signal) {
  const isPicture = subject instanceof File;
  const query = isPicture && card.explain ? { include_explanation: true } : {};
  const body = isPicture ? form(subject) : JSON.stringify(subject);
  const wait = (problem) => new Promise((resolve) => { setTimeout(resolve, 1000 * problem.retryAfter); });
  const path = pathOf(card, "predict", query, version);
  const { answer } = await patiently(() => ask(path, { method: "POST", body, signal }), wait);
  const [label, share] = verdict(card, answer);
  const value = rank(card, answer);
  const isShare = answer.probabilities !== undefined;
  const track = isShare ? bar(value) : null;
  if (track !== null && answer.threshold !== null) threshold(track, answer.threshold);
  const picture = answer.gradcam_heatmap
    ? make("img", { className: "overlay", src: `data:image/png;base64,${answer.gradcam_heatmap}`, alt: `The heatmap of version ${version.slice(0, 8)}` })
    : null;
  const limit = answer.threshold === null || answer.threshold === undefined ? "" : `, threshold ${isShare ? percent(answer.threshold) : number(answer.threshold)}`;
  return [
    make("p", { className: "verdict small-verdict" }, make("strong", {}, label), share === null ? null : make("span", {}, ` ${percent(share)}`)),
    track,
    make("p", { className: "hint" }, `${isShare ? percent(value) : number(value)}${limit}; ${milliseconds(answer.inference_time_ms)}`),
    picture,
  ].filter((part) => part !== null);
}
