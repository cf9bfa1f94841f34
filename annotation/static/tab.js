// The tab: its name, and how long someone has been at work in it.

const IDLE_MS = 60_000;
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "touchmove", "scroll"];

/**
 * The tab's id, the same after a reload. A duplicated tab starts with a copy of the other's storage, so the id is
 * locked as long as its tab lives, and a tab that finds its id locked takes another one.
 */
export async function tabId() {
  let id = null;
  try {
    id = sessionStorage.getItem("rlhf.tab");
  } catch {
    // no storage: a new id at each load
  }
  if (id === null || !(await lock(id))) {
    id = crypto.randomUUID();
    await lock(id);
    try {
      sessionStorage.setItem("rlhf.tab", id);
    } catch {
      // as above
    }
  }
  return id;
}

function lock(id) {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise((resolve) => {
    navigator.locks.request(`rlhf.tab.${id}`, { ifAvailable: true }, (held) => {
      resolve(held !== null);
      return held && new Promise(() => {}); // until the tab is gone
    });
  });
}

/** Counts the time in which a card can be seen and someone is at work: a pause ends counting after a minute. */
export class ActiveClock {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.onCards = true;
    this.restart();
    for (const sign of SIGNS) window.addEventListener(sign, () => this.touch(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => this.touch());
  }

  restart() {
    this.total = 0;
    this.counted = this.seen = this.now();
    this.visible = !document.hidden;
  }

  /** Someone did something, or the tab came or went. */
  touch() {
    this.#count();
    this.seen = this.counted;
    this.visible = !document.hidden;
  }

  /** Cards came onto the screen, or went from it. */
  turnTo(cards) {
    this.#count();
    this.onCards = cards;
  }

  read() {
    this.#count();
    return Math.round(this.total);
  }

  /** Milliseconds since anyone did anything. */
  get idle() {
    return this.now() - this.seen;
  }

  #count() {
    const now = this.now();
    const until = Math.min(now, this.seen + IDLE_MS);
    if (this.visible && this.onCards && until > this.counted) this.total += until - this.counted;
    this.counted = now;
  }
}
