// Calls to the API: with the key, and with problems as exceptions that keep the API's own words.

const KEY = "vitrine-key"; // in sessionStorage, which ends with the tab and which no other site can read
const listeners = { key: [], reachable: [] };

export class Problem extends Error { // what the API answered in place of what was asked
  constructor(details, response) {
    super(details.detail ?? response.statusText);
    this.title = details.title ?? `Status ${response.status}`;
    this.status = details.status ?? response.status;
    this.requestId = details.request_id ?? response.headers.get("X-Request-ID") ?? "";
    this.retryAfter = retryAfter(response.headers.get("Retry-After"));
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The server could not be reached. The page goes on by itself once it can.");
    this.title = "No connection";
    this.status = 0;
    this.requestId = "";
    this.retryAfter = null;
  }
}

export class Unreadable extends Error {
  constructor(name) {
    super(`${name} is a folder, or it was moved, changed or deleted since it was chosen. Choose it again.`);
    Object.assign(this, { title: "The file cannot be read", status: 400, requestId: "", retryAfter: null });
  }
}

async function checkFiles(body) { // a request also fails when its file cannot be read, and then the server is not to blame
  for (const file of body instanceof FormData ? body.values() : []) {
    if (!(file instanceof File)) continue;
    const part = file.size === 0 ? file : file.slice(0, 1); // of what is gone Chromium gives an empty part
    await part.arrayBuffer().catch(() => { throw new Unreadable(file.name); });
  }
}

function retryAfter(text) { // in seconds; null where the answer names none
  if (text === null) return null;
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : null;
}

export const key = {
  get isKnown() { return sessionStorage.getItem(KEY) !== null; },
  use(text) { sessionStorage.setItem(KEY, text); },
};

export function on(event, listener) { // "key": one is needed; "reachable": true or false
  listeners[event].push(listener);
}

function tell(event, value) {
  for (const listener of listeners[event]) listener(value);
}

async function send(path, { headers = {}, ...options } = {}) {
  const own = key.isKnown ? { ...headers, "X-API-Key": sessionStorage.getItem(KEY) } : headers;
  let response;
  try {
    response = await fetch(path, { ...options, headers: own });
  } catch (error) {
    if (error.name !== "AbortError") await checkFiles(options.body);
    throw lost(error);
  }
  tell("reachable", true);
  return response;
}

function lost(error) { // what to throw where a connection failed, before its answer or within it
  if (!(error instanceof TypeError)) return error;
  tell("reachable", false);
  return new Unreachable();
}

async function problemOf(response) {
  const details = await response.json().catch(() => ({}));
  const problem = new Problem(details, response);
  if (response.status === 401) tell("key", problem);
  return problem;
}

export async function ask(path, options) { // gives the JSON of an answer, and the times that its headers tell
  const response = await send(path, options);
  if (!response.ok) throw await problemOf(response);
  const answer = await response.json().catch((error) => { throw lost(error); });
  return { answer, timings: timingsOf(response) };
}

export async function fileOf(path) {
  const response = await send(path);
  if (!response.ok) throw await problemOf(response);
  return response.blob();
}

export async function askInLines(path, options, onProgress) { // the same of an answer that says how far it is
  const headers = { ...options.headers, Accept: "application/x-ndjson, application/json" };
  const response = await send(path, { ...options, headers });
  if (!response.ok) throw await problemOf(response);
  let last = "";
  let rest = ""; // of a line whose end has not come
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    last = lines.at(-1) ?? last;
    for (const line of lines) {
      const share = /^\{"progress": ([\d.e-]+)\}$/.exec(line);
      if (share !== null) onProgress(Number(share[1]));
    }
  }
  if (rest !== "") last = rest; // an answer that is no lines
  const answer = JSON.parse(last);
  if (answer.status >= 400 && answer.title !== undefined) throw new Problem(answer, response);
  return { answer, timings: timingsOf(response) };
}

function timingsOf(response) { // of the header Server-Timing: milliseconds by name
  const entries = (response.headers.get("Server-Timing") ?? "").matchAll(/([\w.-]+)[^,]*?;\s*dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(entries, ([, name, ms]) => [name, Number(ms)]));
}

export async function patiently(work, wait, tries = 5) { // repeats what the server has no room for, when it says
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (problem) {
      if (![429, 503].includes(problem.status) || problem.retryAfter === null || attempt === tries) throw problem;
      await wait(problem); // throws where somebody does not want to wait
    }
  }
}

export const pathOf = (card, action, query = {}, version = "") => {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const asked = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  const model = `/models/${card.name}${version === "" ? "" : `/versions/${version}`}`;
  return `${model}/${action}${asked === "" ? "" : `?${asked}`}`;
};

export function form(...files) { // the body of a request with one picture or several
  const body = new FormData();
  for (const file of files) body.append(files.length > 1 ? "files" : "file", file, file.name);
  return body;
}
