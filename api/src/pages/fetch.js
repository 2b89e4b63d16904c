// Loads a page of this server without leaving the one that is shown. Its scripts do not run.
const LONGEST_MS = 20_000;

export async function fetchPage(url, stop) {
  const signal = AbortSignal.any([stop, AbortSignal.timeout(LONGEST_MS)]);
  const answer = await fetch(url, { signal });
  if (!answer.headers.get("content-type")?.startsWith("text/html")) {
    throw new Error(`no page at ${url}`);
  }
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}
