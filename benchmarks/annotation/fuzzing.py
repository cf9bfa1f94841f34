"""Schemathesis against the running app, by the app's own document: whatever it sends, no request makes a 5xx."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from annotation import audit
from annotation.accounts import Accounts
from annotation.exporting.options import AGGREGATIONS, CONTAINERS, FORMS
from annotation.records import ROLES
from benchmarks.annotation.figures import Figure
from benchmarks.annotation.roles import PASSWORD, App, app_with_accounts

AS = ("manager", "annotator")
MOST_PASSES = 20
REST = "/api/v1/"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
SETTINGS = {
    "database": None,
    "deadline": None,
    "phases": [hypothesis.Phase.generate],
    "suppress_health_check": list(hypothesis.HealthCheck),
}


def fuzz(kind: str, folder: Path, *, cases: int = 5_000) -> Figure:
    """So many cases, half of them as a manager and half as an annotator; half of what they name is there."""
    with app_with_accounts(kind, folder, "fuzz") as app:
        schema = schemathesis.openapi.from_url(f"{app.server.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        named = names_of_what_is_there(app)
        fuzzers = [Fuzzer(app, who, named) for who in AS]
        for fuzzer in fuzzers:
            fuzzer.run(operations, -(-cases // len(AS)))
        with app.store.reading() as connection:
            chains = audit.verify(connection).problems
        alive = app.server.answers()
        tracebacks = app.server.log.read_text(encoding="utf-8").count("Traceback")
    statuses = sum((fuzzer.statuses for fuzzer in fuzzers), Counter[int]())
    failures = [each for fuzzer in fuzzers for each in fuzzer.failures]
    violations = [each for fuzzer in fuzzers for each in fuzzer.violations]
    text = (
        f"{statuses.total()} cases for {len(operations)} operations as {' and '.join(AS)}: {len(failures)} with 5xx or "
        f"without an answer, {len(violations)} answers other than the document says"
    )
    kept = statuses.total() >= cases and alive and not (failures or violations or tracebacks or chains)
    details = {"statuses": dict(sorted(statuses.items())), "tracebacks": tracebacks}
    details |= {"failures": failures[:10], "violations": violations[:10]}
    return Figure("fuzzing by the app's document", kind, text, kept, details)


class Fuzzer:
    """Sends cases as somebody, and keeps what was answered otherwise than it should be."""

    def __init__(self, app: App, who: str, named: Mapping[str, Mapping[str, Sequence[Any]]]):
        self.app = app
        self.who = who
        self.named = named
        self.draw = random.Random(0)
        self.session = requests.Session()
        self.statuses = Counter[int]()
        self.failures: list[str] = []
        self.violations: list[str] = []
        self.sign_in()
        for number in range(5):
            # who was shown an item may judge it
            self.session.post(f"{app.server.url}/api/v1/next", json={"client": f"tab-{number}"}).raise_for_status()

    def sign_in(self) -> None:
        self.session.cookies.clear()
        self.session.cookies.set(self.app.cookie, self.app.sign_in(self.who))

    def run(self, operations: Sequence[Any], cases: int) -> None:
        """Spread over the operations; those without parameters have one case each, and leave the others more."""
        for number in range(MOST_PASSES):
            for place, operation in enumerate(operations):
                left = cases - self.statuses.total()
                if left > 0:
                    self.send_some(operation, -(-left // (len(operations) - place)), number)

    def send_some(self, operation: Any, count: int, seed: int) -> None:
        modes = schemathesis.GenerationMode
        strategy = operation.as_strategy(generation_mode=modes.POSITIVE)
        if any(True for _ in operation.iter_parameters()) or operation.body:
            strategy |= operation.as_strategy(generation_mode=modes.NEGATIVE)

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=count, **SETTINGS)
        @hypothesis.given(case=strategy)
        def send(case: schemathesis.Case) -> None:
            self.send(case)

        send()

    def send(self, case: schemathesis.Case) -> None:
        self.name_what_is_there(case)
        is_page = not case.path.startswith(REST)  # it may count wrong tries, and end the session
        if is_page:
            self.app.forget_tries()
        try:
            answer = case.call(session=self.session, allow_redirects=False, timeout=60)
        except requests.RequestException as error:
            self.statuses[0] += 1
            self.failures.append(f"{self.who} {case.method} {case.path}: {error}"[:500])
            return
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            self.failures.append(f"{self.who} {case.as_curl_command()} {answer.status_code} {answer.text}"[:1000])
        if is_page and answer.status_code == 303:
            self.sign_in()
        elif not is_page:
            try:
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as group:
                self.violations.append(f"{self.who} {case.method} {case.path}: {group}"[:1000])

    def name_what_is_there(self, case: schemathesis.Case) -> None:
        places = (("path", case.path_parameters), ("body", case.body))
        for place, values in places:
            for name in self.named[place] if isinstance(values, dict) else ():
                if name in values and self.draw.random() < 0.5:
                    values[name] = self.draw.choice(self.named[place][name])


def names_of_what_is_there(app: App) -> dict[str, dict[str, list[Any]]]:
    """Values that lead somewhere, by the name of a part of the path or of a field."""
    accounts = Accounts(app.store)
    victims = [accounts.add(f"victim {number}", "annotator", PASSWORD, by=None).id for number in range(3)]
    with app.signed_in("manager") as manager:
        request_id = app.cancelled_prompt(manager)
        card = manager.post("/api/v1/next", json={"client": "tab"}).json()["card"]
        said = {"client": "tab", "id": request_id, "item_id": card["item_id"], "kind": "ranking", "ranks": [1, 2]}
        manager.post("/api/v1/judgments", json=said).raise_for_status()
        export = manager.post("/api/v1/manage/exports", json={}).json()["id"]
        link = manager.post("/api/v1/admin/invites", json={"uses": 1000}).json()["link"]
        invite = manager.get("/api/v1/admin/invites").json()["invites"][0]["id"]
    return {
        "path": {
            "campaign_id": [1],
            "annotator_id": victims,
            "request_id": [request_id],
            "archive_id": [export],
            "invite_id": [invite],
            "token": [link.rpartition("/")[2]],
            "name": ["progress", "annotators", "ratings", "judgments_per_day"],
            "form": ["svg", "png"],
        },
        "body": {
            "client": ["tab", "another-tab"],
            "item_id": [str(number) for number in range(1, 21)],
            "item_ids": [["1", "2"]],
            "campaign_id": [1],
            "version": [1],
            "kind": ["ranking", "skip", "flag"],
            "ranks": [[1, 2], [2, 1], [1, 1]],
            "strength": [None, 1],
            "aspects": [{}],
            "edits": [{}, {"0": "better"}],
            "reason": [None, "too long"],
            "messages": [[{"role": "user", "content": "Why?"}]],
            "role": [*ROLES[:2]],
            "state": ["active", "paused", "closed"],
            "form": [*FORMS],
            "container": [*CONTAINERS, ""],
            "aggregation": [*AGGREGATIONS, ""],
            "name": ["victim 1", "somebody"],
            "password": [PASSWORD],
        },
    }
