// Why an item is skipped or flagged: one of the campaign's reasons, or one's own words.

import { element } from "./element.js";
import { t } from "./words.js";

const MAX_LENGTH = 1000;

/** Open the form for a "skip" or a "flag"; `done(reason)` when it is sent. */
export function askReason(form, kind, offered, done) {
  const input = { name: "reason", maxlength: MAX_LENGTH, placeholder: t(`${kind}.placeholder`), autocomplete: "off", dir: "auto", "aria-label": t(`${kind}.why`), required: kind === "flag" };
  const reasons = offered.map((reason, at) =>
    element("button", { type: "button", class: "reason", "data-reason": reason }, at < 9 ? element("kbd", { "aria-hidden": "true" }, String(at + 1)) : null, element("span", { dir: "auto" }, reason)),
  );
  const send = element("button", { class: "primary" }, element("kbd", { "aria-hidden": "true" }, "Enter"), element("span", {}, t(`${kind}.send`)));
  const cancel = element("button", { type: "button", "data-do": "cancel" }, element("kbd", { "aria-hidden": "true" }, "Esc"), element("span", {}, t("cancel")));
  form.replaceChildren(
    ...(reasons.length > 0 ? [element("div", { class: "reasons", role: "group", "aria-label": t(`${kind}.reasons`) }, ...reasons)] : []),
    element("input", input),
    send,
    cancel,
  );
  form.className = `reason-form ${kind}-form`;
  form.hidden = false;
  form.onclick = (event) => {
    const chosen = event.target.closest("[data-reason]");
    if (chosen) done(chosen.dataset.reason);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    done(form.elements.reason.value.trim());
  };
  // A digit picks a reason; anything else that is typed goes into the field.
  form.onkeydown = (event) => {
    if (event.target === form.elements.reason || event.ctrlKey || event.altKey || event.metaKey || event.key.length !== 1 || event.key === " ") return;
    event.stopPropagation(); // the keys of the card rest meanwhile
    const reason = /^[1-9]$/.test(event.key) ? offered[Number(event.key) - 1] : undefined;
    if (reason === undefined) form.elements.reason.focus();
    else if (!event.repeat) {
      event.preventDefault();
      done(reason);
    }
  };
  // Enter skips at once; a flag wants a reason.
  (reasons.length === 0 ? form.elements.reason : kind === "skip" ? send : reasons[0]).focus();
}

export function closeReason(form) {
  form.hidden = true;
  form.replaceChildren();
}
