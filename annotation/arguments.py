"""How the commands of the annotation app read their arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

STORE_HELP = "sqlite:///annotations.db, or postgresql://user@host/database"


class Parser(argparse.ArgumentParser):
    """Argparse without abbreviations and without the usage before an error."""

    def __init__(self, **settings: object):
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help lists the settings")
