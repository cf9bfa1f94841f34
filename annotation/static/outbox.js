// Judgments that the server has not acknowledged. They stay in the browser's storage through reloads and crashes,
// one key each, so that tabs do not overwrite each other. Sending one twice is harmless: the server knows its id.

import { Refused, Unreachable, parse } from "./rest.js";

const TOO_LARGE = 413; // also for a proxy, which does not say that this is final

export class Outbox {
  /**
   * @param annotator whose judgments these are; another person's stay in storage until they sign in.
   * @param send sends one judgment and returns the server's answer.
   */
  constructor(annotator, send) {
    this.prefix = `rlhf.unsent.${annotator}.`;
    this.send = send;
    this.durable = true;
    this.savedAt = 0; // when the newest judgment that arrived was made
    this.entries = new Map(this.#stored().map((entry) => [entry.body.id, entry]));
    window.addEventListener("storage", (event) => {
      // another tab had it acknowledged
      if (event.key?.startsWith(this.prefix) && event.newValue === null) this.entries.delete(event.key.slice(this.prefix.length));
    });
  }

  get size() {
    return this.entries.size;
  }

  /** Whether the newest judgment, as far as is known here, is one of these. */
  get holdsNewest() {
    return [...this.entries.values()].some(({ at }) => at > this.savedAt);
  }

  /** Items whose judgment is still on its way. */
  get items() {
    return [...this.entries.values()].map((entry) => entry.body.item_id);
  }

  /** Keep a judgment; `said` is how the page calls it. */
  add(body, said) {
    const entry = { at: Date.now(), said, body };
    this.entries.set(body.id, entry);
    try {
      localStorage.setItem(this.prefix + body.id, JSON.stringify(entry));
    } catch {
      this.durable = false;
    }
  }

  /**
   * Send all, oldest first, and tell the outcome of each: `saved(entry, answer)` or `refused(entry, error)`.
   *
   * Returns the failure of those that stay unsent though others went through, or null. Throws what stops all of
   * them: Unreachable, or Refused with status 401 when the session has ended.
   */
  async drain({ saved, refused }) {
    let left = null;
    for (const entry of [...this.entries.values()]) {
      try {
        const answer = await this.send(entry.body);
        this.#remove(entry);
        this.savedAt = Math.max(this.savedAt, entry.at);
        saved(entry, answer);
      } catch (error) {
        if (error instanceof Refused && (error.final || error.status === TOO_LARGE)) {
          this.#remove(entry);
          refused(entry, error);
        } else if (error instanceof Refused ? error.status !== 401 : error instanceof Unreachable && !error.away) {
          left = error; // this one only; a proxy or another program may have answered, so it is kept
        } else {
          throw error;
        }
      }
    }
    return left;
  }

  #remove(entry) {
    this.entries.delete(entry.body.id);
    try {
      localStorage.removeItem(this.prefix + entry.body.id);
    } catch {
      // was never stored
    }
  }

  #stored() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      const entries = keys.map((key) => parse(localStorage.getItem(key)));
      return entries.filter((entry) => entry?.body?.id).sort((one, other) => one.at - other.at);
    } catch {
      this.durable = false;
      return [];
    }
  }
}
