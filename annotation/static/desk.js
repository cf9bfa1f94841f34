// What the annotator has on the desk. One loop, `sync`, does all that needs the server, one thing after the other: find
// out who works here, send what is unsent, take back what is to be taken back, fetch cards until two are here: one is
// shown, and the next one is ready to be. What fails is tried again later; nothing that was judged is forgotten meanwhile.

import { inWords } from "./judgment.js";
import { Outbox } from "./outbox.js";
import { Refused, Unreachable, call } from "./rest.js";
import { tabId } from "./tab.js";
import { t } from "./words.js";

const CARDS_AHEAD = 2;
const RENEW_MS = 60_000;
const AWAY_MS = 10 * 60_000; // whoever does nothing for longer lets the leases run out
const LOOK_AGAIN_MS = 30_000;
const RETRY_SECONDS = [0.5, 1, 2, 4, 8, 15];
// Where the next card of each kind of work comes from.
const SOURCES = { work: "next", adjudication: "adjudication/next" };

export class Desk {
  /**
   * @param clock how long someone has been at work in this tab.
   * @param voice what is said in passing.
   * @param view told of changes: `met()` the annotator is known, `shown()` another card lies in front, `arrived(card)` one lies
   *   ready behind it, `refused(body)` a judgment was not taken, `painted()` anything else.
   */
  constructor(clock, voice, view) {
    this.clock = clock;
    this.voice = voice;
    this.view = view;
    this.queues = { work: [], adjudication: [] }; // of each, the first one is on the screen
    this.mode = "work";
    this.annotator = null;
    this.progress = null;
    this.gate = null; // what stands before the work
    this.waiting = null; // adjudications that wait for anyone
    this.undoing = null;
    this.trouble = null;
    this.attempt = 0;
    this.outbox = null;
  }

  async open() {
    this.client = await tabId();
    await this.sync();
    setInterval(() => this.renew(), RENEW_MS);
    setInterval(() => this.cards.length === 0 && !document.hidden && this.sync(), LOOK_AGAIN_MS);
  }

  get cards() {
    return this.queues[this.mode];
  }

  /** The card in front, or null. */
  get front() {
    return this.cards[0] ?? null;
  }

  get unsent() {
    return this.outbox?.size ?? 0;
  }

  get state() {
    if (this.ended) return "ended";
    if (this.front) return "card";
    if (this.gate && this.mode === "work") return "gate";
    if (this.trouble) return "away";
    return this.looked ? "empty" : "loading";
  }

  /** Work, or adjudications. */
  turnTo(mode) {
    if (mode === this.mode) return;
    this.mode = mode;
    this.looked = false;
    this.view.shown();
    this.sync();
  }

  call(path, body, options = {}) {
    return call(path, { body: { client: this.client, ...body }, annotator: this.annotator.id, ...options });
  }

  get(path) {
    return call(path, { method: "GET", annotator: this.annotator.id });
  }

  /** Words that come, go and stay from one text to another. */
  difference(old, text) {
    return call("diff", { body: { old, new: text }, annotator: this.annotator.id });
  }

  // ---- the loop --------------------------------------------------------------------------------------------

  async sync() {
    if (this.ended) return;
    if (this.syncing) {
      this.again = true;
      return;
    }
    this.syncing = true;
    clearTimeout(this.timer);
    try {
      do {
        this.again = false;
        await this.#round();
      } while (this.again);
      this.#answered();
    } catch (error) {
      this.#failed(error);
    } finally {
      this.syncing = false;
      this.view.painted();
    }
  }

  /** The network went away; the loop would find out at the next request only. */
  lost() {
    if (!this.syncing && !this.ended) this.#failed(new Unreachable(t("rest.unreachable")));
    this.view.painted();
  }

