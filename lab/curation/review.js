"use strict";
// One question is current. Decisions live in the browser's storage until "save" writes them to a file for review.decisions=FILE.
const items = [...document.querySelectorAll("li.kept")];
const key = "vlm-lab review " + document.body.dataset.manifest;
let decisions = {};
try { decisions = JSON.parse(localStorage.getItem(key)) || {}; } catch (error) { /* no storage: the file still holds them */ }
let place = 0;

const text = (item, name) => item.querySelector("." + name).textContent;

function show() {
  items.forEach((item, at) => {
    const one = decisions[item.dataset.id];
    item.classList.toggle("current", at === place);
    item.dataset.decision = one ? one.decision : "";
    item.querySelector(".verdict").textContent = one ? { accept: "accepted", mend: "mended", drop: "dropped" }[one.decision] : "";
  });
  document.querySelector("#done").textContent = Object.keys(decisions).length + " of " + items.length + " decided";
}

function go(to) {
  place = Math.max(0, Math.min(items.length - 1, to));
  show();
  const item = items[place];
  if (!item) return;
  const card = item.closest("section"), tall = card.offsetHeight > innerHeight - 60;
  (tall ? item : card).scrollIntoView({ block: "center" });
}

function decide(decision, more) {
  const item = items[place];
  if (!item) return;
  decisions[item.dataset.id] = { decision, ...more };
  try { localStorage.setItem(key, JSON.stringify(decisions)); } catch (error) { /* as above */ }
  go(place + 1);
}

function mend() {
  const item = items[place];
  if (!item || item.querySelector("form")) return;
  const earlier = decisions[item.dataset.id] || {};
  const form = document.createElement("form");
  for (const name of ["question", "answer"]) {
    const field = document.createElement("input");
    field.name = name;
    field.setAttribute("aria-label", name);
    field.value = earlier[name] || text(item, name);
    form.append(field);
  }
  const button = document.createElement("button");
  button.textContent = "keep (Enter)";
  form.append(button);
  const close = () => form.remove();
  form.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Escape") close(); });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [question, answer] = [form.question.value.trim(), form.answer.value.trim()];
    if (!question || !answer) return;
    item.querySelector(".question").textContent = question;
    item.querySelector(".answer").textContent = answer;
    close();
    decide("mend", { question, answer });
  });
  item.append(form);
  form.answer.focus();
  form.answer.select();
}

function undo() {
  const item = items[place];
  if (!item) return;
  delete decisions[item.dataset.id];
  try { localStorage.setItem(key, JSON.stringify(decisions)); } catch (error) { /* as above */ }
  for (const name of ["question", "answer"]) item.querySelector("." + name).textContent = item.dataset[name];
  show();
}

function save() {
  const link = document.createElement("a");
  const content = JSON.stringify({ manifest: document.body.dataset.manifest, decisions }, null, 1) + "\n";
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = "decisions.json";
  link.click();
}

const keys = {
  a: () => decide("accept"), d: () => decide("drop"), m: mend, u: undo, s: save,
  j: () => go(place + 1), ArrowDown: () => go(place + 1), k: () => go(place - 1), ArrowUp: () => go(place - 1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-key]"), item = event.target.closest("li.kept");
  if (button) keys[button.dataset.key]();
  else if (item && !event.target.closest("form")) { place = items.indexOf(item); show(); }
});
for (const item of items) {
  for (const name of ["question", "answer"]) item.dataset[name] = text(item, name);
  const one = decisions[item.dataset.id];
  if (one && one.decision === "mend") for (const name of ["question", "answer"]) item.querySelector("." + name).textContent = one[name];
}
show();
