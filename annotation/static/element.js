// Elements are made here and nowhere else: a string can only become text or the value of an attribute we name.

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
  if (text.trim() === "") made.dataset.blank = "true";
  return made;
}

/** A button for a key: what it says, and the key that does the same. */
export function keyButton(key, label, action, attributes = {}) {
  return element(
    "button",
    { type: "button", "data-do": action, "aria-keyshortcuts": key, ...attributes },
    element("kbd", { "aria-hidden": "true" }, key),
    element("span", {}, label),
  );
}