  async #round() {
    if (!this.annotator) this.#meet(await call("progress", { method: "GET" }));
    const left = await this.#send();
    if (this.undoing && !this.outbox.holdsNewest) await this.#takeBack();
    await this.#fetchCards();
    if (left) throw left;
  }

  #meet(answer) {
    this.annotator = answer.annotator;
    this.progress = answer.progress;
    this.outbox = new Outbox(this.annotator.id, (body) => this.call("judgments", body, { keepalive: true }));
    this.view.met();
  }

  async #send() {
    let missed = false;
    const left = await this.outbox.drain({
      saved: (entry, answer) => {
        this.progress = answer.progress;
        this.#answered();
        this.voice.say(t("said.saved", { said: entry.said }), "saved");
        this.view.painted();
      },
      refused: (entry, error) => {
        this.voice.notice(t("said.not_saved", { said: entry.said, why: error.message }));
        this.view.refused(entry.body);
        this.view.painted();
        missed = true;
      },
    });
    // what else this tab has may be with somebody else too
    if (missed) setTimeout(() => this.renew());
    return left;
  }

  async #takeBack() {
    const undo = this.undoing;
    undo.sent = true;
    try {
      const { undone, progress } = await this.call("undo", { id: undo.id });
      this.progress = progress;
      if (undone === null) {
        this.voice.say(t("undo.nothing"));
      } else if (undone.card === null) {
        this.voice.say(t("undo.gone"));
      } else {
        this.put(undone.card, undone.previous);
        this.voice.say(t("undo.done", { said: inWords(undone.previous) }));
      }
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 401) throw error;
      this.voice.notice(t("undo.refused", { why: error.message }));
    }
    this.undoing = null;
  }

  async #fetchCards() {
    const mode = this.mode;
    const ids = () => [...this.queues[mode].map((card) => card.item_id), ...this.outbox.items];
    while (this.queues[mode].length < CARDS_AHEAD && mode === this.mode) {
      const answer = await this.call(SOURCES[mode], { exclude: ids() });
      this.progress = answer.progress ?? this.progress;
      this.gate = answer.gate ?? null;
      this.waiting = answer.waiting ?? null;
      this.#answered();
      const card = answer.card;
      if (card === null) break;
      // an answer that was on its way while this one was asked for may have brought or judged it
      if (ids().includes(card.item_id)) continue;
      this.queues[mode].push(card);
      if (mode === this.mode && this.cards.length === 1) this.view.shown();
      else this.view.arrived(card);
    }
    if (mode === this.mode) this.looked = true;
    else this.again = true;
  }

  #answered() {
    this.attempt = 0;
    this.trouble = null;
  }

  #failed(error) {
    if (error instanceof Refused && error.status === 401) {
      this.ended = error.message;
      this.undoing = null;
      return;
    }
    if (!(error instanceof Unreachable)) console.error(error);
    const message = error instanceof Unreachable || error instanceof Refused ? error.message : t("rest.failed");
    const seconds = Math.max(RETRY_SECONDS[Math.min(this.attempt, RETRY_SECONDS.length - 1)], error.seconds ?? 0);
    this.attempt += 1;
    this.trouble = message;
    clearTimeout(this.timer);
    // a little apart, so that all tabs of a team do not come back at the same moment
    this.timer = setTimeout(() => this.sync(), seconds * 1000 * (1 + Math.random() / 4));
  }

  // ---- what the annotator does -----------------------------------------------------------------------------

  /** Put a card in front, with what was said of it before. */
  put(card, previous) {
    this.mode = card.kind === "adjudication" ? "adjudication" : "work";
    this.queues[this.mode] = [{ ...card, previous }, ...this.cards.filter((other) => other.item_id !== card.item_id)];
    this.view.shown();
  }

  /** The card in front has been judged. */
  submit(judgment) {
    const card = this.cards.shift();
    const active_ms = Math.min(this.clock.read(), 2 ** 31 - 1);
    const said = inWords(judgment);
    this.outbox.add({ client: this.client, id: crypto.randomUUID(), item_id: card.item_id, ...judgment, active_ms }, said);
    this.looked = false;
    this.voice.say(t("said.saving", { said }));
    this.view.shown();
    this.sync();
  }

  undo() {
    if (!this.annotator || this.undoing || this.ended) return;
    this.undoing = { id: crypto.randomUUID(), sent: false };
    this.voice.say(this.outbox.holdsNewest ? t("undo.waits") : t("undo.under_way"));
    this.sync();
  }

  /** Keep what was to be taken back; whether there was still time to. */
  keep() {
    if (!this.undoing || this.undoing.sent) return false;
    this.undoing = null;
    this.voice.say(t("undo.kept"));
    return true;
  }

  /** The annotator has read the guideline that stands before the work. */
  async accept({ campaign_id, version }) {
    await this.call("guidelines/accept", { campaign_id, version });
    this.gate = null;
    this.looked = false;
    this.view.painted();
    await this.sync();
  }

  // ---- leases ----------------------------------------------------------------------------------------------

  async renew() {
    // what stands and is judged again needs no lease
    const leased = Object.values(this.queues).flat().filter((card) => !card.stands);
    const ids = leased.map((card) => card.item_id);
    if (!this.annotator || this.ended || ids.length === 0 || this.clock.idle > AWAY_MS) return;
    this.renewed = Date.now();
    try {
      const { held } = await this.call("leases", { item_ids: ids });
      const lost = ids.filter((id) => !held.includes(id) && !this.outbox.items.includes(id));
      if (lost.length === 0) return;
      const wasShown = lost.includes(this.front?.item_id);
      for (const mode of Object.keys(this.queues)) this.queues[mode] = this.queues[mode].filter((card) => !lost.includes(card.item_id));
      if (wasShown) {
        this.voice.notice(t("lease.lost"));
        this.view.shown();
      }
    } catch {
      // the loop meets the same trouble, and speaks of it
    }
    this.sync();
  }

  /** Someone came back to the tab. */
  returned() {
    if (Date.now() - (this.renewed ?? 0) > RENEW_MS) this.renew();
  }

  /** Give back what this tab holds and has not judged, unless judgments of it are still to be sent. */
  async release() {
    if (this.unsent === 0) await this.call("release", {}).catch(() => {});
  }

  /** The same for a tab that closes. */
  leave() {
    if (!this.annotator || this.unsent > 0 || this.ended) return;
    navigator.sendBeacon("/api/v1/release", JSON.stringify({ client: this.client }));
  }
}
