// What is on the screen where no card is.

import { button, element, keyButton, rendered } from "./element.js";
import { percent, t } from "./words.js";

const p = (...parts) => element("p", {}, ...parts);
const heading = (text) => element("h2", {}, text);
const code = (text) => element("code", {}, text);

/** What to say in a state of the desk in which there is no card. */
export function message(desk) {
  const { state, unsent } = desk;
  if (state === "loading") return [p(t("loading"))];
  if (state === "away") {
    const kept = unsent ? [p(t("away.kept", { count: unsent }))] : [];
    return [heading(t("away.title")), p(t("away.why", { trouble: desk.trouble })), ...kept, button(t("retry"), "retry", { class: "primary" })];
  }
  if (state === "ended") {
    const later = unsent ? [p(t("ended.kept", { count: unsent }))] : [];
    return [heading(t("ended.title")), p(desk.ended), ...later, element("a", { class: "primary", href: "/login" }, t("ended.sign_in"))];
  }
  if (state !== "empty" || !desk.progress) return [];
  if (desk.mode === "adjudication") return [heading(t("adjudicate.none")), p(t("adjudicate.none_why"))];
  const { total, done, waiting } = desk.progress;
  // what to do at a command line is for those who may
  const manages = desk.annotator.role === "manager";
  if (total === 0) {
    const make = element("a", { class: "primary", href: "/admin" }, t("empty.make"));
    const fill = manages ? [make, p(t("empty.fill")), code("rlhf annotate import --store URL --file FILE")] : [p(t("empty.look"))];
    return [heading(t("empty.no_items")), ...fill];
  }
  const said = t(done === total ? "empty.export" : "empty.export_so_far");
  const exporting = manages ? [p(said), code("rlhf annotate export --store URL --out comparisons.jsonl")] : [];
  if (done === total) return [heading(t("empty.all_done")), p(t("empty.all_judged", { count: total })), ...exporting];
  const left = total - done - waiting;
  const why = [...(waiting > 0 ? [p(t("empty.waiting", { count: waiting }))] : []), ...(left > 0 ? [p(t("empty.left", { count: left }))] : [])];
  return [heading(t("empty.nothing")), ...why, p(t("empty.by_itself")), ...exporting];
}

/** What stands before the work: a guideline to accept, a qualification that was not passed, a pause. */
export function gate(said) {
  if (said.kind === "guideline") {
    return [
      heading(t("gate.guideline", { campaign: said.campaign })),
      element("p", { class: "quiet-text" }, t("gate.read", { version: said.version })),
      rendered(said.html, "paper"),
      keyButton("Enter", t("gate.accept"), "accept", { class: "primary" }),
    ];
  }
  if (said.kind === "not_qualified") {
    const found = t("gate.accuracy", { campaign: said.campaign, accuracy: percent(said.accuracy), needed: percent(said.needed) });
    return [heading(t("gate.not_qualified")), p(found), p(t("gate.ask"))];
  }
  return [heading(t("gate.paused")), ...(said.detail ? [p(said.detail)] : []), p(t("gate.ask"))];
}
