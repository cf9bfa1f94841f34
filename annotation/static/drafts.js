// What was written of a card and is not sent yet: kept in the tab, so that a reload, or a phone that drops the page, loses
// none of it.

const place = (annotator, draft) => `rlhf.draft.${annotator}.${draft.card.item_id}`;

/** Keep what is written by now, or forget what was kept where nothing is. */
export function keep(annotator, draft) {
  try {
    if (draft.isUntouched) sessionStorage.removeItem(place(annotator, draft));
    else sessionStorage.setItem(place(annotator, draft), JSON.stringify(draft.written));
  } catch {
    // stays on the page only
  }
}

/** Take over into a new draft what was kept of its card; whether anything was that still fits. */
export function recall(annotator, draft) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(place(annotator, draft)));
    const fits = Object.keys(kept.aspects).join("\n") === Object.keys(draft.aspects).join("\n");
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
