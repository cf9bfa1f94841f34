// From key presses to actions. Every action can have another key.

import { readSetting, writeSetting } from "./settings.js";

const pair = (action, ...keys) => ({ action, when: "pair", keys });
const ranking = (action, ...keys) => ({ action, when: "ranking", keys });
const both = (action, ...keys) => ({ action, when: "card", keys });
const anywhere = (action, ...keys) => ({ action, when: "page", keys });

/** What can be done with a key: with a pair, a ranking of more, either of them, or anywhere on the page. */
export const ACTIONS = [
  pair("pair:0:3", "1"),
  pair("pair:0:2", "2", "ArrowLeft"),
  pair("pair:0:1", "3"),
  pair("tie", "t"),
  pair("pair:1:1", "8"),
  pair("pair:1:2", "9", "ArrowRight"),
  pair("pair:1:3", "0"),
  ...Array.from({ length: 9 }, (_, at) => ranking(`rank:${at + 1}`, String(at + 1))),
  ranking("cursor:-1", "ArrowLeft", "ArrowUp"),
  ranking("cursor:1", "ArrowRight", "ArrowDown"),
  ranking("clear", "Backspace"),
  ranking("save", "Enter"),
  both("bad", "b"),
  both("skip", "s"),
  both("flag", "f"),
  both("edit", "e"),
  both("rationale", "r"),
  both("view", "m"),
  both("compare", "d"),
  anywhere("undo", "u"),
  anywhere("guidelines", "g"),
  anywhere("history", "h"),
  anywhere("help", "?"),
];
const FIXED = ["Escape", "Tab", " "]; // leaving, walking and pressing stay what they are everywhere
const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

/** A key as it is shown. */
export const shownKey = (key) => SIGNS[key] ?? (key.length === 1 ? key.toUpperCase() : key);

/** Which key does what; what an annotator changed is kept in this browser. */
export class KeyMap {
  constructor(annotator) {
    this.name = `rlhf.keymap.${annotator}`;
    this.changed = this.#stored();
  }

  keys(action) {
    return this.changed[action] ? [this.changed[action]] : ACTIONS.find((known) => known.action === action).keys;
  }

  /** The key to name on a button. */
  first(action) {
    return shownKey(this.keys(action)[0]);
  }

  /** Give an action a key; null, or the action that has the key already where both could be meant. */
  assign(action, key) {
    const { when } = ACTIONS.find((known) => known.action === action);
    const meets = (other) => other.when === when || !["pair", "ranking"].includes(when) || !["pair", "ranking"].includes(other.when);
    const taken = ACTIONS.find((other) => other.action !== action && meets(other) && this.keys(other.action).includes(key));
    if (taken) return taken.action;
    this.changed[action] = key;
    this.#store();
    return null;
  }

  reset() {
    this.changed = {};
    this.#store();
  }

  /** The action of a key for a card with so many responses (0: there is none); null where there is none. */
  action(key, numResponses) {
    const now = ["page", ...(numResponses === 0 ? [] : ["card", numResponses === 2 ? "pair" : "ranking"])];
    return ACTIONS.find(({ action, when }) => now.includes(when) && this.keys(action).includes(key))?.action ?? null;
  }

  #stored() {
    try {
      const stored = JSON.parse(readSetting(this.name)) ?? {};
      const known = ACTIONS.map(({ action }) => action);
      return Object.fromEntries(Object.entries(stored).filter(([action, key]) => known.includes(action) && typeof key === "string"));
    } catch {
      return {};
    }
  }

  #store() {
    writeSetting(this.name, JSON.stringify(this.changed));
  }
}

/** Whether a key can be given to an action. */
export const assignable = (key) => key !== "" && !FIXED.includes(key) && !["Shift", "Control", "Alt", "Meta", "AltGraph"].includes(key);

/** The key of a press that is meant for us; null for one that is not: typing, a browser's own, one held down. */
export function pressed(event) {
  if (event.repeat || event.isComposing || event.keyCode === 229) return null;
  if (event.ctrlKey || event.altKey || event.metaKey) return null;
  const target = event.composedPath()[0];
  if (target instanceof Element) {
    if (target.closest("input, textarea, select, [contenteditable], [role='radiogroup']")) return null;
    // Enter on a button presses the button.
    if (event.key === "Enter" && target.closest("button, a, summary")) return null;
    if (event.key.startsWith("Arrow") && scrolls(target, event.key)) return null;
  }
  return keyName(event) || null;
}

// Digits by their place on the keyboard, where some layouts have other signs; letters by what they say, or by their
// place where the layout has no Latin letters.
export function keyName(event) {
  if (event.key === "?") return "?";
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit && !event.shiftKey && (event.code.startsWith("Digit") || /^\d$/.test(event.key))) return digit[1];
  if (event.shiftKey) return "";
  if (event.key.length === 1 && event.key.codePointAt(0) > 127) return /^Key([A-Z])$/.exec(event.code)?.[1].toLowerCase() ?? "";
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

// An arrow in a wide table or a block of code moves that.
function scrolls(target, key) {
  const [size, seen] = key === "ArrowLeft" || key === "ArrowRight" ? ["scrollWidth", "clientWidth"] : ["scrollHeight", "clientHeight"];
  const box = target.closest("[tabindex='0']");
  return box !== null && box[size] > box[seen];
}
