// What is seen of one item: the prompt, its responses, and what others said of them. Made before it is shown.

import { element, rendered, verbatim } from "./element.js";
import { inWords, letter } from "./judgment.js";
import { t } from "./words.js";

const ROLES = ["system", "user", "assistant"];

/** The nodes of a card: `{prompt, opinions, responses}`. */
export function cardNodes(card) {
  const { edits } = card.settings ?? {};
  return {
    prompt: promptParts(card.prompt, card.html?.prompt),
    opinions: (card.opinions ?? []).length > 0 ? [opinionList(card.opinions)] : [],
    responses: card.responses.map((text, index) => responseCard(text, card.html?.responses?.[index], index, card.responses.length, edits)),
  };
}

/** A text in both views; which one is seen is up to the sheet. */
function views(text, html) {
  const plain = verbatim(text, "content");
  return html === undefined || html === null ? [plain] : [plain, rendered(html, "markdown")];
}

function promptParts(messages, html) {
  const turns = messages.map((message, at) => turn(message, html?.[at]));
  const earlier = turns.slice(0, -1);
  if (earlier.length === 0) return turns;
  return [element("details", { class: "earlier" }, element("summary", {}, t("prompt.earlier", { count: earlier.length })), ...earlier), turns.at(-1)];
}

function turn(message, html) {
  const known = ROLES.includes(message.role);
  const role = known ? t(`role.${message.role}`) : message.role;
  return element("div", { class: `turn two-views ${known ? message.role : ""}` }, element("h2", { class: "label" }, role), ...views(message.content, html));
}

function responseCard(text, html, index, count, edits) {
  const name = t("response.name", { letter: letter(index) });
  const label = element("span", { class: "letter", "aria-hidden": "true" }, letter(index));
  const head = element("header", { class: "label" }, label, element("h2", {}, name), element("span", { class: "edited" }), element("span", { class: "rank" }));
  if (edits) {
    const said = t("edit.name", { letter: letter(index) });
    const drop = t("edit.drop_name", { letter: letter(index) });
    head.append(element("button", { type: "button", class: "quiet", "data-do": `edit:${index}`, "aria-label": said }, t("edit.this")));
    head.append(element("button", { type: "button", class: "quiet", "data-do": `drop:${index}`, "aria-label": drop, hidden: true }, t("edit.drop")));
  }
  const card = element("article", { class: "response two-views", "data-index": index, "aria-label": name }, head, ...views(text, html));
  if (count > 2) card.append(rankButtons(index, count));
  return card;
}

function rankButtons(index, count) {
  const buttons = Array.from({ length: count }, (_, at) => {
    const attributes = { "data-do": `set:${index}:${at + 1}`, "aria-pressed": "false", "aria-label": t("rank.set", { rank: at + 1 }) };
    return element("button", { type: "button", ...attributes }, element("kbd", {}, String(at + 1)));
  });
  const group = { class: "ranks", role: "group", "aria-label": t("rank.of", { letter: letter(index) }) };
  const hint = (text) => element("span", { class: "hint", "aria-hidden": "true" }, text);
  return element("div", group, hint(t("rank.best")), ...buttons, hint(t("rank.worst")));
}

function opinionList(opinions) {
  const rows = opinions.map((opinion) =>
    element(
      "li",
      {},
      element("span", { class: "label" }, t("opinions.who", { number: opinion.who })),
      element("div", {}, element("strong", {}, inWords(opinion)), opinion.rationale ? verbatim(opinion.rationale, "why") : null),
    ),
  );
  return element("div", {}, element("h2", { class: "label" }, t("opinions.title", { count: opinions.length })), element("ol", {}, ...rows));
}

/** Show ranks, the cursor, what is edited, and whether all is ranked. */
export function paintDraft(root, draft) {
  const { ranks, cursor, edits, isPair } = draft;
  root.querySelectorAll(".sheet .response").forEach((card, index) => {
    card.querySelector(".edited").textContent = index in edits ? t("edit.done") : "";
    card.querySelector("[data-do^='drop:']")?.toggleAttribute("hidden", !(index in edits));
    if (isPair) return;
    const rank = ranks[index];
    card.dataset.cursor = String(index === cursor);
    card.dataset.ranked = String(rank !== null);
    card.querySelector(".rank").textContent = rank === null ? "" : t("rank.is", { rank });
    card.querySelectorAll(".ranks button").forEach((button, at) => button.setAttribute("aria-pressed", String(rank === at + 1)));
  });
  root.querySelector('[data-do="save"]')?.setAttribute("aria-disabled", String(ranks.includes(null)));
}
