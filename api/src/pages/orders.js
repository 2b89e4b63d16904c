// Finds orders without loading the page anew: so a server that is away is told here and not by the browser, and a screen
// reader hears the outcome alone. Without this script the form does the same.
import { fetchPage } from "/assets/fetch.js";

const form = document.getElementById("search");
const uid = document.getElementById("uid");
const said = document.getElementById("said");
const result = document.getElementById("result");
const unreachable = document.getElementById("unreachable");
let running = new AbortController();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const url = new URL(form.action);
  url.search = new URLSearchParams(new FormData(form));
  if (url.href !== location.href) {
    history.pushState(null, "", url);
  }
  show(url);
});

addEventListener("popstate", () => {
  const url = new URL(location.href);
  uid.value = url.searchParams.get("uid") ?? "";
  show(url);
});

async function show(url) {
  // Only the newest question is answered.
  running.abort();
  running = new AbortController();
  const { signal } = running;
  said.textContent = "";
  result.ariaBusy = "true";
  let page;
  try {
    page = await fetchPage(url, signal);
  } catch {
    page = null;
  }
  if (signal.aborted) return;
  const hadFocus = result.contains(document.activeElement);
  const found = page ? page.getElementById("result") : unreachable.content.cloneNode(true);
  result.replaceChildren(...found.childNodes);
  result.ariaBusy = "false";
  const headline = result.querySelector("h2")?.textContent ?? "Find an order";
  document.title = `${headline} – Millrace`;
  said.textContent = headline;
  if (hadFocus) result.focus();
}
