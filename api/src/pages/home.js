// Keeps the state on the page `/` up to date: asks for the page again and again, and takes the state from it.
import { fetchPage } from "/assets/fetch.js";

const EVERY_MS = 2_000;
const state = document.getElementById("state");
const unreachable = document.getElementById("unreachable");

async function newestState() {
  try {
    const page = await fetchPage("/", new AbortController().signal);
    return page.querySelector("#state > section");
  } catch {
    return unreachable.content.firstElementChild.cloneNode(true);
  }
}

async function refresh() {
  if (document.visibilityState === "visible") {
    const newest = await newestState();
    // What is replaced is read out: only if there is something new.
    if (!newest.isEqualNode(state.firstElementChild)) {
      state.replaceChildren(newest);
    }
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
