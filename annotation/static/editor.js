// A response made better by hand, in its place, with what changed shown below. What ends it is in the dock, in view.

import { button, difference, element } from "./element.js";
import { letter } from "./judgment.js";
import { t } from "./words.js";

const PAUSE_MS = 250; // in typing, before the changes are looked at

/** Put away what ends the editor. */
export function closeEditorBar(bar) {
  bar.hidden = true;
  bar.replaceChildren();
}

/**
 * Open the editor in a response's card, and what ends it in a `bar`. `compare(old, new)` gives the parts of the difference, or null if it cannot;
 * `typed(text)` is told of every change; `save(text)` and `leave(text)` end it.
 */
export function openEditor(article, bar, index, original, text, { compare, typed, save, leave }) {
  const field = element("textarea", { "aria-label": t("edit.field", { letter: letter(index) }), dir: "auto", spellcheck: "true" });
  field.value = text;
  const changes = element("div", { class: "changes", tabindex: "0", role: "group", "aria-label": t("edit.changes") });
  bar.replaceChildren(
    button(t("edit.save"), "edit-save", { class: "primary", "aria-keyshortcuts": "Control+Enter" }),
    button(t("edit.leave"), "edit-leave", { "aria-keyshortcuts": "Escape" }),
  );
  bar.children[0].prepend(element("kbd", { "aria-hidden": "true" }, "Ctrl Enter"));
  bar.children[1].prepend(element("kbd", { "aria-hidden": "true" }, "Esc"));
  bar.hidden = false;
  const editor = element("div", { class: "editor" }, field, element("h3", { class: "label" }, t("edit.changes")), changes);

  let timer;
  let asked = 0;
  const look = async () => {
    const number = ++asked;
    const parts = field.value === original ? [] : await compare(original, field.value);
    if (number !== asked) return;
    changes.replaceChildren(parts?.length === 0 ? element("p", { class: "quiet-text" }, t("edit.unchanged")) : difference(parts ?? [], "difference"));
  };
  const grow = () => {
    const page = document.scrollingElement;
    const top = page.scrollTop;
    field.style.height = "auto"; // for a moment the page is shorter, and may scroll
    field.style.height = `${field.scrollHeight + 2}px`;
    page.scrollTop = top;
  };
  const end = (how) => {
    clearTimeout(timer);
    asked += 1;
    article.removeAttribute("data-editing");
    editor.remove();
    closeEditorBar(bar);
    how(field.value);
  };
  field.oninput = () => {
    grow();
    typed(field.value);
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  };
  editor.onkeydown = bar.onkeydown = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) end(save);
    else if (event.key === "Escape") end(leave);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  bar.onclick = (event) => {
    const action = event.target.closest("[data-do]")?.dataset.do;
    if (action === "edit-save") end(save);
    if (action === "edit-leave") end(leave);
    if (action) event.stopPropagation();
  };
  article.dataset.editing = "true";
  article.append(editor);
  look();
  grow();
  field.focus({ preventScroll: true });
  field.setSelectionRange(0, 0);
  editor.scrollIntoView({ block: "nearest" });
}
