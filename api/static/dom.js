// Small helpers for the page: elements, numbers in words, and calls of which only the newest counts.

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const { attributes = {}, ...own } = properties;
  const made = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function draw(tag, attributes = {}, ...children) { // an element of an SVG
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function milliseconds(ms) {
  if (ms === 0) return "0 ms";
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

export const number = (value) => (Number.isFinite(value) ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : "–");

export const readable = (label) => String(label).replaceAll("_", " "); // a label or a feature's name, for people

export function announce(text) { // says something to screen readers; the same words are said again
  const region = at("announcer");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);
}

export function latest(work) { // runs one call at a time, and of those that come meanwhile only the newest
  let running = false;
  let next = null;
  return async (...values) => {
    next = values;
    if (running) return;
    running = true;
    try {
      while (next !== null) {
        const values = next;
        next = null;
        await work(...values);
      }
    } finally {
      running = false;
    }
  };
}

export function bar(share, properties = {}) { // a horizontal bar; the share is of its whole length, from 0 to 1
  const filled = make("span", { className: "fill" });
  filled.style.setProperty("--share", String(Math.min(Math.max(share, 0), 1)));
  return make("span", { className: "bar", ...properties, attributes: { "aria-hidden": "true" } }, filled);
}

export function threshold(track, share) { // marks a place on a bar
  const mark = make("span", { className: "mark" });
  mark.style.setProperty("--share", String(Math.min(Math.max(share, 0), 1)));
  track.append(mark);
  return track;
}

export function save(blob, name) { // as a download
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
