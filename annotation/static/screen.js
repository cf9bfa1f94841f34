// A screen beside the one on which is judged: filled from the server when it is opened.

import { button, element } from "./element.js";
import { Refused, Unreachable } from "./rest.js";
import { t } from "./words.js";

export class Screen {
  /** @param page the page it is on: its `desk`, `go(screen)` and `missing(screen)`, for one the server does not have. */
  constructor(page, name) {
    this.page = page;
    this.name = name;
    this.place = page.root.querySelector(`.screen.${name}`);
  }

  get desk() {
    return this.page.desk;
  }

  async open() {
    const opened = Symbol(this.name);
    this.opened = opened;
    if (this.place.childElementCount === 0) this.show(element("p", { class: "quiet-text" }, t("loading")));
    try {
      const nodes = await this.fill();
      if (opened === this.opened) this.show(...nodes);
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    if (error instanceof Refused && error.status === 401) this.desk.sync();
    if (error instanceof Refused && error.status === 404) this.page.missing(this.name);
    else this.show(element("h2", {}, t(`nav.${this.name}`)), element("p", { role: "alert" }, error.message), button(t("retry"), "reopen", { class: "primary" }));
  }

  /** Do what needs the server; what it refuses is said in a notice. */
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      this.page.voice.notice(error.message);
      if (error instanceof Refused && error.status === 401) this.desk.sync();
    }
  }

  show(...nodes) {
    this.place.replaceChildren(...nodes);
  }

  /** The screen's nodes. */
  async fill() {
    return [];
  }

  /** Another screen is opened. */
  close() {
    this.opened = null;
  }
}
