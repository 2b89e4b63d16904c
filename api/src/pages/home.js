// Keeps what is said of this moment on the page `/` up to date: asks for the page again and again, and takes it from there.
import { fetchPage } from "/assets/fetch.js";

const EVERY_MS = 2_000;
const state = document.getElementById("state");
const sale = document.getElementById("sale");
const unreachable = document.getElementById("unreachable");

async function newest() {
  try {
    const page = await fetchPage("/", new AbortController().signal);
    return [page.querySelector("#state > section"), page.querySelector("#sale > p")];
  } catch {
    return [unreachable.content.firstElementChild.cloneNode(true), null];
  }
}

// What is replaced is read out: only if there is something new.
function show(place, newest) {
  const shown = place.firstElementChild;
  if (newest ? !newest.isEqualNode(shown) : shown) {
    place.replaceChildren(...(newest ? [newest] : []));
  }
}

async function refresh() {
  if (document.visibilityState === "visible") {
    const [newState, newSale] = await newest();
    show(state, newState);
    show(sale, newSale);
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
