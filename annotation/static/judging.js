// The screen on which a card is judged. What is said so far is a draft; a choice that needs nothing else is sent at once.

import { cardNodes, paintDraft } from "./card.js";
import { askDetails, closeDetails, focusDetails, paintDetails } from "./details.js";
import { controls, extras, paintChoice, views } from "./dock.js";
import { forget, keep, recall } from "./drafts.js";
import { closeEditorBar, openEditor } from "./editor.js";
import { button, compared, difference, element, verbatim } from "./element.js";
import { Draft, inWords, letter, standardRanks, withPlainLines } from "./judgment.js";
import { askReason, closeReason } from "./reasons.js";
import { Refused, Unreachable } from "./rest.js";
import { readSetting, writeSetting } from "./settings.js";
import { t } from "./words.js";

const SETTLE_MS = 250; // a second click or a bouncing key does not judge the card that has just come

export class Judging {
  /**
   * @param page knows the annotator's `keys`, what the server `can` do, whether it `showsCards`, and is told of what was
   *   `judged(card, judgment)`.
   */
  constructor(root, desk, voice, clock, page) {
    Object.assign(this, { root, desk, voice, clock, page });
    this.draft = null;
    this.editing = false;
    this.comparing = false;
    this.prepared = new WeakMap(); // nodes of cards that are not on the screen yet
    this.details = root.querySelector(".details");
    this.reasons = root.querySelector(".reason-form");
    this.editorBar = root.querySelector(".editor-bar");
  }

