// Keeps the page `/sale` up to date. Numbers come as events; what is written out in words comes from the page itself.
import { fetchPage } from "/assets/fetch.js";

// An event comes every second or two: after so much silence the connection is dead.
const SILENCE_MAX_MS = 6_000;
const TICK_MS = 250;
const SPARK_POINTS = 61;
const SPARK_EVERY_MS = 1_000;
// The shelf and the rules. The tables that they are read from come a moment after the events; not everybody asks at once.
const WORDS_EVERY_MS = 4_000 + Math.random() * 2_000;
const TABLES_LATE_MS = 6_000;
// How often the stock is told to those who cannot see it.
const SAY_EVERY_MS = 60_000;

const element = (id) => document.getElementById(id);
const board = element("board");
const said = element("said");
const many = new Intl.NumberFormat("en");

let events;
let heardAt = 0;
let sale = null;
// The server's clock less ours.
let ahead = null;
let changedAt = 0;
let wordsAt = 0;
let drawnAt = 0;
let saidAt = 0;
let paces = [];
const leaving = new AbortController();

function listen() {
  events?.close();
  heardAt = performance.now();
  events = new EventSource("/v1/sale/events");
  events.addEventListener("message", ({ data }) => heard(JSON.parse(data)));
  events.addEventListener("closed", () => heard(null));
  events.addEventListener("error", () => set("line", "lost"));
}

function heard(newest) {
  heardAt = performance.now();
  set("line", "live");
  set("state", stateOf(newest));
  if (newest) show(newest);
  sale = newest;
}

function stateOf(newest) {
  if (!newest) return "closed";
  if (newest.sold + newest.reserved < newest.items) return "open";
  return newest.reserved === 0 ? "sold-out" : "taken";
}

// A change of state is said aloud, in the words that are shown.
function set(name, value) {
  if (board.dataset[name] === value) return;
  const before = board.dataset[name];
  board.dataset[name] = value;
  if (before === "snapshot") return;
  const words = board.querySelector(`.${name}.${value}`);
  said.textContent = words ? words.textContent : "The sale goes on.";
}

function show(newest) {
  const isAnother = sale?.sale_id !== newest.sale_id;
  if (isAnother && sale) said.textContent = "A new sale has started.";
  if (isAnother || sale.sold !== newest.sold) changedAt = performance.now();
  if (isAnother) wordsAt = 0;
  // Of several events the one that was quickest knows the time best; a clock may also be set.
  const sample = Date.parse(newest.server_time) - performance.now();
  if (ahead === null || sample > ahead || ahead - sample > 2_000) ahead = sample;
  const free = newest.items - newest.sold - newest.reserved;
  write("free", many.format(free));
  write("free-too", many.format(free));
  write("items", many.format(newest.items));
  write("sold", many.format(newest.sold));
  write("reserved", many.format(newest.reserved));
  write("pace", newest.sold_per_second.toFixed(1));
  for (const time of board.querySelectorAll(".ends")) time.textContent = clock(newest.ends_at);
  const bar = element("bar");
  bar.setAttribute("viewBox", `0 0 ${newest.items} 1`);
  bar.querySelector(".sold").setAttribute("width", newest.sold);
  bar.querySelector(".reserved").setAttribute("x", newest.sold);
  bar.querySelector(".reserved").setAttribute("width", newest.reserved);
}

function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function clock(time) {
  return new Date(time).toISOString().slice(11, 19).replace(/:00$/, "") + " UTC";
}

function tick() {
  const now = performance.now();
  if (document.visibilityState !== "visible") return;
  if (now - heardAt > SILENCE_MAX_MS) {
    set("line", "lost");
    listen();
  }
  if (!sale) return;
  count(now);
  if (now - drawnAt >= SPARK_EVERY_MS) draw(now);
  if (now - saidAt >= SAY_EVERY_MS && board.dataset.line === "live") say(now);
  if (now - wordsAt >= WORDS_EVERY_MS && now - changedAt < TABLES_LATE_MS + WORDS_EVERY_MS) refresh(now);
}

function count(now) {
  const left = Math.max(0, Math.floor((Date.parse(sale.ends_at) - ahead - now) / 1_000));
  const two = (number) => String(number).padStart(2, "0");
  write("left", `${two(Math.floor(left / 60))}:${two(left % 60)}`);
}

function draw(now) {
  drawnAt = now;
  if (board.dataset.line !== "live") return;
  paces = [...paces, sale.sold_per_second].slice(-SPARK_POINTS);
  const top = Math.max(1, ...paces);
  const first = SPARK_POINTS - paces.length;
  const points = paces.map((pace, at) => `${first + at},${(19 - (18 * pace) / top).toFixed(2)}`);
  const spark = element("spark");
  spark.querySelector("polyline").setAttribute("points", points.join(" "));
  spark.querySelector("polygon").setAttribute("points", [`${first},20`, ...points, "60,20"].join(" "));
}

function say(now) {
  if (saidAt > 0) said.textContent = `${element("free").textContent} items are free.`;
  saidAt = now;
}

async function refresh(now) {
  wordsAt = now;
  let page;
  try {
    page = await fetchPage("/sale", leaving.signal);
  } catch {
    return; // The events tell whether the server is there.
  }
  for (const id of ["rules", "last"]) {
    const newest = page.getElementById(id);
    if (newest && !newest.isEqualNode(element(id))) {
      keepKnown(newest.querySelector(".shelf"), element(id).querySelector(".shelf"));
      element(id).replaceChildren(...newest.childNodes);
    }
  }
}

// Pictures that are there already are not loaded anew.
function keepKnown(newest, shown) {
  if (!newest || !shown) return;
  const known = new Map([...shown.children].map((item) => [item.textContent, item]));
  newest.replaceChildren(...[...newest.children].map((item) => known.get(item.textContent) ?? item));
}

// Who looks elsewhere needs no events, and a browser has few connections to a server.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") listen();
  else events.close();
});
addEventListener("pagehide", () => leaving.abort());

listen();
setInterval(tick, TICK_MS);
