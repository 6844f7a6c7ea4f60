"""The contact sheet's HTML, style and script; knows only the fields of rows that the script reads."""

from string import Template
from typing import Final

HEAD: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title><style>
:root { color-scheme: light dark; --line: #8884; --soft: #777; --card: #fff; --page: #f4f4f2;
 --bad: #b3261e; --bar: #4a7dbd66; }
@media (prefers-color-scheme: dark) { :root { --card: #222326; --page: #17181a; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); font: 15px/1.45 system-ui, sans-serif; }
header, footer { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; padding: .7rem 1rem;
 background: var(--card); border-bottom: 1px solid var(--line); }
header { position: sticky; top: 0; z-index: 1; }
footer { justify-content: center; border: 0; }
h1 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
#count, #sample, .turn span { color: var(--soft); }
#sample { margin: 0; padding: .7rem 1rem 0; }
input[type=search], select, button { padding: .4rem .6rem; font: inherit; color: inherit;
 border: 1px solid var(--line); border-radius: .4rem; background: var(--card); max-width: 16rem; }
input[type=search] { flex: 1 1 12rem; min-width: 0; max-width: 26rem; }
main { display: grid; gap: 1rem; padding: 1rem; align-items: start;
 grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
figure { margin: 0; height: 13rem; display: grid; place-items: center; background: #8882;
 color: var(--soft); }
figure img { max-width: 100%; max-height: 13rem; display: block; }
.name { padding: .5rem .8rem; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere;
 border-bottom: 1px solid var(--line); }
dl { margin: 0; padding: .3rem .8rem .8rem; }
dt { margin-top: .5rem; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere;
 white-space: pre-line; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
dd small { color: var(--soft); white-space: nowrap; }
dd.failure, .flag { color: var(--bad); }
.flag { border: 1px solid; border-radius: .4rem; padding: 0 .3rem; font-size: .8rem; margin-left: .4rem; }
.choice { display: flex; justify-content: space-between; gap: 1rem; font-size: .85rem; padding: 0 .3rem;
 background: linear-gradient(to right, var(--bar) var(--share), transparent 0); }
</style></head><body>
<header><h1>$title</h1><input type="search" id="words" placeholder="Filter by words" aria-label="Words">
<select id="question" aria-label="Question"><option value="">every question</option></select>
<select id="flag" aria-label="Flag"><option value="">flagged or not</option></select>
<label><input type="checkbox" id="failed"> failures only</label><span id="count"></span>
<span class="turn"><button class="back" aria-label="Back">&larr;</button>
<span class="page"></span> <button class="on" aria-label="On">&rarr;</button></span></header>
$notice<main><noscript>This page needs its script to show its rows.</noscript></main>
<footer><span class="turn"><button class="back" aria-label="Back">&larr;</button>
<span class="page"></span> <button class="on" aria-label="On">&rarr;</button></span></footer>
""")

ROWS: Final = ('<script type="application/json" class="rows">[\n', "\n]</script>\n")
PICTURES: Final = ('<script type="application/json" class="pictures">[\n', "\n]</script>\n")

FOOT: Final = """<script>
"use strict";
const PER_PAGE = 96, KEPT_BLOCKS = 8;
const byId = id => document.getElementById(id), main = document.querySelector("main");
const rows = [], pictureBlocks = [...document.querySelectorAll("script.pictures")], parsed = new Map();
document.querySelectorAll("script.rows").forEach((block, number) => {
  JSON.parse(block.textContent).forEach((row, place) => { row.at = [number, place]; rows.push(row); });
  block.remove();
});
// Pictures are parsed block by block when they are shown.
function picture([block, place]) {
  let pictures = parsed.get(block);
  if (pictures === undefined) {
    if (parsed.size === KEPT_BLOCKS) parsed.delete(parsed.keys().next().value);
    parsed.set(block, pictures = JSON.parse(pictureBlocks[block].textContent));
  }
  return pictures[place];
}
function offer(select, values) {
  for (const [value, label] of values) {
    const option = document.createElement("option");
    option.value = value; option.textContent = label.length > 60 ? label.slice(0, 59) + "\\u2026" : label;
    select.append(option);
  }
  select.hidden = values.size === 0;
}
const questions = new Map(), flags = new Map();
for (const row of rows) for (const answer of row.answers) {
  if (!questions.has("=" + answer.question))
    questions.set("=" + answer.question, answer.question + ": " + answer.prompt);
  for (const flag of answer.flags || []) flags.set(flag, flag);
}
offer(byId("question"), questions); offer(byId("flag"), flags);
let texts = [], found = [], page = 0;
const chosen = row => {
  const question = byId("question").value;
  return question === "" ? row.answers : row.answers.filter(answer => "=" + answer.question === question);
};
function index() {
  texts = rows.map(row => [row.name, row.id, ...chosen(row).flatMap(answer =>
    [answer.prompt, answer.text, answer.code, answer.message])].join("\\n").toLowerCase());
}
function find() {
  const words = byId("words").value.toLowerCase().split(/\\s+/).filter(Boolean), flag = byId("flag").value;
  found = rows.filter((row, i) => {
    const answers = chosen(row);
    return answers.length > 0 && words.every(word => texts[i].includes(word))
      && (!byId("failed").checked || answers.some(answer => answer.code !== undefined))
      && (flag === "" || answers.some(answer => (answer.flags || []).includes(flag)));
  });
  page = 0;
  show();
}
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className !== undefined) made.className = className;
  return made;
}
function told(answer) {
  if (answer.code !== undefined) return [element("dd", answer.code + ": " + answer.message, "failure")];
  const text = element("dd", answer.text + " ");
  const sure = element("small", answer.score.toFixed(2));
  sure.title = "score " + answer.score + ", mean log-probability of a token " + answer.mean_log_prob;
  sure.textContent += " \\u00b7 " + answer.mean_log_prob.toFixed(2);
  text.append(sure, ...answer.flags.map(flag => element("span", flag, "flag")));
  return [text, ...answer.choices.map(([choice, probability]) => {
    const line = element("dd", undefined, "choice");
    line.style.setProperty("--share", 100 * probability + "%");
    line.append(element("span", choice), element("span", (100 * probability).toFixed(1) + " %"));
    return line;
  })];
}
function card(row) {
  const made = element("article"), figure = element("figure"), list = element("dl"), jpeg = picture(row.at);
  if (jpeg === null) figure.textContent = "no picture";
  else {
    const image = element("img");
    image.alt = ""; image.decoding = "async"; image.loading = "lazy";
    image.src = "data:image/jpeg;base64," + jpeg;
    figure.append(image);
  }
  for (const answer of chosen(row)) list.append(element("dt", answer.prompt), ...told(answer));
  const name = row.name === null || row.name === row.id ? row.id : row.name + " (" + row.id + ")";
  made.append(figure, element("div", name, "name"), list);
  return made;
}
function show() {
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE)), first = page * PER_PAGE;
  main.replaceChildren(...found.slice(first, first + PER_PAGE).map(card));
  byId("count").textContent = found.length + " of " + rows.length + " rows";
  document.querySelectorAll(".page").forEach(one => one.textContent = (page + 1) + " / " + pages);
  document.querySelectorAll(".back").forEach(one => one.disabled = page === 0);
  document.querySelectorAll(".on").forEach(one => one.disabled = page + 1 === pages);
  document.querySelectorAll(".turn").forEach(one => one.hidden = pages === 1);
}
function turn(step) { page += step; show(); scrollTo(0, 0); }
document.querySelectorAll(".back").forEach(one => one.addEventListener("click", () => turn(-1)));
document.querySelectorAll(".on").forEach(one => one.addEventListener("click", () => turn(1)));
let soon;
byId("words").addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(find, 150); });
byId("question").addEventListener("change", () => { index(); find(); });
byId("flag").addEventListener("change", find);
byId("failed").addEventListener("change", find);
index(); find();
</script></body></html>
"""
