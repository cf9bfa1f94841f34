// What an annotator sets up for themselves: language, colours, keys.

import { button, element } from "./element.js";
import { ACTIONS, assignable, keyName, shownKey } from "./keys.js";
import { applyTheme, readSetting, writeSetting } from "./settings.js";
import { LANGUAGES, speak, t } from "./words.js";

const THEMES = ["system", "light", "dark"];

/** Fill the menu's two lists; `changed()` after another language was chosen. */
export function setUpMenu(menu, changed) {
  const [language, theme] = [menu.querySelector("[name='language']"), menu.querySelector("[name='theme']")];
  const option = (value, text) => element("option", { value }, text);
  language.replaceChildren(option("", t("menu.browser")), ...Object.entries(LANGUAGES).map(([tag, name]) => option(tag, name)));
  language.value = readSetting("rlhf.language") ?? "";
  theme.replaceChildren(...THEMES.map((name) => option(name, t(`theme.${name}`))));
  theme.value = readSetting("rlhf.theme") ?? "system";
  language.onchange = async () => {
    writeSetting("rlhf.language", language.value || null);
    await speak();
    changed();
  };
  theme.onchange = () => {
    writeSetting("rlhf.theme", theme.value);
    applyTheme();
  };
}

/** Rows of the help for a card with so many responses. */
export function helpRows(keys, numResponses) {
  const when = ["page", "card", numResponses > 2 ? "ranking" : "pair"];
  const known = ACTIONS.filter((known) => when.includes(known.when) && !known.action.startsWith("rank:"));
  const rows = known.map(({ action }) => helpRow(keys.keys(action), t(`action.${action}`)));
  if (numResponses > 2) {
    const last = Math.min(numResponses, 9);
    const ranks = element("span", {}, kbd(keys.keys("rank:1")[0]), t("to"), kbd(keys.keys(`rank:${last}`)[0]));
    rows.unshift(element("div", { class: "help-row" }, ranks, element("span", {}, t("help.ranks"))));
  }
  return rows;
}

const kbd = (key) => element("kbd", {}, shownKey(key));

function helpRow(keys, text) {
  return element("div", { class: "help-row" }, element("span", {}, ...keys.map(kbd)), element("span", {}, text));
}

/** The editor of the key map. */
export class KeyMapEditor {
  constructor(dialog, keys, changed) {
    Object.assign(this, { dialog, keys, changed });
    this.waiting = null; // the action that gets the next key
    dialog.addEventListener("keydown", (event) => this.#key(event));
    dialog.addEventListener("close", () => this.#wait(null));
  }

  open() {
    this.#say("");
    this.#draw();
    this.dialog.showModal();
  }

  /** Give the action of a button the next key that is pressed. */
  change(action) {
    this.#wait(action);
    this.#say(t("keymap.press", { action: t(`action.${action}`) }));
  }

  reset() {
    this.keys.reset();
    this.#wait(null);
    this.#say(t("keymap.is_reset"));
    this.changed();
  }

  #draw() {
    const groups = ["pair", "ranking", "card", "page"].map((when) => {
      const rows = ACTIONS.filter((known) => known.when === when).map(({ action }) => {
        const said = this.keys.keys(action).map(shownKey).join(" ");
        const name = t(`action.${action}`);
        const change = button(said, `keymap-change:${action}`, { "aria-label": t("keymap.change", { action: name, key: said }), "aria-pressed": String(this.waiting === action) });
        return element("div", { class: "keymap-row" }, element("span", {}, name), change);
      });
      return element("section", {}, element("h3", { class: "label" }, t(`keymap.${when}`)), ...rows);
    });
    this.dialog.querySelector(".keymap-rows").replaceChildren(...groups);
  }

  #key(event) {
    if (this.waiting === null || event.ctrlKey || event.altKey || event.metaKey || event.key === "Tab") return;
    event.stopPropagation();
    event.preventDefault(); // Escape would close the dialog
    if (event.repeat) return;
    if (event.key === "Escape") {
      this.#wait(null);
      this.#say(t("keymap.unchanged"));
      return;
    }
    const key = keyName(event);
    if (!assignable(key)) return;
    const action = this.waiting;
    const taken = this.keys.assign(action, key);
    if (taken) {
      this.#say(t("keymap.taken", { key: shownKey(key), action: t(`action.${taken}`) }));
      return;
    }
    this.#wait(null);
    this.#say(t("keymap.changed", { key: shownKey(key), action: t(`action.${action}`) }));
    this.changed();
  }

  #wait(action) {
    const was = this.waiting;
    this.waiting = action;
    this.#draw();
    const place = this.dialog.querySelector(`[data-do="${CSS.escape(`keymap-change:${action ?? was}`)}"]`);
    if (this.dialog.open) place?.focus();
  }

  #say(text) {
    this.dialog.querySelector(".keymap-said").textContent = text;
  }
}
