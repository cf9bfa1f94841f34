// The page of an annotator: its screens, its menu and dialogs, and where keys and clicks go.

import { Desk } from "./desk.js";
import { keepSent } from "./drafts.js";
import { Guidelines } from "./guidelines.js";
import { History } from "./history.js";
import { Judging } from "./judging.js";
import { KeyMap, pressed } from "./keys.js";
import { Live } from "./live.js";
import { KeyMapEditor, helpRows, setUpMenu } from "./menu.js";
import { gate, message } from "./message.js";
import { Refused, Unreachable } from "./rest.js";
import { applyTheme, readSetting, writeSetting } from "./settings.js";
import { ActiveClock } from "./tab.js";
import { Voice } from "./voice.js";
import { speak, t, translate } from "./words.js";
import { Work } from "./work.js";

const JUDGING = { judge: "work", adjudicate: "adjudication" }; // screens with cards, and which
const GATE_MS = 1000; // guidelines are not accepted sooner
const DIALOGS = { help: "help", guidelines: "guide" }; // that their key closes as well
const ADJUDICATORS = ["adjudicator", "manager"];

export async function start(component) {
  applyTheme();
  await speak();
  const page = new Page(component.querySelector(".judge"));
  await page.open();
}

class Page {
  constructor(root) {
    this.root = root;
    this.screen = "judge";
    this.can = {}; // what the server offers
    this.keys = new KeyMap("");
    this.keysOn = readSetting("rlhf.keys") !== "off";
    this.clock = new ActiveClock();
    this.voice = new Voice(root);
    this.desk = new Desk(this.clock, this.voice, {
      met: () => this.#met(),
      shown: () => this.#shown(),
      arrived: (card) => this.judging.prepare(card),
      refused: (body) => keepSent(this.desk.annotator.id, body),
      painted: () => this.#paint(),
    });
    this.judging = new Judging(root, this.desk, this.voice, this.clock, this);
    this.screens = { history: new History(this), work: new Work(this), guidelines: new Guidelines(this), live: new Live(this) };
    // Gradio's frame has a landmark of its own around ours
    for (let outer = root.parentElement; outer; outer = outer.parentElement) if (outer.matches("main")) outer.setAttribute("role", "none");
  }

  async open() {
    this.#translate();
    this.#listen();
    await this.desk.open();
  }

  // ---- screens ---------------------------------------------------------------------------------------------

  /** Whether cards are on the screen. */
  get showsCards() {
    return this.screen in JUDGING;
  }

  go(screen) {
    if (location.hash === `#${screen}`) this.#route();
    else location.hash = screen;
  }

  /** Put a card in front of the annotator, from whichever screen. */
  judge(card, previous) {
    this.desk.put(card, previous);
    this.go(card.kind === "adjudication" ? "adjudicate" : "judge");
    this.desk.sync();
  }

  /** A card was judged. */
  judged(card, judgment) {
    if (card.kind !== "live") return;
    this.screens.live.judged(card, judgment);
    this.go("live");
  }

  /** The server does not have a screen. */
  missing(screen) {
    this.can[screen] = false;
    this.#paintLinks();
    this.go("judge");
  }

