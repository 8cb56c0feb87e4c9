// The viewer: a picture and its heatmap on one canvas, with opacity, side by side, a divider to swipe, zoom and pan.

import { colourise } from "./colours.js";
import { make } from "./dom.js";

const MOST_ZOOM = 16;
const STEP = 1.5; // what one press of a button zooms by
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Viewer {
  constructor(stage) { // the element that the canvas fills
    this.canvas = make("canvas", { className: "canvas", tabIndex: 0, hidden: true, attributes: { role: "img" } });
    stage.append(this.canvas);
    Object.assign(this, { picture: null, heat: null, mode: "overlay", opacity: 0.6, divider: 0.5, onDivider: () => {} });
    this.pointers = new Map();
    this.reset();
    new ResizeObserver(() => this.paint()).observe(stage);
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.#down(event));
    this.canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => this.#up(event));
  }

  show(picture, name) { // an ImageBitmap; null for none
    this.picture?.close(); // its pixels are not waited for to be collected
    Object.assign(this, { picture, heat: null });
    this.canvas.hidden = picture === null;
    this.describe(`The picture ${name}`);
    this.reset();
  }

  lay(heatmap) { // a grey ImageBitmap as large as the picture, or null
    this.heat = heatmap === null ? null : colourise(heatmap);
    heatmap?.close();
    this.paint();
  }

  describe(text) {
    this.canvas.setAttribute("aria-label", `${text}. Plus and minus zoom, arrows move, 0 shows it whole.`);
  }

  set(values) { // of mode, opacity and divider
    Object.assign(this, values);
    this.paint();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
    this.paint();
  }

  zoomBy(factor, [x, y] = [this.x, this.y]) { // about a place of the picture, which stays where it is
    const zoom = clamp(this.zoom * factor, 1, MOST_ZOOM);
    const kept = this.zoom / zoom;
    Object.assign(this, { zoom, x: x + (this.x - x) * kept, y: y + (this.y - y) * kept });
    this.paint();
  }

  #boxes() { // where on the canvas the picture is shown, in pixels of the page: once, or twice side by side
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.mode !== "side") return [{ left: 0, width, height, heated: this.mode !== "picture" }];
    const half = width / 2 - 1;
    return [{ left: 0, width: half, height, heated: false }, { left: half + 2, width: half, height, heated: true }];
  }

  #scale(box) { // pixels of the page for each of the picture
    return Math.min(box.width / this.picture.width, box.height / this.picture.height) * this.zoom;
  }

  #clampCentre(box) {
    const scale = this.#scale(box);
    for (const [axis, seen, whole] of [["x", box.width, this.picture.width], ["y", box.height, this.picture.height]]) {
      const half = seen / (2 * whole * scale);
      this[axis] = half >= 0.5 ? 0.5 : clamp(this[axis], half, 1 - half);
    }
  }

  placeOf(event) { // what of the picture is under the pointer: shares of its width and height
    const area = this.canvas.getBoundingClientRect();
    const left = event.clientX - area.left;
    const box = this.#boxes().findLast((candidate) => left >= candidate.left) ?? this.#boxes()[0];
    const scale = this.#scale(box);
    const { width, height } = this.picture;
    return [
      this.x + (left - box.left - box.width / 2) / (scale * width),
      this.y + (event.clientY - area.top - box.height / 2) / (scale * height),
    ];
  }

  paint() {
    if (this.picture === null || this.canvas.hidden) return;
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.canvas.classList.toggle("movable", this.zoom > 1);
    this.canvas.classList.toggle("swipes", this.mode === "swipe");
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    for (const box of this.#boxes()) {
      this.#clampCentre(box);
      this.#paintBox(context, box);
    }
    if (this.mode === "swipe" && this.heat !== null) this.#paintDivider(context, clientWidth, clientHeight);
  }

  #paintBox(context, box) {
    const scale = this.#scale(box);
    const [width, height] = [this.picture.width * scale, this.picture.height * scale];
    const [left, top] = [box.left + box.width / 2 - this.x * width, box.height / 2 - this.y * height];
    context.save();
    context.beginPath();
    context.rect(box.left, 0, box.width, box.height);
    context.clip();
    context.imageSmoothingEnabled = scale < 4; // closer than that, pixels are shown as they are
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, left, top, width, height);
    if (this.heat !== null && box.heated) {
      if (this.mode === "swipe") {
        context.beginPath();
        context.rect(box.left, 0, box.width * this.divider, box.height);
        context.clip();
      }
      context.imageSmoothingEnabled = true;
      context.globalAlpha = this.opacity;
      context.drawImage(this.heat, left, top, width, height);
    }
    context.restore();
  }

  #paintDivider(context, width, height) {
    const at = width * this.divider;
    context.fillStyle = "#fff";
    context.shadowColor = "rgb(0 0 0 / 60%)";
    context.shadowBlur = 4;
    context.fillRect(at - 1, 0, 2, height);
    context.beginPath();
    context.arc(at, height / 2, 13, 0, 2 * Math.PI);
    context.fill();
    context.shadowBlur = 0;
    context.strokeStyle = "#1b2428";
    context.lineWidth = 2;
    for (const side of [-1, 1]) {
      context.beginPath();
      context.moveTo(at + side * 3, height / 2 - 4);
      context.lineTo(at + side * 7, height / 2);
      context.lineTo(at + side * 3, height / 2 + 4);
      context.stroke();
    }
  }

  #key(event) {
    const step = 0.1 / this.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves && this.zoom > 1) {
      this.x += moves[event.key][0];
      this.y += moves[event.key][1];
      this.paint();
    } else if (["+", "="].includes(event.key)) this.zoomBy(STEP);
    else if (event.key === "-") this.zoomBy(1 / STEP);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  #wheel(event) { // zooms with Ctrl, as a touchpad's pinch says it; without it the page scrolls
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 200), this.placeOf(event));
  }

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.moved = this.pointers.size > 1;
    const area = this.canvas.getBoundingClientRect();
    const near = Math.abs(event.clientX - area.left - this.divider * area.width) < 24;
    this.swiping = this.mode === "swipe" && this.pointers.size === 1 && (near || this.zoom === 1);
    if (this.swiping) this.#swipe(event);
  }

  #swipe(event) {
    const area = this.canvas.getBoundingClientRect();
    this.set({ divider: clamp((event.clientX - area.left) / area.width, 0, 1) });
    this.onDivider(this.divider);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (before === undefined) return;
    const [left, top] = [event.clientX - before[0], event.clientY - before[1]];
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (other !== undefined) { // two fingers
      const distance = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      this.zoomBy(distance([event.clientX, event.clientY]) / Math.max(distance(before), 1), this.placeOf(event));
    } else if (this.swiping) {
      this.#swipe(event);
    } else if (this.zoom > 1) {
      const scale = this.#scale(this.#boxes()[0]);
      this.x -= left / (scale * this.picture.width);
      this.y -= top / (scale * this.picture.height);
      this.paint();
    }
    this.moved ||= Math.hypot(left, top) > 3;
    if (this.moved) this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  #up(event) { // a tap without a move brings what it met to the middle
    if (this.pointers.delete(event.pointerId) && event.type === "pointerup" && !this.moved && !this.swiping && this.zoom > 1) {
      [this.x, this.y] = this.placeOf(event);
      this.paint();
    }
  }

  async snapshot() { // the picture at its own size with its heatmap, as a PNG
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.picture.width, this.picture.height];
    const context = canvas.getContext("2d");
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = this.opacity;
    if (this.heat !== null) context.drawImage(this.heat, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  }
}
