// What was chosen for this browser. Where there is no storage, a choice holds until the page is loaded again.

const unstored = new Map();

export function readSetting(name) {
  try {
    return localStorage.getItem(name) ?? unstored.get(name) ?? null;
  } catch {
    return unstored.get(name) ?? null;
  }
}

/** `null` takes a setting away. */
export function writeSetting(name, value) {
  unstored.set(name, value);
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // kept above
  }
}

/** The colours: "light", "dark", or the system's. */
export function applyTheme() {
  const theme = readSetting("rlhf.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
