// What was written of a card and is not sent yet: kept in the tab, so that a reload, or a phone that drops the page, loses
// none of it.

const placeOf = (annotator, item_id) => `rlhf.draft.${annotator}.${item_id}`;
const place = (annotator, draft) => placeOf(annotator, draft.card.item_id);

/** Keep what is written by now, or forget what was kept where nothing is. */
export function keep(annotator, draft) {
  try {
    if (draft.isUntouched) sessionStorage.removeItem(place(annotator, draft));
    else sessionStorage.setItem(place(annotator, draft), JSON.stringify(draft.written));
  } catch {
    // stays on the page only
  }
}

/** What was sent and not taken is a draft again, for when its card comes once more. */
export function keepSent(annotator, { item_id, kind, ranks, rationale = "", aspects = {}, edits = {} }) {
  if (kind !== "ranking") return;
  const written = { ranks: ranks.length > 2 ? ranks : ranks.map(() => null), rationale, aspects, edits, typed: {} };
  try {
    sessionStorage.setItem(placeOf(annotator, item_id), JSON.stringify(written));
  } catch {
    // cannot be kept
  }
}

/** Take over into a new draft what was kept of its card; whether anything was that still fits. */
export function recall(annotator, draft) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(place(annotator, draft)));
    const { aspects } = draft.settings;
    const rated = ({ name, levels }) => kept.aspects[name]?.every((rating) => rating <= levels); // null: not yet
    const fits = Object.keys(kept.aspects).length === aspects.length && aspects.every(rated);
    if (fits) Object.assign(draft, kept);
    return fits;
  } catch {
    return false;
  }
}

/** The card was judged. */
export function forget(annotator, draft) {
  try {
    sessionStorage.removeItem(place(annotator, draft));
  } catch {
    // was not kept
  }
}
