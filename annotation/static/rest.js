// Requests to the server, and the two ways in which they fail.

import { t } from "./words.js";

const TIMEOUT_MS = 20_000;
const TEMPORARY = [408, 425, 429];
const KEEPALIVE_BYTES = 60_000; // browsers refuse to send more than 65,536 in this way

/** The request may not have arrived, or the server cannot do it now: send it again later. */
export class Unreachable extends Error {
  constructor(message, { seconds = 0, away = true } = {}) {
    super(message);
    this.seconds = seconds; // that the server asks to wait
    this.away = away; // no answer at all, or the store cannot be used: other requests fail just so
  }
}

/** The server will not do it. */
export class Refused extends Error {
  constructor(status, message, final) {
    super(message);
    this.status = status;
    this.final = final; // however often it is asked: the app itself looked at the request
  }
}

/**
 * Call the REST interface; the answer's JSON. `annotator` is whom the page works for; with `keepalive` the request goes
 * on when the page is left, if it is small enough.
 */
export async function call(path, { method = "POST", body, annotator, keepalive = false } = {}) {
  const headers = { "Content-Type": "application/json" };
  if (annotator) headers["X-Annotator"] = annotator;
  const sent = body && JSON.stringify(body);
  const outlives = keepalive && new TextEncoder().encode(sent).length < KEEPALIVE_BYTES;
  let response, text;
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const options = { method, headers, body: sent, keepalive: outlives, signal, cache: "no-store" };
    response = await fetch(`/api/v1/${path}`, options);
    text = await response.text();
  } catch {
    throw new Unreachable(t("rest.unreachable"));
  }
  const answer = parse(text);
  if (response.ok) {
    if (answer === null && text !== "") throw new Unreachable(t("rest.unreadable"));
    return answer;
  }
  const detail = answer?.detail ?? t("rest.status", { status: response.status });
  if (response.status >= 500 || TEMPORARY.includes(response.status)) {
    const seconds = Number(response.headers.get("Retry-After")) || 0;
    throw new Unreachable(detail, { seconds, away: response.status !== 500 });
  }
  throw new Refused(response.status, detail, answer?.final === true);
}

/** The value of a JSON text; null where it is none. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
