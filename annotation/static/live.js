// A prompt of the annotator's own: answers grow side by side, and are judged when they are complete.

import { button, element, verbatim } from "./element.js";
import { letter } from "./judgment.js";
import { Screen } from "./screen.js";
import { Refused, Unreachable } from "./rest.js";
import { t } from "./words.js";

const POLL_MS = 700;
const SILENCE_MS = 4000; // in which a stream that is not held back says how far the request is
const RUNNING = "rlhf.live."; // and the annotator: the request that this tab waits for, so that a reload finds it again
const OVER = ["done", "failed", "cancelled"];

export class Live extends Screen {
  constructor(page) {
    super(page, "live");
    this.messages = []; // of the conversation so far
    this.request = null;
    this.written = "";
  }

  /** Whether there is a campaign in which prompts can be written. */
  async isOffered() {
    try {
      return (await this.desk.get("live")).campaigns.length > 0;
    } catch {
      return false;
    }
  }

  async fill() {
    const { campaigns, worker } = await this.desk.get("live");
    this.campaigns = campaigns;
    this.worker = worker;
    this.request ??= this.#running();
    if (this.request) {
      this.messages = this.request.messages;
      this.#follow();
    }
    return this.#nodes();
  }

  close() {
    super.close();
    this.written = this.place.querySelector("textarea")?.value ?? this.written;
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
  }

  do(action) {
    if (action === "live-cancel") this.#cancel();
    else if (action === "live-new") this.#begin([]);
  }

