// One pair at a time. The server knows how far this rater is, so a reload shows the same pair again.
"use strict";
const byId = (id) => document.getElementById(id);
const SMALL = 128; // Pixels a side, up to which pictures are shown as squares.
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", z: "undo", Backspace: "undo" };
let now = null;   // The state that is shown.
let open = false; // Whether both pictures are there and not voted on.
let busy = false; // From a request until what it brought is shown: an undo must not overtake a vote.

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options || {});
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer.json();
}

async function load(side, id) {
  const image = new Image();
  image.src = `i/${id}`;
  await image.decode();
  return () => {
    image.alt = side;
    image.draggable = false;
    image.classList.add("there");
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL);
    byId(side).querySelector("img").replaceWith(image); // The picture itself: an address would be asked for again.
  };
}

async function show(state) {
  now = state;
  const { done, total, pair } = state;
  byId("count").textContent = `${done} of ${total}`;
  byId("bar").style.width = `${(100 * done) / total}%`;
  byId("bar").parentElement.setAttribute("aria-valuemax", total);
  byId("bar").parentElement.setAttribute("aria-valuenow", done);
  byId("undo").disabled = done === 0;
  byId("pair").hidden = pair === null;
  byId("end").hidden = pair !== null;
  for (const side of ["left", "right"]) byId(side).querySelector("img").classList.remove("there");
  for (const id of ["left", "right", "tie"]) byId(id).disabled = true;
  if (pair === null) return;
  byId("question").textContent = state.question;
  const sides = ["left", "right"].map((side) => load(side, state[side]));
  // Delayed, each picture appears when it comes; otherwise both at once, so that the network favours none.
  if (state.delay) await Promise.all(sides.map(async (side) => (await side)()));
  else for (const put of await Promise.all(sides)) put();
  for (const id of ["left", "right", "tie"]) byId(id).disabled = false;
  open = true;
}

async function act(what) {
  if (busy || now === null || (what !== "undo" && !open) || (what === "undo" && now.done === 0)) return;
  open = false;
  await attempt(() => (what === "undo" ? ask("undo", {}) : ask("vote", { pair: now.pair, choice: what })));
}

async function attempt(request) {
  busy = true;
  try {
    const state = await request();
    byId("trouble").hidden = true;
    await show(state);
  } catch (error) {
    byId("trouble").textContent = `The server did not answer (${error.message}). Nothing is lost: reload this page.`;
    byId("trouble").hidden = false;
  } finally {
    busy = false;
  }
}

addEventListener("keydown", (event) => {
  const what = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!what || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act(what);
});
for (const id of ["left", "right", "tie", "undo"]) byId(id).addEventListener("click", () => act(id));
attempt(() => ask("state"));
