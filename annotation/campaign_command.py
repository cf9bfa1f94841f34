"""`rlhf annotate campaign`: a campaign's settings, guidelines and state from the command line, as they then stand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from annotation import campaigns
from annotation.arguments import STORE_HELP, Parser
from annotation.campaigns import STATES, Campaign, CampaignError, CampaignSettings, Guideline
from annotation.importing import DEFAULT_CAMPAIGN
from annotation.store import Store

LONGEST_SETTINGS = 1_000_000  # bytes


def campaign_main(arguments: Sequence[str]) -> None:
    """Change a campaign as asked, and print how it stands."""
    parser = Parser(prog="rlhf annotate campaign", description="Change a campaign, and print how it stands.")
    parser.add_argument("--store", required=True, metavar="URL", help=STORE_HELP)
    parser.add_argument("--campaign", default=DEFAULT_CAMPAIGN, help=f"its name; default {DEFAULT_CAMPAIGN}")
    parser.add_argument("--settings", metavar="FILE", help="YAML or JSON; what it does not name keeps its value")
    parser.add_argument("--guidelines", metavar="FILE", help="Markdown; a new text is a new version to be accepted")
    parser.add_argument("--state", choices=STATES, help="open gives items, paused and closed give none")
    given = parser.parse_args(arguments)
    settings = None if given.settings is None else read_settings(Path(given.settings))
    text = None if given.guidelines is None else _read(Path(given.guidelines))
    store = Store.open(given.store, create=False)
    try:
        found, guideline = change_campaign(store, given.campaign, settings=settings, guidelines=text, state=given.state)
    finally:
        store.close()
    print(campaign_text(found, guideline))


def change_campaign(
    store: Store,
    name: str,
    *,
    settings: dict[str, Any] | None = None,
    guidelines: str | None = None,
    state: str | None = None,
) -> tuple[Campaign, Guideline | None]:
    """Change a campaign in one transaction: all that is given, or nothing.

    Args:
        store: where it is.
        name: the campaign's.
        settings: those to be changed; the others stay.
        guidelines: a text to be accepted by all.
        state: "open", "paused" or "closed".

    Raises:
        CampaignError: there is no such campaign, or a value is not allowed.
    """
    at = time.time()

    def change(connection: Any) -> tuple[Campaign, Guideline | None]:
        found = campaigns.by_name(connection, name)
        if guidelines is not None:
            campaigns.write_guideline(connection, found.id, guidelines, actor_id=None, at=at)
        wanted = None
        if settings is not None:
            wanted = CampaignSettings.from_dict(found.settings.to_dict() | settings)
        changed = campaigns.change(connection, found.id, actor_id=None, at=at, state=state, settings=wanted)
        return changed, campaigns.newest_guideline(connection, found.id)

    return store.write(change)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file: one object.

    Raises:
        CampaignError: it is something else.
        OSError: it cannot be read.
    """
    text = _read(path)
    try:
        # JSON has spellings that YAML has not, such as tabs between its words
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).replace("\n", " ")
        raise CampaignError(f"{path} is neither YAML nor JSON that can be read: {reason}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CampaignError(f"{path} holds {type(values).__name__}; write settings as lines such as gold_share: 0.05")
    return values


def _read(path: Path) -> str:
    content = path.read_bytes()
    if len(content) > LONGEST_SETTINGS:
        raise CampaignError(f"{path} has {len(content)} bytes; {LONGEST_SETTINGS} is the most")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CampaignError(f"{path} is no UTF-8 text; save it as UTF-8") from None


def campaign_text(found: Campaign, guideline: Guideline | None) -> str:
    """How a campaign stands: a line, and all its settings as YAML that `--settings` reads."""
    version = "no guidelines" if guideline is None else f"guidelines version {guideline.version}"
    head = f"# campaign {found.name!r}: {found.state}, {found.overlap} annotators an item, {version}"
    values = {name: getattr(found.settings, name) for name in CampaignSettings.__dataclass_fields__}
    plain = json.loads(json.dumps(values, default=vars))
    return f"{head}\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)}".rstrip("\n")
