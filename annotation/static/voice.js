// What the page says to the annotator while they work.

import { element } from "./element.js";
import { t } from "./words.js";

export class Voice {
  constructor(root) {
    this.status = root.querySelector(".status");
    this.notices = root.querySelector(".notices");
  }

  /** In passing. */
  say(text, kind = "") {
    this.status.textContent = text;
    this.status.dataset.kind = kind;
  }

  /** Something that must be read: stays until it is closed. */
  notice(text) {
    const close = element("button", { type: "button", class: "quiet" }, t("close"));
    const notice = element("div", { class: "notice", role: "alert" }, element("span", {}, text), close);
    close.addEventListener("click", () => notice.remove());
    this.notices.append(notice);
  }
}
