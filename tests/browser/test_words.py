"""The page's texts: every one in both languages, with the same places, and none that is never said."""

from __future__ import annotations

import json
import re
from pathlib import Path

from annotation.accounts import AccountError
from annotation.invites import InvalidInvite
from annotation.records import AnnotationError
from annotation.sessions import WrongPassword
from annotation.store import StoreUnavailable

STATIC = Path(__file__).parents[2] / "annotation" / "static"
WORDS = {language: json.loads((STATIC / f"strings.{language}.json").read_text("utf-8")) for language in ("en", "de")}
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
PLURAL = re.compile(r"\.(one|other)$")


def test_both_languages_have_the_same_texts_with_the_same_places() -> None:
    assert list(WORDS["en"]) == list(WORDS["de"])
    for key, text in WORDS["en"].items():
        other = WORDS["de"][key]
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", other)), key
        assert "" not in (text.strip(), other.strip()), key
        assert (text[0] == " ", text[-1] == " ") == (other[0] == " ", other[-1] == " "), key


def test_every_text_that_the_page_asks_for_is_there_and_every_one_is_asked_for() -> None:
    known = {PLURAL.sub("", key) for key in WORDS["en"]}
    page = (STATIC / "card.html").read_text(encoding="utf-8") + "".join(SCRIPTS.values())
    asked = set(re.findall(r"""\bt\(\s*"([^"]+)"|data-(?:text|label|title)="([^"]+)\"""", page))
    named = {key for pair in asked for key in pair if key}
    assert named - known == set()
    # `${...}` in a key stands for some of them
    patterns = [re.escape(key).replace(r"\$", "$") for key in re.findall(r"\bt\(\s*`([^`]+)`", page)]
    patterns = [re.sub(r"\$\\\{.*?\\\}(?=\W*\w*$)|\$\\\{.*?\\\}", ".+", pattern) for pattern in patterns]
    # a key can be chosen by a condition
    chosen = set(re.findall(r'"([a-z_]+\.[a-z_:0-9]+)"', page))
    unused = {key for key in known - named - chosen if not any(re.fullmatch(pattern, key) for pattern in patterns)}
    assert unused == set()


def test_markup_is_made_in_one_place_only() -> None:
    makers = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser")
    found = [(name, match) for name, script in SCRIPTS.items() for match in makers.findall(script)]
    assert found == [("element.js", "innerHTML")]


def test_the_forms_have_their_texts_in_both_languages_and_ask_for_every_one() -> None:
    english, german = (
        json.loads((STATIC / f"strings_forms.{language}.json").read_text("utf-8")) for language in ("en", "de")
    )
    # in English an error speaks for itself
    assert [key for key in german if not re.fullmatch(r"error\.[A-Z]\w+", key)] == list(english)
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", german[key])), key
    forms = "".join(
        (STATIC / f"{name}.html").read_text("utf-8") for name in ("login", "invite", "join", "password", "refused")
    )
    shown = {key for key in english if "." not in key}
    # one text is there on a condition
    assert shown - {"login_everybody"} == set(re.findall(r"\$t_(\w+)", forms))
    kinds = {key.removeprefix("error.") for key in german} - {key.removeprefix("error.") for key in english}
    # those of two modules, and with them all of theirs
    assert {InvalidInvite, WrongPassword} < set(AccountError.__subclasses__())
    known = {*AccountError.__subclasses__(), *AnnotationError.__subclasses__(), StoreUnavailable}
    assert kinds - {kind.__name__ for kind in known} == set()
