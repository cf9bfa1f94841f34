// What the annotator has judged, newest first. Opening a row judges it again, as a new revision.

import { button, element } from "./element.js";
import { inWords, letter } from "./judgment.js";
import { Screen } from "./screen.js";
import { duration, moment, t } from "./words.js";

const ROWS = 50;

export class History extends Screen {
  constructor(page) {
    super(page, "history");
  }

  async fill() {
    const { rows, more } = await this.desk.get(`history?limit=${ROWS}`);
    if (rows.length === 0) return [element("h2", {}, t("nav.history")), element("p", { class: "quiet-text" }, t("history.none"))];
    const list = element("ol", { class: "rows" }, ...rows.map(row));
    return [element("h2", {}, t("nav.history")), element("p", { class: "quiet-text" }, t("history.how")), list, ...further(rows, more)];
  }

  async do(action) {
    const { opened } = this;
    if (action.startsWith("history-more:")) {
      await this.attempt(async () => {
        const { rows, more } = await this.desk.get(`history?before=${action.slice("history-more:".length)}&limit=${ROWS}`);
        // pressed twice, or opened anew meanwhile: these rows are there already
        const pressed = this.place.querySelector(`[data-do="${action}"]`);
        if (pressed === null) return;
        this.place.querySelector(".rows").append(...rows.map(row));
        pressed.replaceWith(...further(rows, more));
      });
    } else if (action.startsWith("history-open:")) {
      await this.attempt(async () => {
        const { card, previous } = await this.desk.call("history/open", { item_id: action.slice("history-open:".length) });
        if (opened !== this.opened) return; // the annotator went on to something else
        this.page.judge({ ...card, stands: previous.kind === "ranking" }, previous);
        this.page.voice.say(t("history.opened", { said: inWords(previous) }));
      });
    }
  }
}

/** The button for the rows after these, if there are more. */
function further(rows, more) {
  return more ? [button(t("history.more"), `history-more:${rows.at(-1).number}`)] : [];
}

function row(said) {
  const details = [moment(said.at), said.campaign, duration(said.active_ms / 1000)];
  if (said.revision > 1) details.push(t("history.revision", { revision: said.revision }));
  if (said.edited.length > 0) details.push(t("history.edited", { letters: said.edited.map(letter).join(", ") }));
  const words = inWords(said);
  const why = said.rationale ?? said.reason;
  return element(
    "li",
    {},
    element("div", { class: "row-prompt", dir: "auto" }, said.prompt),
    element("div", { class: "row-said" }, words),
    element("div", { class: "row-details" }, ...details.map((detail) => element("span", { dir: "auto" }, detail))),
    why ? element("div", { class: "row-why", dir: "auto" }, why) : null,
    button(t("history.open"), `history-open:${said.item_id}`, { "aria-label": t("history.open_said", { said: words, prompt: said.prompt.slice(0, 60) }) }),
  );
}
