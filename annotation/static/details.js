// What a campaign asks for beside the choice: a rating of each response by several aspects, and why.

import { element } from "./element.js";
import { inWords, letter } from "./judgment.js";
import { t } from "./words.js";

const MAX_LENGTH = 10_000;

/** Show the panel for a draft; `changed()` when something was said in it, `done()` when it is sent. */
export function askDetails(form, draft, { changed, done }) {
  const { settings } = draft;
  const parts = [];
  if (settings.aspects.length > 0) parts.push(aspects(draft));
  if (settings.rationale !== "off") parts.push(rationale(draft));
  const send = element("button", { class: "primary" }, element("kbd", { "aria-hidden": "true" }, "Ctrl Enter"), element("span", { class: "send" }));
  const back = element("button", { type: "button", "data-do": "cancel" }, element("kbd", { "aria-hidden": "true" }, "Esc"), element("span", {}, t("details.back")));
  const chosen = element("p", { class: "chosen", role: "status" });
  form.replaceChildren(element("div", { class: "asked" }, ...parts), element("div", { class: "decide" }, chosen, send, back));
  form.hidden = false;
  form.oninput = (event) => {
    if (event.target.name === "rationale") draft.rationale = event.target.value;
    else if (event.target.type === "radio") rate(draft, event.target);
    changed();
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    done();
  };
  form.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      done();
    } else if (event.target.type === "radio" && /^\d$/.test(event.key) && !event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      digit(form, event.target, event.key);
    }
  };
  paintDetails(form, draft);
}

/** What has been chosen so far, in words. */
export function paintDetails(form, draft) {
  if (form.hidden) return;
  form.querySelector(".chosen").textContent = draft.choice ? inWords(draft.choice) : t("details.no_choice");
  form.querySelector(".send").textContent = draft.choice ? t("details.send") : t("details.keep");
  form.querySelector(".decide .primary").setAttribute("aria-disabled", String(draft.choice !== null && draft.missing.length > 0));
}

/** Go to the first thing that is not said yet; "rationale" goes there in any case. */
export function focusDetails(form, draft, wanted = null) {
  const open = draft.missing.includes("aspects") && wanted === null ? [...form.querySelectorAll("[role='radiogroup']")].find((group) => !group.querySelector(":checked")) : null;
  const field = form.elements.rationale;
  const place = open?.querySelector("input") ?? (wanted === "rationale" || draft.missing.includes("rationale") ? field : null) ?? form.querySelector(".decide .primary");
  place.focus();
}

export function closeDetails(form) {
  form.hidden = true;
  form.replaceChildren();
}

function aspects(draft) {
  const count = draft.card.responses.length;
  const head = element("tr", {}, element("td", {}), ...draft.card.responses.map((_, index) => element("th", { scope: "col" }, letter(index))));
  const rows = draft.settings.aspects.map(({ name, levels }, at) => {
    const cells = Array.from({ length: count }, (_, index) => element("td", {}, scale(draft, name, levels, at, index)));
    return element("tr", {}, element("th", { scope: "row", dir: "auto" }, name), ...cells);
  });
  return element("table", { class: "aspects" }, element("caption", {}, t("aspects.title")), element("thead", {}, head), element("tbody", {}, ...rows));
}

function scale(draft, name, levels, at, index) {
  const radios = Array.from({ length: levels }, (_, step) => {
    const attributes = { type: "radio", name: `aspect-${at}-${index}`, value: String(step + 1), checked: draft.aspects[name][index] === step + 1, "data-aspect": name, "data-index": index };
    return element("label", {}, element("input", attributes), element("span", {}, String(step + 1)));
  });
  return element("div", { role: "radiogroup", "aria-label": t("aspects.of", { name, letter: letter(index), levels }) }, ...radios);
}

function rate(draft, radio) {
  draft.aspects[radio.dataset.aspect][Number(radio.dataset.index)] = Number(radio.value);
}

// A digit rates, and goes on to the next one that is not rated.
function digit(form, radio, key) {
  const group = radio.closest("[role='radiogroup']");
  const meant = group.querySelector(`input[value="${key}"]`);
  if (!meant) return;
  meant.checked = true;
  meant.dispatchEvent(new Event("input", { bubbles: true }));
  const groups = [...form.querySelectorAll("[role='radiogroup']")];
  const next = [...groups.slice(groups.indexOf(group) + 1), ...groups].find((other) => !other.querySelector(":checked"));
  (next?.querySelector("input") ?? form.elements.rationale ?? form.querySelector(".decide .primary")).focus();
}

function rationale(draft) {
  const attributes = { name: "rationale", rows: "2", maxlength: MAX_LENGTH, dir: "auto", required: draft.settings.rationale === "required" };
  const field = element("textarea", attributes, draft.rationale);
  const label = draft.settings.rationale === "required" ? t("rationale.label") : t("rationale.label_optional");
  return element("label", { class: "rationale" }, element("span", {}, label), field);
}
