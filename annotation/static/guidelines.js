// The guidelines of the campaigns, to read again.

import { element, rendered } from "./element.js";
import { Screen } from "./screen.js";
import { t } from "./words.js";

export class Guidelines extends Screen {
  constructor(page) {
    super(page, "guidelines");
  }

  async fill() {
    const { campaigns } = await this.desk.get("work");
    const written = campaigns.filter(({ guideline }) => guideline !== null);
    const sections = written.map(({ campaign, guideline }) =>
      element(
        "section",
        { class: "guideline" },
        element("h3", { dir: "auto" }, campaign),
        element("p", { class: "quiet-text" }, t("guidelines.version", { version: guideline.version })),
        rendered(guideline.html, "paper"),
      ),
    );
    if (sections.length === 0) sections.push(element("p", { class: "quiet-text" }, t("guidelines.none")));
    return [element("h2", {}, t("nav.guidelines")), ...sections];
  }

  /** Show the guideline of a campaign in front of the card that is judged. */
  async read(dialog, campaign) {
    let text = element("p", {}, t("guidelines.none"));
    try {
      const { campaigns } = await this.desk.get("work");
      const guideline = campaigns.find((other) => other.campaign === campaign)?.guideline;
      if (guideline) text = rendered(guideline.html, "paper");
    } catch (error) {
      text = element("p", { role: "alert" }, error.message);
    }
    dialog.querySelector("h2").textContent = t("guidelines.of", { campaign });
    dialog.querySelector(".guide-text").replaceChildren(text);
    if (!dialog.open) dialog.showModal();
  }
}
