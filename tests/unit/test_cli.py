"""The command `rlhf`: it lists, it hands over, it starts fast."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import rlhf
from rlhf import cli


def test_help_lists_every_command_on_one_screen(capsys) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert out.count("\n") <= 24
    assert max(map(len, out.splitlines())) <= 80


def test_no_command_prints_the_help_and_fails(capsys) -> None:
    assert cli.main([]) == 2
    assert "usage: rlhf" in capsys.readouterr().out


def test_version(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlhf {rlhf.__version__}\n"


def test_an_unknown_command_names_the_closest(capsys) -> None:
    assert cli.main(["evalute"]) == 2
    assert "did you mean 'evaluate'?" in capsys.readouterr().err


def test_a_command_gets_the_rest_of_the_line(monkeypatch) -> None:
    seen = []
    module = types.ModuleType("rlhf.train_dpo")
    module.main = lambda argv: seen.append(argv)
    monkeypatch.setitem(sys.modules, "rlhf.train_dpo", module)
    monkeypatch.setattr(sys, "argv", ["rlhf"])
    assert cli.main(["dpo", "--beta", "0.1"]) is None
    assert seen == [["--beta", "0.1"]]
    assert sys.argv == ["rlhf dpo"]


@pytest.mark.parametrize("argument", ["--help", "--version", "nonsense"])
def test_nothing_heavy_is_imported_before_a_command(argument: str) -> None:
    code = (
        "import sys; from rlhf import cli; cli.main([sys.argv[1]]); "
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, argument], timeout=60, capture_output=True).returncode == 0
