// From key presses to actions, and the same list for people.

const PAIR = {
  1: "pair:0:3",
  2: "pair:0:2",
  3: "pair:0:1",
  t: "tie",
  8: "pair:1:1",
  9: "pair:1:2",
  0: "pair:1:3",
};
const RANKING = {
  ArrowLeft: "cursor:-1",
  ArrowUp: "cursor:-1",
  ArrowRight: "cursor:1",
  ArrowDown: "cursor:1",
  Backspace: "clear",
  Enter: "save",
};
const ALWAYS = { s: "skip", u: "undo", "?": "help", Escape: "cancel" };

/** The action of a key press for a card with so many responses; null when the press is not meant for us. */
export function actionOf(event, numResponses) {
  if (event.repeat || event.isComposing || event.keyCode === 229) return null;
  if (event.ctrlKey || event.altKey || event.metaKey) return null;
  const target = event.composedPath()[0];
  if (target instanceof Element && target.closest("input, textarea, select, [contenteditable]")) return null;
  // Enter on a button presses the button.
  if (event.key === "Enter" && target instanceof Element && target.closest("button, a, summary")) return null;
  const key = keyName(event);
  if (key in ALWAYS) return ALWAYS[key];
  if (numResponses === 2) return PAIR[key] ?? null;
  if (numResponses > 2) return /^[1-9]$/.test(key) ? `rank:${key}` : (RANKING[key] ?? null);
  return null;
}

// Digits by their place on the keyboard, where some layouts have other signs; letters by what they say, or by their
// place where the layout has no Latin letters.
function keyName(event) {
  if (event.key === "?") return "?";
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit && !event.shiftKey && (event.code.startsWith("Digit") || /^\d$/.test(event.key))) return digit[1];
  if (event.shiftKey) return "";
  if (event.key.length === 1 && event.key.codePointAt(0) > 127) return /^Key([A-Z])$/.exec(event.code)?.[1].toLowerCase() ?? "";
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

/** Rows of [keys, what they do] for the help. */
export function helpRows(numResponses) {
  const choice =
    numResponses > 2
      ? [
          [["1", "…", String(numResponses)], "rank of the marked response, 1 is the best; the same number is a tie"],
          [["←", "→"], "mark another response"],
          [["Backspace"], "clear a rank"],
          [["Enter"], "save, when all have a rank"],
        ]
      : [
          [["1", "2", "3"], "A is much better, better, slightly better"],
          [["T"], "tie: neither is better"],
          [["8", "9", "0"], "B is slightly better, better, much better"],
        ];
  return [
    ...choice,
    [["S"], "skip; a reason is optional"],
    [["U"], "undo: take your last answer back"],
    [["?"], "this help"],
  ];
}
