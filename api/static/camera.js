// A picture from the camera: the browser asks for leave, and the camera is off again when the window closes.

import { at, make } from "./dom.js";

export const hasCamera = () => navigator.mediaDevices?.getUserMedia !== undefined;

let isOpening = false; // from the first of two clicks until the window is closed

export async function takePicture() { // gives a file, or null where none was taken
  const dialog = at("camera");
  if (isOpening || dialog.open) return null;
  isOpening = true;
  try {
    return await pictureOf(dialog);
  } finally {
    isOpening = false;
  }
}

async function pictureOf(dialog) {
  const video = at("video");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  dialog.returnValue = "";
  const closed = new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  dialog.showModal();
  video.play().catch(() => {}); // it was closed before it played
  await closed;
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  for (const track of stream.getTracks()) track.stop();
  video.srcObject = null;
  if (dialog.returnValue !== "take" || canvas.width === 0) return null;
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.92); });
  return new File([blob], "camera.jpg", { type: blob.type });
}