  /** A form of this screen was sent. */
  submitted(form) {
    const content = form.elements.prompt.value.trim();
    if (content === "" || this.request) return;
    const campaign_id = this.campaigns[Number(form.elements.campaign?.value ?? 0)].campaign_id;
    this.written = "";
    this.messages = [...this.messages, { role: "user", content }];
    this.request = { id: crypto.randomUUID(), campaign_id, messages: this.messages, sent: false };
    this.#remember(this.request);
    this.show(...this.#nodes());
    this.#follow();
  }

  /** The answers have been judged: the conversation can go on with the better one. */
  judged(card, judgment) {
    if (judgment.kind !== "ranking") {
      this.#begin([]);
      return;
    }
    const best = judgment.ranks.indexOf(1);
    this.#begin([...card.prompt, { role: "assistant", content: judgment.edits?.[best] ?? card.responses[best] }]);
  }

  #begin(messages) {
    this.messages = messages;
    this.request = null;
    this.#remember(null);
    if (this.opened) this.show(...this.#nodes());
    this.place.querySelector("textarea")?.focus();
  }

  #nodes() {
    const title = element("h2", {}, t("nav.live"));
    const turns = this.messages.map(({ role, content }) =>
      element("div", { class: `turn ${role}` }, element("h3", { class: "label" }, t(`role.${role}`)), verbatim(content, "content")),
    );
    if (this.request) {
      this.answers = element("div", { class: "responses answers", "aria-live": "off" });
      this.state = element("p", { class: "live-state", role: "status" }, t("live.sending"));
      return [title, ...turns, this.state, this.answers, button(t("live.cancel"), "live-cancel")];
    }
    return [title, element("p", { class: "quiet-text" }, t("live.how")), ...turns, this.#form()];
  }

  #form() {
    const parts = [];
    if (this.campaigns.length > 1) {
      const options = this.campaigns.map(({ campaign }, at) => element("option", { value: at }, campaign));
      parts.push(element("label", {}, element("span", {}, t("live.campaign")), element("select", { name: "campaign" }, ...options)));
    }
    const field = element("textarea", { name: "prompt", rows: "5", required: true, dir: "auto", maxlength: "50000" }, this.written);
    parts.push(element("label", {}, element("span", {}, t(this.messages.length > 0 ? "live.next" : "live.prompt")), field));
    if (!this.worker) parts.push(element("p", { class: "quiet-text" }, t("live.no_worker")));
    const send = element("button", { class: "primary" }, element("kbd", { "aria-hidden": "true" }, "Ctrl Enter"), element("span", {}, t("live.send")));
    const buttons = element("div", { class: "buttons" }, send);
    if (this.messages.length > 0) buttons.append(button(t("live.new"), "live-new"));
    const form = element("form", { class: "live-form" }, ...parts, buttons);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) form.requestSubmit();
    });
    return form;
  }

  // ---- waiting for the answers -----------------------------------------------------------------------------

  async #follow() {
    const { request } = this;
    try {
      if (!request.sent) {
        await this.desk.call("live", { id: request.id, campaign_id: request.campaign_id, messages: request.messages });
        request.sent = true;
        this.#remember(request);
      }
    } catch (error) {
      if (error instanceof Refused) this.#failed(error.message);
      else if (error instanceof Unreachable) this.#again(() => this.#follow(), error.message);
      else throw error;
      return;
    }
    if (request === this.request && this.opened) this.#listen(request);
  }

  #listen(request) {
    this.source?.close();
    const source = new EventSource(`/api/v1/live/${request.id}/events`);
    this.source = source;
    // a proxy that holds streams back, or a server that went away: ask instead
    const ask = () => {
      clearTimeout(silence);
      source.close();
      if (this.source === source) this.#poll(request);
    };
    const silence = setTimeout(ask, SILENCE_MS);
    source.onerror = ask;
    source.onmessage = (event) => {
      clearTimeout(silence);
      this.#said(request, JSON.parse(event.data));
    };
  }

  async #poll(request) {
    if (request !== this.request || !this.opened) return;
    try {
      this.#said(request, await this.desk.get(`live/${request.id}`));
    } catch (error) {
      if (error instanceof Refused) this.#failed(error.message);
      else if (error instanceof Unreachable) this.#again(() => this.#poll(request), error.message);
      else throw error;
      return;
    }
    if (request === this.request) this.#again(() => this.#poll(request));
  }

  #again(what, trouble = null) {
    if (trouble) this.state.textContent = trouble;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.opened && what(), POLL_MS);
  }

  #said(request, said) {
    if (request !== this.request || !this.opened) return;
    if (OVER.includes(said.state)) {
      this.source?.close();
      this.source = null;
    }
    if (said.state === "failed" || (said.state === "done" && !said.card)) this.#failed(said.error ?? t("live.failed"));
    else if (said.state === "cancelled") this.#begin(request.messages.slice(0, -1));
    else if (said.state === "done") this.#done(said.card);
    else this.#paint(said);
  }

  #paint({ state, position, answers, error }) {
    const waiting = position ? t("live.waiting", { position }) : t("live.sending");
    this.state.textContent = error ?? (state === "waiting" ? waiting : t("live.running"));
    (answers ?? []).forEach(({ text, done }, index) => {
      const shown = this.answers.children[index] ?? this.answers.appendChild(answer(index));
      shown.querySelector(".content").textContent = text;
      shown.dataset.done = String(done);
    });
  }

  #done(card) {
    this.request = null;
    this.#remember(null);
    this.messages = [];
    this.show();
    this.page.judge({ ...card, kind: "live" }, null);
  }

  #failed(message) {
    this.written = this.request.messages.at(-1).content;
    this.#begin(this.request.messages.slice(0, -1));
    this.page.voice.notice(t("live.refused", { why: message }));
  }

  async #cancel() {
    const { request } = this;
    if (!request) return;
    this.written = request.messages.at(-1).content;
    await this.attempt(async () => {
      await this.desk.call(`live/${request.id}/cancel`, {});
      if (request === this.request) this.#begin(request.messages.slice(0, -1));
    });
  }

  #remember(request) {
    try {
      if (request) sessionStorage.setItem(RUNNING + this.desk.annotator.id, JSON.stringify(request));
      else sessionStorage.removeItem(RUNNING + this.desk.annotator.id);
    } catch {
      // a reload does not find it again
    }
  }

  #running() {
    try {
      return JSON.parse(sessionStorage.getItem(RUNNING + this.desk.annotator.id));
    } catch {
      return null;
    }
  }
}

function answer(index) {
  const name = t("response.name", { letter: letter(index) });
  const head = element("header", { class: "label" }, element("span", { class: "letter", "aria-hidden": "true" }, letter(index)), element("h3", {}, name));
  return element("article", { class: "response", "aria-label": name }, head, element("div", { class: "verbatim content", dir: "auto" }));
}
