// The controls below a card: how it is judged, and what else can be done with it.

import { element, keyButton } from "./element.js";
import { howMuch, letter } from "./judgment.js";
import { t } from "./words.js";

/** What is judged with. `keys`: the annotator's key map. */
export function controls(draft, keys) {
  return draft.isPair ? pairScale(draft.settings, keys) : rankingControls(draft.settings, keys);
}

function pairScale({ strength, both_bad }, keys) {
  const side = (index, strengths) =>
    element(
      "div",
      { class: "side", role: "group", "aria-label": t("pair.side", { letter: letter(index) }) },
      element("span", { class: "side-name", "aria-hidden": "true" }, t("pair.is", { letter: letter(index) })),
      ...strengths.map((how) => {
        const action = `pair:${index}:${how}`;
        const said = t("pair.said", { letter: letter(index), how: howMuch(how) });
        return keyButton(keys.first(action), howMuch(how), action, { class: `strength-${how}`, "aria-label": said });
      }),
    );
  const middle = [keyButton(keys.first("tie"), t("pair.tie"), "tie", { "aria-label": t("pair.tie_said") })];
  if (both_bad) middle.push(keyButton(keys.first("bad"), t("pair.bad"), "bad"));
  const [left, right] = strength ? [[3, 2, 1], [1, 2, 3]] : [[2], [2]];
  return element("div", { class: "scale" }, side(0, left), element("div", { class: "side middle" }, ...middle), side(1, right));
}

function rankingControls({ both_bad }, keys) {
  const buttons = [keyButton(keys.first("save"), t("rank.save"), "save", { class: "primary" }), keyButton(keys.first("clear"), t("rank.clear"), "clear")];
  if (both_bad) buttons.push(keyButton(keys.first("bad"), t("rank.bad"), "bad"));
  return element("div", { class: "ranking" }, ...buttons);
}

/** What can be done beside a choice. `draft` is null where no card is: only what was judged can be taken back. */
export function extras(draft, keys) {
  const made = [];
  if (draft?.settings.edits) made.push(quiet(keys, "edit", t("edit.next"), { "aria-pressed": "false" }));
  if (draft && draft.settings.rationale !== "off") made.push(quiet(keys, "rationale", t("rationale.open")));
  if (draft) made.push(quiet(keys, "skip", t("do.skip")));
  if (draft && draft.settings.flag_reasons !== null) made.push(quiet(keys, "flag", t("do.flag")));
  return [...made, quiet(keys, "undo", t("do.undo")), quiet(keys, "help", t("menu.help"))];
}

/** How the texts can be seen, and what to read beside them. `can`: what the server has. */
export function views(draft, keys, can) {
  const made = [];
  if (draft.card.html) made.push(quiet(keys, "view", t("view.verbatim"), { "aria-pressed": "false" }));
  if (can.diff) made.push(quiet(keys, "compare", t("view.diff"), { "aria-pressed": "false" }));
  if (can.work) made.push(quiet(keys, "guidelines", t("nav.guidelines")));
  return made;
}

const quiet = (keys, action, label, attributes = {}) => keyButton(keys.first(action), label, action, { class: "quiet", ...attributes });

/** Mark what was said before it was taken back, and what is chosen now. */
export function paintChoice(root, draft) {
  const before = actionOf(draft.previous);
  const now = actionOf(draft.choice);
  for (const button of root.querySelectorAll(".scale [data-do]")) {
    if (button.dataset.do === before) button.dataset.previous = "true";
    else delete button.dataset.previous;
    button.setAttribute("aria-pressed", String(button.dataset.do === now));
  }
}

function actionOf(said) {
  if (said?.ranks?.length !== 2) return null;
  const [left, right] = said.ranks;
  if (left === right) return said.both_bad ? "bad" : "tie";
  return `pair:${left < right ? 0 : 1}:${said.strength ?? 2}`;
}
