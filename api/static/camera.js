// A picture from the camera: the browser asks for leave, and the camera is off again when the window closes.

import { at, make } from "./dom.js";

export const hasCamera = () => navigator.mediaDevices?.getUserMedia !== undefined;

export async function takePicture() { // gives a file, or null where none was taken
  const dialog = at("camera");
  const video = at("video");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  dialog.returnValue = "";
  dialog.showModal();
  await video.play();
  await new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  for (const track of stream.getTracks()) track.stop();
  video.srcObject = null;
  if (dialog.returnValue !== "take") return null;
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.92); });
  return new File([blob], "camera.jpg", { type: blob.type });
}
