// What can be taken along: an answer, a table, and the command that repeats a request. A key is never in them.

import { key, pathOf } from "./api.js";
import { save } from "./dom.js";

export function saveJson(value, name) {
  save(new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" }), name);
}

export function saveCsv(rows, name) { // of lists of texts and numbers
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n");
  save(new Blob([`\ufeff${text}\r\n`], { type: "text/csv" }), name); // the mark has spreadsheets read UTF-8
}

function cell(value) { // a text that a spreadsheet would run as a formula is marked as a text
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) && !/^-?[\d.]+(e[+-]?\d+)?$/i.test(value) ? `'${value}` : String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function command(card, action, query, subject) { // for a shell
  const address = quoted(`${location.origin}${pathOf(card, action, query)}`);
  const withKey = key.isKnown ? ' -H "X-API-Key: $VITRINE_API_KEY"' : "";
  const body = subject instanceof File
    ? `-F ${quoted(`file=@"${subject.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`)}`
    : `-H 'Content-Type: application/json' -d ${quoted(JSON.stringify(subject))}`;
  return `curl${withKey} ${body} ${address}`;
}

export async function copy(text, place) { // where a page may not copy, the text is selected for the reader to do it
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(place);
    return false;
  }
}
