"""Actions of the command line leave no connection behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotation.command import main
from annotation.store import Store
from rlhf.data.comparisons import write_comparisons
from tests.annotation.items import comparison

ACTIONS = {
    "import": ["--file", "items.jsonl"],
    "order": [],
    "backup": ["--out", "backup.jsonl.gz"],
    "verify": [],
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_store_is_closed_when_an_action_is_done(action: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_comparisons("items.jsonl", [comparison(1)])
    Store.open("sqlite:///a.db").close()
    main(["import", "--file", "items.jsonl", "--store", "sqlite:///a.db"])
    main([action, *ACTIONS[action], "--store", "sqlite:///a.db"])
    assert not Path("a.db-wal").exists()  # SQLite removes it with the last connection
