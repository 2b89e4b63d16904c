// Keeps the page `/log` up to date: asks for the page again and again, and takes its numbers from there.
import { fetchPage } from "/assets/fetch.js";

const EVERY_MS = 2_000;
const state = document.getElementById("state");
const unreachable = document.getElementById("unreachable");

// What is replaced is read out: only if there is something new.
function replace(shown, newest) {
  if (shown && newest && !shown.isEqualNode(newest)) {
    shown.replaceChildren(...newest.cloneNode(true).childNodes);
  }
}

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const page = await fetchPage("/log", new AbortController().signal);
      replace(state, page.getElementById("state"));
      replace(document.getElementById("numbers"), page.getElementById("numbers"));
      let before = document.getElementById("next");
      for (const newest of page.querySelectorAll("details")) {
        const shown = document.getElementById(newest.id);
        if (shown) {
          // Whether one is open is for the reader to say: only what is in it is replaced.
          replace(shown.querySelector("tbody"), newest.querySelector("tbody"));
        } else {
          // Nobody knew of it yet when this page was loaded.
          before.after(newest);
        }
        before = shown ?? newest;
      }
    } catch {
      const away = document.createElement("div");
      away.append(unreachable.content.cloneNode(true));
      replace(state, away);
    }
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
