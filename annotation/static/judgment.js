// What is said of a card: a draft while it is made, and in words.

import { t } from "./words.js";

// What a campaign asks for where it says nothing.
const DEFAULTS = {
  both_bad: false,
  strength: true,
  edits: false,
  rationale: "off",
  aspects: [],
  skip_reasons: [],
  flag_reasons: null,
  content_warning: null,
  view: "verbatim",
};

export const settingsOf = (card) => ({ ...DEFAULTS, ...card.settings });

export const letter = (index) => String.fromCharCode(65 + index);

/** "A is much better", "tie": a judgment in words. */
export function inWords({ kind = "ranking", ranks, strength, both_bad }) {
  if (kind === "skip") return t("said.skip");
  if (kind === "flag") return t("said.flag");
  if (!ranks) return "";
  const said = both_bad && new Set(ranks).size === 1 ? t(ranks.length === 2 ? "said.both_bad" : "said.all_bad") : order(ranks, strength);
  return both_bad && new Set(ranks).size > 1 ? t("said.though_bad", { said }) : said;
}

function order(ranks, strength) {
  if (ranks.length === 2) {
    if (ranks[0] === ranks[1]) return t("said.tie");
    return t("said.better", { letter: letter(ranks[0] < ranks[1] ? 0 : 1), how: howMuch(strength) });
  }
  const sorted = ranks.map((rank, index) => [rank, letter(index)]).sort((one, other) => one[0] - other[0]);
  return sorted.map(([rank, name], at) => (at === 0 ? name : `${rank === sorted[at - 1][0] ? " = " : " > "}${name}`)).join("");
}

export const howMuch = (strength) => t(`strength.${[1, 2, 3].includes(strength) ? strength : 2}`);

/** Ranks as the trainers read them: 1 + the number of responses that are strictly better. */
export function standardRanks(ranks) {
  return ranks.map((rank) => 1 + ranks.filter((other) => other < rank).length);
}

/** A text with the line ends that a field for text gives it. */
export const withPlainLines = (text) => text.replaceAll(/\r\n?/g, "\n");

/** A rating that was given before, if the campaign still has that many levels. */
const ratingOf = (rating, levels) => (rating <= levels ? rating : null);

/** What has been said of a card so far; nothing of it is lost while the annotator looks at something else. */
export class Draft {
  constructor(card) {
    const { previous } = card; // what was said of it before, if it is judged again
    const count = card.responses.length;
    this.card = card;
    this.settings = settingsOf(card);
    this.previous = previous ?? null;
    this.ranks = previous?.ranks && count > 2 ? [...previous.ranks] : Array(count).fill(null);
    this.cursor = 0;
    this.choice = null; // ranks, strength and both_bad, as soon as it is made
    this.rationale = previous?.rationale ?? "";
    this.aspects = Object.fromEntries(this.settings.aspects.map(({ name, levels }) => [name, Array(count).fill(null).map((_, at) => ratingOf(previous?.aspects?.[name]?.[at], levels))]));
    this.edits = { ...previous?.edits }; // better texts, by the place of the response
    this.typed = {}; // and what was typed towards them and is not saved
    this.editNext = false; // the next choice opens the editor
    this.atFirst = JSON.stringify(this.written);
  }

  /** All that has been said beside the choice. */
  get written() {
    const { ranks, rationale, aspects, edits, typed } = this;
    return { ranks, rationale, aspects, edits, typed };
  }

  get isUntouched() {
    return JSON.stringify(this.written) === this.atFirst;
  }

  get isReasoned() {
    return this.settings.rationale !== "off" && this.rationale.trim() !== "";
  }

  get isPair() {
    return this.card.responses.length === 2;
  }

  choose(ranks, strength, both_bad) {
    this.choice = { ranks, strength: this.settings.strength ? strength : null, both_bad };
  }

  /** The response that is preferred; the first one where there is none. */
  get best() {
    return this.choice ? this.choice.ranks.indexOf(1) : 0;
  }

  /** Text that is on its way to a better one. */
  type(index, text) {
    if (text === withPlainLines(this.edits[index] ?? this.card.responses[index])) delete this.typed[index];
    else this.typed[index] = text;
  }

  /** A text as it was, whatever its line ends, or without a word, is no better one. */
  edit(index, text) {
    delete this.typed[index];
    if (text.trim() === "" || withPlainLines(text) === withPlainLines(this.card.responses[index])) delete this.edits[index];
    else this.edits[index] = text;
  }

  /** What the campaign asks for and is not said yet. */
  get missing() {
    const missing = [];
    if (Object.values(this.aspects).flat().includes(null)) missing.push("aspects");
    if (this.settings.rationale === "required" && this.rationale.trim() === "") missing.push("rationale");
    return missing;
  }

  /** As the server takes it; what the campaign does not ask for is not sent. */
  get judgment() {
    const { ranks, strength, both_bad } = this.choice;
    return {
      kind: "ranking",
      ranks,
      strength,
      reason: null,
      ...(this.settings.both_bad && { both_bad }),
      ...(this.settings.aspects.length > 0 && { aspects: this.aspects }),
      ...(this.settings.rationale !== "off" && this.rationale.trim() !== "" && { rationale: this.rationale.trim() }),
      ...(this.settings.edits && Object.keys(this.edits).length > 0 && { edits: this.edits }),
    };
  }
}
