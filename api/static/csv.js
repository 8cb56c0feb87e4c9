// Rows of numbers and texts from a file: CSV with commas, semicolons or tabs, quoted as RFC 4180 has it.

export function parseCsv(text) { // gives a list of lists of texts; empty lines are left out
  const separator = separatorOf(text);
  const rows = [];
  let row = [];
  let value = "";
  let isQuoted = false;
  const endValue = () => { row.push(value); value = ""; };
  const endRow = () => {
    endValue();
    if (row.some((entry) => entry !== "")) rows.push(row);
    row = [];
  };
  const plain = text.replace(/^\ufeff/, "");
  for (let index = 0; index < plain.length; index += 1) {
    const character = plain[index];
    if (isQuoted) {
      if (character !== '"') value += character;
      else if (plain[index + 1] === '"') { value += '"'; index += 1; } else isQuoted = false;
    } else if (character === '"' && value === "") isQuoted = true;
    else if (character === separator) endValue();
    else if (character === "\n") endRow();
    else if (character !== "\r") value += character;
  }
  endRow();
  return rows;
}

function separatorOf(text) { // the one that is most frequent in the first line
  const [line] = text.split("\n", 1);
  const count = (character) => line.split(character).length;
  return [",", ";", "\t"].reduce((best, other) => (count(other) > count(best) ? other : best));
}

export function rowsOf(text, entries) {
  // Give an object for each line after the header, by those names in it that the card knows, the other names, and the names
  // that the card asks for and the header lacks. An empty
  // value is null, and what the card has a range for is a number where it can be read as one; whatever else it is, the API
  // says what is wrong with it.
  const [header = [], ...lines] = parseCsv(text);
  const columns = header.map((name) => entries.find((entry) => entry.name === name.trim()));
  const rows = lines.map((line) => Object.fromEntries(columns.flatMap((entry, index) => (
    entry === undefined ? [] : [[entry.name, valueOf(entry, (line[index] ?? "").trim())]]))));
  const lacking = entries.filter((entry) => !entry.missing && !columns.includes(entry)).map((entry) => entry.name);
  return { rows, others: header.filter((name, index) => columns[index] === undefined), lacking };
}

export function valueOf(entry, text) { // as the API takes it
  if (entry.categories) return text === "" ? null : entry.categories.find((category) => String(category) === text) ?? text;
  if (entry.low === undefined) return text;
  if (text === "") return null;
  return Number.isFinite(Number(text)) ? Number(text) : text;
}
