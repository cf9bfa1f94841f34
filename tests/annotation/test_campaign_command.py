"""`rlhf annotate campaign`, on a real SQLite file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from annotation import campaigns
from annotation.campaign_command import campaign_main
from annotation.campaigns import Aspect, CampaignError, CampaignSettings
from annotation.importing import import_comparisons
from annotation.store import Store
from tests.annotation.items import comparison


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/annotations.db"
    store = Store.open(url)
    import_comparisons(store, [comparison(1)], overlap=3)
    store.close()
    return url


def stored(url: str) -> tuple[campaigns.Campaign, campaigns.Guideline | None]:
    store = Store.open(url)
    with store.reading() as connection:
        found = campaigns.by_name(connection, "main")
        guideline = campaigns.newest_guideline(connection, found.id)
    store.close()
    return found, guideline


def test_settings_guidelines_and_state_are_changed_and_printed(url: str, tmp_path: Path, capsys) -> None:
    settings, guidelines = tmp_path / "settings.yaml", tmp_path / "guidelines.md"
    settings.write_text("gold_share: 0.05\naspects:\n- name: helpful\n  levels: 7\n- true to facts\n", encoding="utf-8")
    guidelines.write_text("# Read *all*\n", encoding="utf-8")
    files = ["--settings", str(settings), "--guidelines", str(guidelines)]
    campaign_main(["--store", url, *files, "--state", "paused"])
    printed = capsys.readouterr().out
    found, guideline = stored(url)
    assert (found.state, found.settings.gold_share) == ("paused", 0.05)
    assert found.settings.aspects == (Aspect("helpful", 7), Aspect("true to facts", 5))
    assert (guideline.version, guideline.text) == (1, "# Read *all*\n")
    assert printed.startswith("# campaign 'main': paused, 3 annotators an item, guidelines version 1\n")

    # what is printed is what --settings reads, and it changes nothing
    again = tmp_path / "again.yaml"
    again.write_text(printed, encoding="utf-8")
    campaign_main(["--store", url, "--settings", str(again)])
    assert stored(url)[0] == found
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


def test_json_is_read_and_what_it_does_not_name_stays(url: str, tmp_path: Path) -> None:
    for name, text in (("a.yaml", "random_share: 0.2"), ("b.json", '{\t"gold_accuracy": 0.6}')):
        (tmp_path / name).write_text(text, encoding="utf-8")
        campaign_main(["--store", url, "--settings", str(tmp_path / name)])
    settings = stored(url)[0].settings
    assert (settings.random_share, settings.gold_accuracy) == (0.2, 0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gold_shere: 0.1", "gold_shere"),
        ("gold_share: 7", "gold_share is 7"),
        ("- gold_share", "holds list"),
        ("gold_share: [", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['touch gone']", "neither YAML nor JSON"),
    ],
)
def test_settings_that_cannot_be_change_nothing(url: str, tmp_path: Path, text: str, message: str) -> None:
    before = stored(url)
    file, guidelines = tmp_path / "settings.yaml", tmp_path / "guidelines.md"
    file.write_text(text, encoding="utf-8")
    guidelines.write_text("new", encoding="utf-8")
    with pytest.raises(CampaignError, match=message):
        campaign_main(["--store", url, "--settings", str(file), "--guidelines", str(guidelines), "--state", "closed"])
    assert stored(url) == before


def test_a_campaign_that_is_not_there_is_named_with_those_that_are(url: str) -> None:
    with pytest.raises(CampaignError, match="'other' is not in the store, which has main"):
        campaign_main(["--store", url, "--campaign", "other"])


def test_the_page_for_managers_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "annotation_managers.md").read_text(encoding="utf-8")
    table = page.partition("`settings.yaml` has any of these")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|")))
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(CampaignSettings))
