// What the page says, in the annotator's language. All texts are in strings.*.json; none is in the scripts.

import { readSetting } from "./settings.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };
const AGAIN_MS = 1000;
const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

let language = "en";
let texts = {};
let plurals = new Intl.PluralRules("en");

/** Load the texts of the chosen language, or else of the browser's. Waits until they are there: nothing works without. */
export async function speak() {
  for (;;) {
    const chosen = wanted();
    try {
      const answer = await fetch(`/static/strings.${chosen}.json`);
      if (answer.ok) {
        const found = await answer.json();
        if (chosen !== wanted()) continue; // another one was chosen meanwhile
        texts = found;
        language = chosen;
        break;
      }
    } catch {
      // not connected
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
  plurals = new Intl.PluralRules(language);
  document.documentElement.lang = language;
}

function wanted() {
  const chosen = [readSetting("rlhf.language"), ...navigator.languages].map((tag) => tag?.split("-")[0].toLowerCase());
  return chosen.find((tag) => tag in LANGUAGES) ?? "en";
}

/** The text of a key with its {places} filled in; with a `count`, in the form that the number takes. */
export function t(key, values = {}) {
  const text = texts[key] ?? texts[`${key}.${plurals.select(values.count ?? 0)}`] ?? key;
  return text.replaceAll(/\{(\w+)\}/g, (place, name) => (name in values ? apart(String(values[name])) : place));
}

/** What is written from right to left does not turn the sentence around it: Unicode's isolates (UAX 9). */
function apart(value) {
  return RIGHT_TO_LEFT.test(value) ? `\u2068${value}\u2069` : value;
}

/** Fill in the texts that the page's template names. */
export function translate(root) {
  for (const made of root.querySelectorAll("[data-text]")) made.textContent = t(made.dataset.text);
  for (const made of root.querySelectorAll("[data-label]")) made.setAttribute("aria-label", t(made.dataset.label));
  for (const made of root.querySelectorAll("[data-title]")) made.title = t(made.dataset.title);
}

export function moment(seconds) {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds * 1000));
}

export function percent(share) {
  return new Intl.NumberFormat(language, { style: "percent" }).format(share);
}

export function number(value) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(value);
}

/** "1 h 5 min", "40 s" */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return t("time.seconds", { seconds: whole });
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return t("time.minutes", { minutes });
  return t("time.hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}
