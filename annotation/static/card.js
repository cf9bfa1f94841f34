// What is seen of one item: the prompt, its responses, and the controls to judge them.

import { element, keyButton, verbatim } from "./element.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant" };
const HOW_MUCH = { 1: "slightly better", 2: "better", 3: "much better" };

export const letter = (index) => String.fromCharCode(65 + index);

/** "A is much better", "tie": a judgment in words. */
export function inWords(kind, ranks, strength) {
  if (kind === "skip") return "skipped";
  if (ranks.length === 2) {
    if (ranks[0] === ranks[1]) return "tie";
    return `${letter(ranks[0] < ranks[1] ? 0 : 1)} is ${HOW_MUCH[strength] ?? "better"}`;
  }
  const order = ranks.map((rank, index) => [rank, letter(index)]).sort((one, other) => one[0] - other[0]);
  return order.map(([rank, name], at) => (at === 0 ? name : `${rank === order[at - 1][0] ? " = " : " > "}${name}`)).join("");
}

/** Ranks as the trainers read them: 1 + the number of responses that are strictly better. */
export function standardRanks(ranks) {
  return ranks.map((rank) => 1 + ranks.filter((other) => other < rank).length);
}

export function promptParts(messages) {
  const turns = messages.map(turn);
  const earlier = turns.slice(0, -1);
  if (earlier.length === 0) return turns;
  const count = earlier.length === 1 ? "1 earlier message" : `${earlier.length} earlier messages`;
  return [element("details", { class: "earlier" }, element("summary", {}, count), ...earlier), turns.at(-1)];
}

function turn(message) {
  const role = ROLES[message.role] ?? message.role;
  return element("div", { class: `turn ${message.role in ROLES ? message.role : ""}` }, element("h3", {}, role), verbatim(message.content, "content"));
}

export function responseCards(responses) {
  return responses.map((text, index) => responseCard(text, index, responses.length));
}

function responseCard(text, index, count) {
  const name = `Response ${letter(index)}`;
  const badge = element("span", { class: "rank" });
  const head = element("h3", {}, element("span", { class: "letter", "aria-hidden": "true" }, letter(index)), element("span", {}, name), badge);
  const card = element("article", { class: "response", "data-index": index, "aria-label": name }, head, verbatim(text, "content"));
  if (count > 2) card.append(rankButtons(index, count));
  return card;
}

function rankButtons(index, count) {
  const buttons = Array.from({ length: count }, (_, at) => {
    const attributes = { "data-do": `set:${index}:${at + 1}`, "aria-pressed": "false", "aria-label": `Rank ${at + 1}` };
    return element("button", { type: "button", ...attributes }, element("kbd", {}, String(at + 1)));
  });
  const group = { class: "ranks", role: "group", "aria-label": `Rank of response ${letter(index)}` };
  return element("div", group, element("span", { class: "hint", "aria-hidden": "true" }, "best"), ...buttons, element("span", { class: "hint", "aria-hidden": "true" }, "worst"));
}

export function controls(numResponses) {
  const choice = numResponses === 2 ? [pairScale()] : [rankingControls()];
  const aside = element("div", { class: "aside" }, keyButton("S", "Skip", "skip"), keyButton("U", "Undo", "undo"));
  return [...choice, aside, skipForm()];
}

function pairScale() {
  const side = (index, keys, strengths) =>
    element(
      "div",
      { class: "side", role: "group", "aria-label": `Response ${letter(index)} is better` },
      element("span", { class: "side-name", "aria-hidden": "true" }, `${letter(index)} is`),
      ...keys.map((key, at) => {
        const action = `pair:${index}:${strengths[at]}`;
        const said = `Response ${letter(index)} is ${HOW_MUCH[strengths[at]]}`;
        return keyButton(key, HOW_MUCH[strengths[at]], action, { class: `strength-${strengths[at]}`, "aria-label": said });
      }),
    );
  const tie = element("div", { class: "side middle" }, element("span", { class: "side-name" }), keyButton("T", "tie", "tie", { "aria-label": "Tie" }));
  return element("div", { class: "scale" }, side(0, ["1", "2", "3"], [3, 2, 1]), tie, side(1, ["8", "9", "0"], [1, 2, 3]));
}

function rankingControls() {
  const save = keyButton("Enter", "Save ranking", "save", { class: "primary" });
  return element("div", { class: "ranking" }, save, keyButton("Backspace", "Clear", "clear"));
}

function skipForm() {
  const input = { id: "skip-reason", name: "reason", maxlength: "1000", placeholder: "Reason (optional)", autocomplete: "off", dir: "auto", "aria-label": "Why do you skip this item? Optional" };
  return element(
    "form",
    { class: "skip-form", hidden: true },
    element("input", input),
    element("button", { class: "primary" }, element("kbd", { "aria-hidden": "true" }, "Enter"), element("span", {}, "Skip this item")),
    element("button", { type: "button", "data-do": "cancel" }, element("kbd", { "aria-hidden": "true" }, "Esc"), element("span", {}, "Cancel")),
  );
}

/** Show ranks, the cursor and whether all is ranked. */
export function paintRanks(root, ranks, cursor) {
  root.querySelectorAll(".response").forEach((card, index) => {
    const rank = ranks[index];
    card.dataset.cursor = String(index === cursor);
    card.dataset.ranked = String(rank !== null);
    card.querySelector(".rank").textContent = rank === null ? "" : `rank ${rank}`;
    card.querySelectorAll(".ranks button").forEach((button, at) => button.setAttribute("aria-pressed", String(rank === at + 1)));
  });
  const save = root.querySelector('[data-do="save"]');
  if (save) save.setAttribute("aria-disabled", String(ranks.includes(null)));
}

/** Mark the button of what was said before it was taken back. */
export function paintPrevious(root, previous) {
  root.querySelectorAll(".scale [data-previous]").forEach((button) => delete button.dataset.previous);
  if (previous?.kind !== "ranking" || previous.ranks.length !== 2) return;
  const [left, right] = previous.ranks;
  const action = left === right ? "tie" : `pair:${left < right ? 0 : 1}:${previous.strength}`;
  const button = root.querySelector(`.scale [data-do="${CSS.escape(action)}"]`);
  if (button) button.dataset.previous = "true";
}
