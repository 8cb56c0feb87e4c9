// What went wrong, in the API's own words, with the seconds until the server has room again.

import { announce, make } from "./dom.js";

export const GONE = "AbortError"; // the name of what ends a wait, or a request, that nobody wants any longer

export function explainProblem(problem, ...more) { // an element that says it
  const small = problem.requestId ? make("p", { className: "small" }, `request ${problem.requestId}`) : null;
  const title = problem.title ?? "Something went wrong on this page";
  announce(`${title}. ${problem.message}`);
  return make("div", { className: "problem" }, make("h2", {}, title), make("p", {}, problem.message), small, ...more);
}

export function countdown(place, problem, signal) { // shows the seconds; ends when they are over, or when stopped
  return new Promise((resolve, reject) => {
    let seconds = problem.retryAfter;
    const said = make("p", { className: "countdown", attributes: { role: "timer" } });
    const now = make("button", { type: "button" }, "Try now");
    const stop = make("button", { type: "button" }, "Stop");
    const tell = () => { said.textContent = `Trying again in ${seconds} s.`; };
    const end = (settle, value) => {
      clearInterval(clock);
      signal?.removeEventListener("abort", gone);
      settle(value);
    };
    const gone = () => end(reject, new DOMException("Another request took its place.", GONE));
    const clock = setInterval(() => {
      seconds -= 1;
      tell();
      if (seconds <= 0) end(resolve);
    }, 1000);
    now.addEventListener("click", () => end(resolve));
    stop.addEventListener("click", () => end(reject, problem));
    signal?.addEventListener("abort", gone);
    if (signal?.aborted) gone();
    tell();
    place.replaceChildren(explainProblem(problem, said, make("p", { className: "actions" }, now, stop)));
  });
}