  #route() {
    const wanted = location.hash.slice(1);
    const screen = this.#isThere(wanted) ? wanted : "judge";
    const before = this.screen;
    if (before !== screen) this.screens[before]?.close();
    this.screen = screen;
    this.clock.turnTo(this.showsCards);
    this.root.dataset.screen = screen in JUDGING ? "judge" : screen;
    for (const [name, { place }] of Object.entries(this.screens)) place.hidden = name !== screen;
    for (const link of this.root.querySelectorAll(".screens a")) {
      if (link.hash === `#${screen}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = t("page.title_of", { screen: t(`nav.${screen}`) });
    if (screen in JUDGING) {
      this.desk.turnTo(JUDGING[screen]);
      this.judging.focus();
    } else {
      window.scrollTo(0, 0);
      this.screens[screen].place.focus({ preventScroll: true });
      this.screens[screen].open();
    }
    this.#paint();
  }

  #isThere(screen) {
    return screen === "judge" || (this.desk.annotator !== null && this.can[screen] === true);
  }

  /** The annotator is known. */
  async #met() {
    const { annotator } = this.desk;
    this.root.querySelector(".who").textContent = annotator.name;
    this.root.querySelector(".manage").hidden = annotator.role !== "manager";
    this.root.querySelector(".password").hidden = !annotator.has_password;
    this.keys = new KeyMap(annotator.id);
    this.editor = new KeyMapEditor(this.root.querySelector(".keymap"), this.keys, () => this.#keysChanged());
    this.#keysChanged();
    await this.#discover();
    this.#paintLinks();
    this.judging.renderExtras();
    // someone may be writing by now: the keyboard's place moves only if another screen was asked for
    const wanted = location.hash.slice(1);
    if (wanted !== this.screen && this.#isThere(wanted)) this.#route();
  }

  /** Which screens the server has, so that none is asked for in vain. */
  async #discover() {
    let paths = {};
    try {
      paths = (await (await fetch("/openapi.json")).json()).paths;
    } catch {
      // there is no description, or it cannot be read: cards can be judged all the same
    }
    const has = (path) => `/api/v1/${path}` in paths;
    this.can = {
      history: has("history"),
      work: has("work"),
      guidelines: has("work"),
      diff: has("diff"),
      adjudicate: has("adjudication/next") && ADJUDICATORS.includes(this.desk.annotator.role),
      live: has("live") && (await this.screens.live.isOffered()),
    };
  }

  #paintLinks() {
    for (const link of this.root.querySelectorAll(".screens a[href^='#']")) link.hidden = !this.#isThere(link.hash.slice(1));
    this.root.querySelector(".screens").hidden = !Object.values(this.can).includes(true);
  }

  // ---- what is seen ----------------------------------------------------------------------------------------

  #translate() {
    translate(this.root);
    setUpMenu(this.root.querySelector(".menu"), () => this.#translate());
    this.#paintKeys();
    this.painted = null;
    this.judging.render();
    this.screens[this.screen]?.close();
    for (const screen of Object.values(this.screens)) screen.show();
    this.#route();
  }

  #keysChanged() {
    for (const shown of this.root.querySelectorAll("[data-key]")) shown.textContent = this.keys.first(shown.dataset.key);
    this.judging.render();
  }

  #shown() {
    // what was taken back may be work of the other kind
    if (this.showsCards && JUDGING[this.screen] !== this.desk.mode) this.go(this.desk.mode === "work" ? "judge" : "adjudicate");
    this.judging.show();
    this.#paint();
  }

  #paint() {
    const { desk } = this;
    const { state } = desk;
    this.root.dataset.state = state;
    if (state !== "card") this.root.querySelector(".campaign").textContent ||= t("page.title");
    this.#paintMessage(state);
    const unsent = desk.unsent;
    const note = desk.outbox?.durable === false ? t("unsent.here_only") : "";
    this.root.querySelector(".unsent").textContent = unsent ? t("unsent", { count: unsent }) + note : "";
    this.root.querySelector(".connection").textContent = desk.trouble ? t("retrying", { trouble: desk.trouble }) : "";
    this.root.querySelector(".link-state").dataset.trouble = String(Boolean(desk.trouble));
    if (desk.progress) this.#paintProgress(desk.progress);
  }

  /** Only when it changed: it is read aloud, and may be scrolled. */
  #paintMessage(state) {
    const { desk } = this;
    const now = JSON.stringify([state, desk.mode, desk.trouble, desk.unsent, desk.gate, desk.progress, document.documentElement.lang]);
    if (now === this.painted) return;
    this.painted = now;
    this.root.querySelector(".message").replaceChildren(...message(desk));
    const place = this.root.querySelector(".gate");
    place.hidden = state !== "gate";
    const before = place.dataset.of ?? "";
    place.dataset.of = JSON.stringify([desk.gate, document.documentElement.lang]);
    if (state === "gate" && before !== place.dataset.of) {
      place.replaceChildren(...gate(desk.gate));
      this.gateAt = performance.now();
      if (this.showsCards) place.focus({ preventScroll: true });
    }
  }

  #paintProgress({ judged, skipped, flagged, available, total, done }) {
    const mine = judged + skipped + flagged + available;
    const share = (number) => `${mine ? (100 * number) / mine : 0}%`;
    const passedBy = (skipped ? t("progress.skipped", { skipped }) : "") + (flagged ? t("progress.flagged", { flagged }) : "");
    const said = t("progress.judged", { judged, mine }) + passedBy;
    const waits = this.desk.mode === "adjudication" && this.desk.waiting !== null;
    this.root.querySelector(".mine").textContent = waits ? t("adjudicate.waiting", { count: this.desk.waiting }) : said;
    this.root.querySelector(".everyone").textContent = t("progress.everyone", { done, total });
    this.root.querySelector(".meter-judged").style.width = share(judged);
    this.root.querySelector(".meter-skipped").style.width = share(skipped + flagged);
    const meter = this.root.querySelector(".meter");
    meter.setAttribute("aria-valuemax", String(mine));
    meter.setAttribute("aria-valuenow", String(judged));
    meter.setAttribute("aria-valuetext", said);
  }

  #help() {
    const dialog = this.root.querySelector(".help");
    if (dialog.open) {
      dialog.close();
      return;
    }
    dialog.querySelector(".help-keys").replaceChildren(...helpRows(this.keys, this.desk.front?.responses.length ?? 2));
    dialog.showModal();
  }

  #toggleKeys() {
    this.keysOn = !this.keysOn;
    writeSetting("rlhf.keys", this.keysOn ? "on" : "off");
    this.#paintKeys();
  }

  #paintKeys() {
    const button = this.root.querySelector('[data-do="keys"]');
    button.textContent = t(this.keysOn ? "menu.keys_on" : "menu.keys_off");
    button.setAttribute("aria-pressed", String(this.keysOn));
    this.root.dataset.keys = this.keysOn ? "on" : "off";
  }

  // ---- what is done ----------------------------------------------------------------------------------------

  #do(action) {
    const [name, ...rest] = action.split(":");
    if (name === "help") this.#help();
    else if (name === "keys") this.#toggleKeys();
    else if (name === "keymap") this.editor?.open();
    else if (name === "keymap-change") this.editor.change(rest.join(":"));
    else if (name === "keymap-reset") this.editor.reset();
    else if (name === "retry") this.desk.sync();
    else if (name === "reopen") this.screens[this.screen]?.open();
    else if (name === "accept") this.#accept();
    else if (name === "history" && this.can.history) this.go(this.screen === "history" ? "judge" : "history");
    else if (name === "guidelines" && this.can.work) this.#guidelines();
    else if (this.screens[this.screen]) this.screens[this.screen].do?.(action);
    else this.judging.do(action);
  }

  #guidelines() {
    const dialog = this.root.querySelector(".guide");
    if (dialog.open) dialog.close();
    else if (this.showsCards && this.desk.front) this.screens.guidelines.read(dialog, this.desk.front.campaign);
    else this.go("guidelines");
  }

  async #accept() {
    try {
      await this.desk.accept(this.desk.gate);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      this.voice.notice(error.message);
      this.desk.sync();
    }
  }

  #listen() {
    document.addEventListener("keydown", (event) => this.#key(event));
    this.root.addEventListener("click", (event) => {
      const target = event.target.closest("[data-do]");
      if (target) this.#do(target.dataset.do);
      else if (!window.getSelection()?.toString()) this.#pick(event.target.closest(".response"));
    });
    this.root.addEventListener("submit", (event) => this.#submitted(event));
    window.addEventListener("hashchange", () => this.#route());
    window.addEventListener("online", () => this.desk.sync());
    window.addEventListener("offline", () => this.desk.lost());
    window.addEventListener("beforeunload", (event) => {
      if (this.desk.unsent > 0 && !this.desk.ended) event.preventDefault();
    });
    window.addEventListener("pagehide", () => this.desk.leave());
    window.addEventListener("pageshow", (event) => event.persisted && location.reload());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.desk.returned();
    });
  }

  #key(event) {
    if (event.key === "Escape" && !event.isComposing) {
      // dialogs and the menu close by themselves
      if (this.showsCards && !this.root.querySelector("dialog[open], :popover-open")) this.judging.cancel();
      return;
    }
    if (!this.keysOn || this.root.querySelector(":popover-open")) return;
    const key = pressed(event);
    const judging = this.showsCards;
    if (key === "Enter" && judging && this.desk.state === "gate" && !this.root.querySelector("dialog[open]")) {
      event.preventDefault();
      // the Enter that saved a ranking does not accept what comes up at that moment
      if (this.desk.gate.kind === "guideline" && performance.now() > this.gateAt + GATE_MS) this.#accept();
      return;
    }
    const action = key && this.keys.action(key, judging ? (this.desk.front?.responses.length ?? 0) : 0);
    const dialog = this.root.querySelector("dialog[open]");
    if (!action || (dialog && dialog.className !== DIALOGS[action])) return;
    if (action === "undo" && !judging) return;
    event.preventDefault();
    this.#do(action);
  }

  #pick(response) {
    if (response?.dataset.index) this.judging.mark(Number(response.dataset.index));
  }

  async #submitted(event) {
    const form = event.target;
    if (form.matches(".live-form")) {
      event.preventDefault();
      this.screens.live.submitted(form);
    } else if (form.matches(".sign-out") && this.desk.annotator && !this.desk.ended) {
      event.preventDefault();
      await this.desk.release();
      form.submit();
    }
  }
}
