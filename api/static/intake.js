// How pictures come in: dropped anywhere on the page, pasted, chosen, taken, or picked from the samples.

import { hasCamera, takePicture } from "./camera.js";
import { fileOf } from "./api.js";
import { at, make } from "./dom.js";

const SAMPLES = [ // of `python -m training.page_samples`; a card that a sample names shows those alone
  ["axial-stone.webp", "Axial phantom with a stone", "kidney-stone"],
  ["axial-no-stone.webp", "The same without it", "kidney-stone"],
  ["coronal-stones.webp", "Coronal phantom, two stones", "kidney-stone"],
  ["contrast-no-stone.webp", "No stone, contrast medium", "kidney-stone"],
  ["ship.webp", "A drawn ship", ""],
  ["airplane.webp", "A drawn airplane", ""],
  ["car.webp", "A drawn car", ""],
  ["cat.webp", "A drawn cat", ""],
];

let give = () => {};

export function takeIn(onFiles) { // calls with a list of files, of which there is at least one
  give = (files) => { if (files.length > 0) onFiles(files); };
  for (const [input, buttons] of [[at("file"), "[data-choose]"], [at("csv"), "#choose-csv"]]) {
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = ""; // so that the same file may be chosen again
      give(files);
    });
    for (const button of document.querySelectorAll(buttons)) button.addEventListener("click", () => input.click());
  }
  for (const button of document.querySelectorAll("[data-take]")) {
    button.hidden = !hasCamera();
    button.addEventListener("click", fromCamera);
  }
  receiveDrops();
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length > 0) event.preventDefault();
    give(files);
  });
}

async function fromCamera() {
  at("taking").textContent = "";
  try {
    const picture = await takePicture();
    if (picture !== null) give([picture]);
  } catch (error) {
    at("taking").textContent = `There is no picture from the camera: ${error.message}.`;
  }
}

function receiveDrops() {
  const withFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // of how many nested elements the pointer is over
  const mark = () => { document.body.classList.toggle("dropping", inside > 0); };
  document.addEventListener("dragenter", (event) => {
    if (withFiles(event)) inside += 1;
    mark();
  });
  document.addEventListener("dragleave", (event) => {
    if (withFiles(event)) inside -= 1;
    mark();
  });
  document.addEventListener("dragover", (event) => {
    if (withFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    inside = 0;
    mark();
    if (!withFiles(event)) return;
    event.preventDefault();
    give([...event.dataTransfer.files]);
  });
}

export function offerSamples(card) {
  const own = SAMPLES.filter(([, , name]) => name === card.name);
  const offered = own.length > 0 ? own : SAMPLES.filter(([, , name]) => name === "").concat(SAMPLES.slice(0, 2));
  at("samples").replaceChildren(...offered.map(([file, caption]) => {
    const picture = make("img", { src: `/static/samples/${file}`, alt: "", width: 72, height: 72, loading: "lazy" });
    const button = make("button", { type: "button", className: "sample" }, picture, make("span", {}, caption));
    button.addEventListener("click", async () => {
      at("taking").textContent = "";
      try {
        give([new File([await fileOf(`/static/samples/${file}`)], file, { type: "image/webp" })]);
      } catch (problem) {
        at("taking").textContent = `The sample did not come: ${problem.message}`;
      }
    });
    return make("li", {}, button);
  }));
}
