// The stage: where a picture is dropped, then the viewer with its bar of tools.

import { at, readable } from "./dom.js";
import { INFERNO } from "./colours.js";
import { Viewer } from "./viewer.js";

let viewer = null;
let turn = 0;

export function prepareStage() {
  viewer = new Viewer(at("stage"));
  for (const choice of document.querySelectorAll("input[name=mode]")) choice.addEventListener("change", () => {
    viewer.set({ mode: choice.value });
    at("divider-field").hidden = choice.value !== "swipe";
    at("opacity-field").hidden = choice.value === "picture";
  });
  at("opacity").addEventListener("input", () => viewer.set({ opacity: Number(at("opacity").value) / 100 }));
  at("divider").addEventListener("input", () => viewer.set({ divider: Number(at("divider").value) / 100 }));
  viewer.onDivider = (share) => { at("divider").value = Math.round(100 * share); };
  at("closer").addEventListener("click", () => viewer.zoomBy(1.5));
  at("farther").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
  at("whole").addEventListener("click", () => viewer.reset());
  const stops = [0, 51, 102, 153, 204, 255].map((level) => `rgb(${INFERNO.slice(3 * level, 3 * level + 3).join(" ")})`);
  at("scale").style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
}

export const stage = {
  async show(file, name = file.name) { // gives whether this browser can read the picture
    const mine = ++turn;
    at("stage").classList.add("taken");
    at("empty").hidden = true;
    at("tools").hidden = false;
    at("legend").classList.add("absent");
    at("stage").scrollIntoView({ block: "nearest" });
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (mine !== turn) { bitmap?.close(); return true; }
    viewer.show(bitmap, name);
    at("unreadable").hidden = bitmap !== null;
    at("unreadable").textContent = `This browser cannot show ${name}.`;
    return bitmap !== null;
  },
  lay(heatmap, explanation) {
    viewer.lay(heatmap);
    at("legend").classList.toggle("absent", heatmap === null); // it keeps its place
    if (heatmap !== null) viewer.describe(`The picture with the heatmap of ${readable(explanation.target)} by ${explanation.method}`);
  },
  snapshot: () => viewer.snapshot(),
};
