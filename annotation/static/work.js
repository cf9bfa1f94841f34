// The annotator's own work: how much, how fast, and how often right where the right answer is known.

import { element } from "./element.js";
import { Screen } from "./screen.js";
import { duration, number, percent, t } from "./words.js";

export class Work extends Screen {
  constructor(page) {
    super(page, "work");
  }

  async fill() {
    const work = await this.desk.get("work");
    const tiles = [
      tile(t("work.today"), number(work.today)),
      tile(t("work.total"), number(work.total)),
      tile(t("work.active"), duration(work.active_seconds)),
      tile(t("work.per_hour"), work.per_hour === null ? "–" : number(Math.round(work.per_hour))),
      tile(t("work.skipped"), number(work.skipped)),
      tile(t("work.flagged"), number(work.flagged)),
    ];
    return [element("h2", {}, t("nav.work")), element("dl", { class: "tiles" }, ...tiles), gold(work.gold)];
  }
}

function tile(name, value) {
  return element("div", { class: "tile" }, element("dt", {}, name), element("dd", {}, value));
}

function gold(known) {
  const parts = [element("h3", {}, t("work.gold"))];
  if (!known || known.n === 0) {
    parts.push(element("p", { class: "quiet-text" }, t("work.no_gold")));
  } else {
    const share = known.right / known.n;
    const bar = element(
      "div",
      { class: "interval", "aria-hidden": "true" },
      element("span", { class: "interval-range", style: `left: ${100 * known.low}%; width: ${100 * (known.high - known.low)}%` }),
      element("span", { class: "interval-mark", style: `left: ${100 * share}%` }),
    );
    const said = t("work.gold_said", { right: known.right, count: known.n, share: percent(share), low: percent(known.low), high: percent(known.high) });
    parts.push(element("p", {}, said), bar, element("p", { class: "quiet-text" }, t("work.gold_why")));
  }
  return element("section", { class: "gold" }, ...parts);
}
