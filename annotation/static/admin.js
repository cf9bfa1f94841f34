// Says on the managers' page what could not be done, which Gradio does not for handlers that it calls without its queue.

const ASKED = ["/admin/gradio_api/run/predict", "/admin/gradio_api/upload"];
const SIGNS = { "<br>": "\n", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&amp;": "&" };
const LANGUAGES = ["en", "de"];

const plainFetch = window.fetch;
const language = navigator.languages.map((tag) => tag.split("-")[0].toLowerCase()).find((tag) => LANGUAGES.includes(tag)) ?? "en";
const words = plainFetch(`/static/strings_admin.${language}.json`).then((answer) => answer.json());

const place = document.createElement("div");
place.className = "problem";
place.setAttribute("role", "alert");

/** Show a message until it is closed or something else is done; with `signIn`, the way to do that. */
async function tell(text, signIn = false) {
  const { failed, close, sign_in } = await words;
  const title = document.createElement("strong");
  title.textContent = failed;
  const said = document.createElement("p");
  said.textContent = text;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = close;
  button.addEventListener("click", clear);
  const link = document.createElement("a");
  link.href = "/login?to=/admin";
  link.textContent = sign_in;
  place.replaceChildren(title, said, ...(signIn ? [link] : []), button);
}

function clear() {
  place.replaceChildren();
}

/** What the server said: an error of a handler, which is written as HTML, or a refusal. */
async function reason(answer) {
  try {
    const { error, detail } = await answer.json();
    if (error) return Object.entries(SIGNS).reduce((text, [written, sign]) => text.replaceAll(written, sign), error);
    if (detail) return detail;
  } catch {
    // a proxy may have answered
  }
  return (await words).status.replace("{status}", answer.status);
}

window.fetch = async (...request) => {
  const { pathname } = new URL(request[0]?.url ?? request[0], location.href);
  if (!ASKED.includes(pathname)) return plainFetch(...request);
  let answer;
  try {
    answer = await plainFetch(...request);
  } catch (error) {
    if (error.name !== "AbortError") tell((await words).unreachable);
    throw error;
  }
  if (!answer.ok) reason(answer.clone()).then((text) => tell(text, answer.status === 401));
  return answer;
};

/** Sort the rows of a table by the column of a head, the other way round if they are; what is unknown comes last. */
function sort(head) {
  const table = head.closest("table");
  const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[head.cellIndex];
    return { row, unknown: "none" in cell.dataset, order: Number(cell.dataset.order), text: cell.textContent.trim() };
  });
  const figures = rows.every(({ unknown, order }) => unknown || !Number.isNaN(order));
  const compared = (a, b) => (figures ? a.order - b.order : a.text.localeCompare(b.text, language, { numeric: true }));
  rows.sort((a, b) => a.unknown - b.unknown || (a.unknown ? 0 : way * compared(a, b)));
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

document.addEventListener("click", (event) => {
  const head = event.target.closest("th:has(> .sort)");
  if (head) sort(head);
});
document.addEventListener("click", (event) => event.target.closest("button") && !place.contains(event.target) && clear(), { capture: true });
document.body.append(place);
