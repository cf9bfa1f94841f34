// Elements are made here and nowhere else: a string can only become text or the value of an attribute we name.

import { t } from "./words.js";

/** An element with attributes and children; children that are strings become text nodes. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Text that someone else wrote, as it is: line breaks and spaces kept, its own writing direction, closed off. */
export function verbatim(text, className) {
  const made = element("div", { class: `verbatim ${className}`, dir: "auto" }, text);
  if (text.trim() === "") made.dataset.blank = t("text.empty");
  return made;
}

/**
 * Someone's Markdown as the server shows it. The only place where a string becomes markup: all of it has been through
 * annotation.rendering, which lets nothing through that could act or ask another machine for anything.
 */
export function rendered(html, className) {
  const made = element("div", { class: `rendered ${className}`, dir: "auto" });
  made.innerHTML = html;
  sizes.observe(made);
  return made;
}

// Blocks that are wider than their place can be scrolled by keyboard.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    for (const block of target.querySelectorAll("*")) {
      const scrolls = block.scrollWidth > block.clientWidth && ["auto", "scroll"].includes(getComputedStyle(block).overflowX);
      if (scrolls) block.tabIndex = 0;
      else block.removeAttribute("tabindex");
    }
  }
});

/** Words that came, went or stayed from one text to another. */
export function difference(parts, className) {
  const tags = { insert: "ins", delete: "del", equal: "span" };
  return element("div", { class: `verbatim ${className}`, dir: "auto" }, ...parts.map(([kind, text]) => element(tags[kind], {}, text)));
}

// Blocks between fences and spans between backticks.
const CODE = /^ {0,3}(`{3,}|~{3,})[^]*?(?:^ {0,3}\1[`~]*|(?![^]))|(`+)(?!`)[^\n]*?[^`\n]\2(?!`)/gm;

/** One of two texts, with what the other one lacks marked; code is set as code. `parts` are `[kind, text]`. */
export function compared(parts, className) {
  const whole = parts.map(([, text]) => text).join("");
  const edges = [...whole.matchAll(CODE)].flatMap((found) => [found.index, found.index + found[0].length]);
  const made = element("div", { class: `verbatim ${className}`, dir: "auto" });
  let at = 0;
  for (const [kind, text] of parts) {
    const node = element(kind === "equal" ? "span" : "mark", {});
    const end = at + text.length;
    for (const to of [...edges.filter((edge) => at < edge && edge < end), end]) {
      const isCode = edges.filter((edge) => edge <= at).length % 2 === 1;
      node.append(isCode ? element("code", {}, whole.slice(at, to)) : whole.slice(at, to));
      at = to;
    }
    made.append(node);
  }
  return made;
}

/** A button that says what it does. */
export function button(label, action, attributes = {}) {
  return element("button", { type: "button", "data-do": action, ...attributes }, label);
}

/** A button for a key: what it says, and the key that does the same (null where none does). */
export function keyButton(key, label, action, attributes = {}) {
  return element(
    "button",
    { type: "button", "data-do": action, "aria-keyshortcuts": key, ...attributes },
    key === null ? null : element("kbd", { "aria-hidden": "true" }, key),
    element("span", {}, label),
  );
}