  #find(selector) {
    return this.root.querySelector(selector);
  }

  // ---- what is seen ----------------------------------------------------------------------------------------

  /** Make the nodes of a card that comes next, so that it takes one frame to show it. */
  prepare(card) {
    this.prepared.set(card, cardNodes(card));
  }

  /** Put the card in front on the screen. */
  show() {
    const card = this.desk.front;
    this.draft = card && new Draft(card);
    this.clock.restart();
    this.readyAt = performance.now() + SETTLE_MS;
    const recalled = card !== null && recall(this.desk.annotator.id, this.draft);
    this.render();
    if (card === null) return;
    if (recalled) this.voice.say(t("draft.recalled"));
    const sheet = this.#find(".sheet");
    sheet.dataset.item = card.item_id;
    sheet.dataset.ready = "false";
    clearTimeout(this.settling);
    this.settling = setTimeout(() => (sheet.dataset.ready = "true"), SETTLE_MS + 10);
    if (!this.page.showsCards) return;
    window.scrollTo(0, 0);
    this.focus();
  }

  /** Draw the draft anew: for a card, a language, or other keys. */
  render() {
    const { draft } = this;
    this.editing = false;
    this.comparing = false;
    closeReason(this.reasons);
    closeDetails(this.details);
    closeEditorBar(this.editorBar);
    if (draft === null) {
      this.#find(".controls").replaceChildren();
      this.renderExtras();
      return;
    }
    const { card } = draft;
    const nodes = this.prepared.get(card) ?? cardNodes(card);
    this.prepared.delete(card);
    this.#find(".campaign").textContent = card.campaign;
    this.#find(".prompt").replaceChildren(...nodes.prompt);
    this.#find(".opinions").replaceChildren(...nodes.opinions);
    this.#find(".opinions").hidden = nodes.opinions.length === 0;
    const responses = this.#find(".responses");
    responses.replaceChildren(...nodes.responses);
    responses.dataset.count = String(card.responses.length);
    this.#find(".controls").replaceChildren(controls(draft, this.page.keys));
    this.#find(".status").dataset.hint = t(draft.isPair ? "hint.pair" : "hint.ranking");
    this.renderExtras();
    this.#warn();
    this.paint();
    if (draft.choice) this.#askDetails();
  }

  renderExtras() {
    this.#find(".extras").replaceChildren(...extras(this.draft, this.page.keys));
    if (this.draft === null) return;
    this.#find(".views").replaceChildren(...views(this.draft, this.page.keys, this.page.can));
    this.paint();
  }

  paint() {
    paintDraft(this.root, this.draft);
    paintChoice(this.root, this.draft);
    paintDetails(this.details, this.draft);
    this.#paintEdits();
    const view = this.#view();
    this.#find(".sheet").dataset.view = view;
    this.#pressed("view", view === "verbatim");
    this.#pressed("compare", this.comparing);
    this.#pressed("edit", this.draft.editNext);
    this.#markReason();
    keep(this.desk.annotator.id, this.draft);
  }

  /** Below a response that is edited: what was changed, or the whole text where the server cannot tell. */
  #paintEdits() {
    const { draft } = this;
    this.root.querySelectorAll(".sheet .response").forEach(async (article, index) => {
      const text = draft.edits[index];
      const shown = article.querySelector(".own-edit");
      if (shown?.text === text) return;
      shown?.remove();
      if (text === undefined) return;
      const made = element("div", { class: "own-edit" }, element("h3", { class: "label" }, t("edit.own")), verbatim(text, "difference"));
      made.text = text;
      article.append(made, ...article.querySelectorAll(":scope > .ranks"));
      const parts = this.page.can.diff ? await this.#difference(withPlainLines(draft.card.responses[index]), text) : null;
      if (parts !== null) made.lastChild.replaceWith(difference(parts, "difference"));
    });
  }

  /** A reason that waits for the choice is seen at its button. */
  #markReason() {
    const marked = this.#find('.extras [data-do="rationale"]');
    if (marked === null) return;
    marked.dataset.kept = String(this.draft.isReasoned);
    marked.lastChild.textContent = t(this.draft.isReasoned ? "rationale.is_kept" : "rationale.open");
  }

  #pressed(action, is) {
    this.#find(`[role="toolbar"] [data-do="${action}"]`)?.setAttribute("aria-pressed", String(is));
  }

  #view() {
    if (!this.draft.card.html) return "verbatim";
    return readSetting("rlhf.view") ?? this.draft.settings.view;
  }

  /** What a confirmation is kept under: another person reads it anew. */
  get #warning() {
    return `${this.desk.annotator.id}.${this.draft.card.campaign}`;
  }

  /** Texts that a campaign warns of stay out of sight until the annotator has read the warning, once in a tab. */
  #warn() {
    const { card, settings } = this.draft;
    const wanted = Boolean(settings.content_warning) && !confirmed(this.#warning);
    const texts = this.#find(".texts");
    texts.inert = wanted;
    texts.dataset.blurred = String(wanted);
    const warning = this.#find(".warning");
    warning.hidden = !wanted;
    this.root.dataset.warning = String(wanted);
    if (!wanted) {
      warning.replaceChildren();
      return;
    }
    const go = button(t("warning.go"), "warned", { class: "primary" });
    warning.replaceChildren(element("h2", {}, t("warning.title")), element("p", { dir: "auto" }, settings.content_warning), go);
  }

  /** The keyboard's place is the card again. */
  focus() {
    if (this.root.querySelector("dialog[open]")) return;
    const warned = this.root.dataset.warning === "true" && this.#find(".warning button");
    const gate = this.desk.state === "gate" && this.#find(".gate");
    (warned || gate || this.#find(".sheet")).focus({ preventScroll: true });
  }

  // ---- what is done ----------------------------------------------------------------------------------------

  get isBlocked() {
    return this.draft === null || !this.page.showsCards || this.desk.state !== "card";
  }

  do(action) {
    const [name, ...values] = action.split(":");
    const [first, second] = values.map(Number);
    if (name === "cancel") this.cancel();
    else if (name === "undo") this.desk.undo();
    else if (this.isBlocked || !this.reasons.hidden) return;
    else if (name === "warned") this.#warned();
    else if (this.root.dataset.warning === "true" && !["skip", "flag"].includes(name)) return;
    else if (this.desk.undoing) this.voice.say(t("undo.wait"));
    else if (name === "view") this.#turnView();
    else if (name === "compare") this.#compare();
    else if (this.editing) this.#toEditor();
    else if (name === "skip" || name === "flag") this.#askReason(name);
    else if (name === "edit") this.#edit(first);
    else if (name === "drop") this.#drop(first);
    else if (name === "rationale") this.#rationale();
    else if (name === "bad") this.#bad();
    else if (this.draft.isPair) this.#pair(name, first, second);
    else this.#ranking(name, first, second);
  }

  #pair(name, first, second) {
    if (name === "pair") this.#choose(first === 0 ? [1, 2] : [2, 1], second);
    else if (name === "tie") this.#choose([1, 1], null);
  }

  #ranking(name, first, second) {
    if (name === "cursor") this.mark(this.draft.cursor + first);
    else if (name === "rank") this.#rank(this.draft.cursor, first);
    else if (name === "set") this.#rank(first, second);
    else if (name === "clear") this.#clear();
    else if (name === "save") this.#save();
  }

  #choose(ranks, strength, both_bad = false) {
    if (performance.now() < this.readyAt) return;
    const { draft } = this;
    const isFirst = draft.choice === null;
    draft.choose(ranks, strength, both_bad);
    if (draft.editNext) this.#edit(draft.best);
    else if (isFirst && draft.missing.length === 0) this.#submit(draft.judgment);
    else this.#askDetails();
  }

  #submit(judgment) {
    if (this.desk.undoing || this.desk.front !== this.draft?.card) return;
    const { card } = this.draft;
    forget(this.desk.annotator.id, this.draft);
    this.desk.submit(judgment);
    this.page.judged(card, judgment);
  }

  #bad() {
    const { draft } = this;
    if (!draft.settings.both_bad) return;
    const isRanked = !draft.isPair && !draft.ranks.includes(null);
    this.#choose(isRanked ? standardRanks(draft.ranks) : draft.ranks.map(() => 1), null, true);
  }

  #rank(index, rank) {
    const { ranks } = this.draft;
    if (rank > ranks.length) {
      this.voice.say(t("rank.range", { count: ranks.length }));
      return;
    }
    ranks[index] = rank;
    const after = [...ranks.keys()].map((step) => (index + 1 + step) % ranks.length);
    this.mark(after.find((at) => ranks[at] === null) ?? index);
    if (!ranks.includes(null)) this.voice.say(t("rank.all", { said: inWords({ ranks }), key: this.page.keys.first("save") }));
  }

  /** Move the cursor of a ranking. */
  mark(index) {
    if (this.isBlocked || this.draft.isPair) return;
    this.draft.cursor = Math.min(Math.max(index, 0), this.draft.ranks.length - 1);
    this.paint();
    this.#find('[data-cursor="true"]').scrollIntoView({ block: "nearest" });
  }

  #clear() {
    const { draft } = this;
    if (draft.ranks[draft.cursor] === null && draft.cursor > 0) draft.cursor -= 1;
    draft.ranks[draft.cursor] = null;
    this.mark(draft.cursor);
  }

  #save() {
    const { ranks } = this.draft;
    const missing = ranks.filter((rank) => rank === null).length;
    if (missing === 0) {
      this.#choose(standardRanks(ranks), null);
      return;
    }
    this.voice.say(t("rank.missing", { count: missing }));
    this.mark(ranks.indexOf(null));
  }

  /** Leave what is open, one thing at a time; nothing that was typed is lost. */
  cancel() {
    if (!this.reasons.hidden) {
      closeReason(this.reasons);
      this.focus();
    } else if (!this.details.hidden) {
      if (this.draft.choice) this.voice.say(t("details.taken_back"));
      else if (this.draft.isReasoned) this.voice.say(t("rationale.kept"));
      this.draft.choice = null;
      closeDetails(this.details);
      this.paint();
      this.focus();
    } else if (this.draft?.editNext) {
      this.#edit();
    } else {
      this.desk.keep();
    }
  }

  // ---- what goes with a choice -----------------------------------------------------------------------------

  #askReason(kind) {
    const { skip_reasons, flag_reasons } = this.draft.settings;
    if (performance.now() < this.readyAt || (kind === "flag" && flag_reasons === null)) return;
    askReason(this.reasons, kind, kind === "skip" ? skip_reasons : flag_reasons, (reason) =>
      this.#submit({ kind, ranks: null, strength: null, reason }),
    );
  }

  #rationale() {
    if (this.draft.settings.rationale === "off") return;
    this.#askDetails("rationale");
  }

  #askDetails(wanted = null) {
    const { draft } = this;
    askDetails(this.details, draft, {
      changed: () => this.paint(),
      done: () => {
        if (draft.choice === null) {
          closeDetails(this.details);
          this.voice.say(t("rationale.kept"));
          this.focus();
        } else if (draft.missing.length === 0) {
          this.#submit(draft.judgment);
        } else {
          this.voice.say(t(`missing.${draft.missing[0]}`));
          focusDetails(this.details, draft);
        }
      },
    });
    this.paint();
    focusDetails(this.details, draft, wanted);
  }

  /** Open a response in the editor; without a place, that of the next choice. */
  #edit(index) {
    const { draft } = this;
    if (!draft.settings.edits) return;
    if (index === undefined && draft.choice === null) {
      draft.editNext = !draft.editNext;
      this.voice.say(draft.editNext ? t("edit.next_said") : t("edit.next_off"));
      this.paint();
      return;
    }
    draft.editNext = false;
    const place = index ?? draft.best;
    this.editing = true;
    this.#stopComparing();
    this.paint();
    this.voice.say(t("edit.how", { letter: letter(place) }));
    const original = withPlainLines(draft.card.responses[place]);
    const end = () => {
      this.editing = false;
      this.paint();
      this.#afterEdit();
    };
    openEditor(this.root.querySelectorAll(".sheet .response")[place], this.editorBar, place, original, draft.typed[place] ?? draft.edits[place] ?? original, {
      compare: (old, text) => this.#difference(old, text),
      typed: (text) => {
        draft.type(place, text);
        keep(this.desk.annotator.id, draft);
      },
      save: (text) => {
        draft.edit(place, text);
        if (place in draft.edits) this.voice.say(t("edit.saved", { letter: letter(place) }));
        else this.voice.say(text.trim() === "" ? t("edit.blank", { letter: letter(place) }) : t("edit.same"));
        end();
      },
      leave: () => {
        this.voice.say(t("edit.left"));
        draft.left = true;
        end();
      },
    });
  }

  // The choice that opened the editor is sent, unless the editor was left: then it waits to be confirmed.
  #afterEdit() {
    const { draft } = this;
    const left = draft.left;
    draft.left = false;
    if (draft.choice === null) this.focus();
    else if (!left && draft.missing.length === 0) this.#submit(draft.judgment);
    else this.#askDetails();
  }

  /** The response is as it was. */
  #drop(index) {
    const { draft } = this;
    draft.edit(index, draft.card.responses[index]);
    this.voice.say(t("edit.dropped", { letter: letter(index) }));
    this.paint();
    this.focus();
  }

  #toEditor() {
    this.voice.say(t("edit.first"));
    this.#find(".editor textarea").focus();
  }

  // ---- how the texts are seen ------------------------------------------------------------------------------

  #turnView() {
    if (!this.draft.card.html) return;
    this.#stopComparing();
    const view = this.#view() === "markdown" ? "verbatim" : "markdown";
    writeSetting("rlhf.view", view);
    this.voice.say(t(`view.is_${view}`));
    this.paint();
  }

  /** Show what differs: between the two of a pair, or between the marked response of more and the first other one. */
  async #compare() {
    if (!this.page.can.diff) return;
    if (this.comparing) {
      this.#stopComparing();
      this.paint();
      return;
    }
    const { draft } = this;
    const to = draft.isPair ? 1 : draft.cursor;
    const from = to === 0 ? 1 : 0;
    const parts = await this.#difference(draft.card.responses[from], draft.card.responses[to]);
    if (draft !== this.draft || this.editing || parts === null || parts.length === 0) return;
    this.comparing = true;
    const articles = this.root.querySelectorAll(".sheet .response");
    for (const [index, gone] of [[from, "insert"], [to, "delete"]]) {
      articles[index].querySelector(".label").after(compared(parts.filter(([kind]) => kind !== gone), "compared"));
    }
    this.voice.say(t("view.compared", { old: letter(from), new: letter(to) }));
    this.paint();
  }

  #stopComparing() {
    this.comparing = false;
    for (const shown of this.root.querySelectorAll(".compared")) shown.remove();
  }

  // null where it cannot be had now
  async #difference(old, text) {
    try {
      return (await this.desk.difference(old, text)).parts;
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      this.voice.say(t("view.no_diff", { why: error.message }));
      return null;
    }
  }

  #warned() {
    confirm(this.#warning);
    this.clock.restart();
    this.#warn();
    this.focus();
  }
}

const CONFIRMED = "rlhf.warned.";
const confirmedHere = new Set();

function confirmed(warning) {
  try {
    return confirmedHere.has(warning) || sessionStorage.getItem(CONFIRMED + warning) !== null;
  } catch {
    return confirmedHere.has(warning);
  }
}

function confirm(warning) {
  confirmedHere.add(warning);
  try {
    sessionStorage.setItem(CONFIRMED + warning, "yes");
  } catch {
    // holds for this page only
  }
}
