"""Live prompts on real databases: the queue between annotators and workers, and the items that come of it."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

import annotation.worker
from annotation.api import create_app
from annotation.importing import PolicyOrigin
from annotation.live import (
    ALL_THE_SAME,
    KNOWN_ALREADY,
    MOST_WAITING,
    NOBODY_CAME,
    PATIENCE_SECONDS,
    TOO_FEW_TEXTS,
    WORKER_SECONDS,
    InvalidPrompt,
    LivePrompts,
    TooManyWaiting,
    UnknownRequest,
)
from annotation.records import Judgment, Said, TooLong
from annotation.routes import live as live_routes
from annotation.service import AnnotationService
from annotation.store import Store, StoreBusy, StoreUnavailable
from annotation.tables import campaign, completion, item, judgment, live_request, live_worker, policy, showing, slot
from annotation.worker import LOST_ONCE, LOST_TWICE, LivePolicy, LiveQueue, Unanswerable, Worker
from rlhf.data.comparisons import Message, Response

Result = TypeVar("Result")

ORIGINS = {"runs/sft": PolicyOrigin("a" * 64, {"stage": "sft"}), "runs/ppo": PolicyOrigin("b" * 64)}
SAMPLING = {"num_samples": 1, "max_new_tokens": 8, "temperature": 0.5}
POLICIES = [LivePolicy(name, origin, SAMPLING) for name, origin in ORIGINS.items()]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


class Spoken:
    """An answer that is said word by word."""

    def __init__(self, words: Sequence[str], name: str, seed: int, before_step: Callable[[int], None]):
        self.words = words
        self.name = name
        self.seed = seed
        self.said = 0
        self.before_step = before_step

    @property
    def ended(self) -> bool:
        return self.said == len(self.words)

    def step(self) -> None:
        self.before_step(self.said)
        self.said += 1

    def text(self) -> str:
        return " ".join(self.words[: self.said])

    def response(self) -> Response:
        return Response(" ".join(self.words), self.name, SAMPLING, self.seed, "stop")


class Speakers:
    """Policies whose answers are known before."""

    def __init__(self, *texts: str, before_step: Callable[[int], None] = lambda step: None):
        self.texts = texts
        self.before_step = before_step

    def start(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[Spoken]:
        each = zip(self.texts, ORIGINS, seeds, strict=True)
        return [Spoken(text.split(" "), name, seed, self.before_step) for text, name, seed in each]


class Refusing:
    def __init__(self, error: Exception):
        self.error = error

    def start(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[Spoken]:
        raise self.error


@pytest.fixture
def prompts(store: Store, clock) -> LivePrompts:
    return LivePrompts(store, clock=clock)


@pytest.fixture
def campaign_id(store: Store) -> int:
    return add_campaign(store, "Own prompts", {"live": True})


@pytest.fixture
def ada(sign_in) -> str:
    return sign_in("Ada")


@pytest.fixture
def queue(store: Store, clock) -> LiveQueue:
    return joined(store, clock)


@pytest.fixture
def ask(prompts: LivePrompts, ada: str, campaign_id: int) -> Callable[..., str]:
    """`ask("What?")` queues a prompt of Ada's and gives its id."""

    def queue_up(content: str = "Why is the sky blue?", annotator_id: str = ada) -> str:
        request_id = str(uuid.uuid4())
        messages = [{"role": "user", "content": content}]
        prompts.ask(annotator_id, "tab-1", request_id, campaign_id, messages)
        return request_id

    return queue_up


def joined(store: Store, clock, policies: Sequence[LivePolicy] = POLICIES) -> LiveQueue:
    queue = LiveQueue(store, policies, clock=clock)
    queue.join()
    return queue


def add_campaign(store: Store, name: str, settings: dict[str, object], state: str = "open") -> int:
    row = {"name": name, "overlap": 1, "created_at": 0.0, "settings": settings, "state": state}
    with store.writing() as connection:
        return connection.execute(sa.insert(campaign).values(row).returning(campaign.c.id)).scalar_one()


def patiently(action: Callable[[], Result]) -> Result:
    """Ask again while the store says that it is busy, as a worker does."""
    while True:
        try:
            return action()
        except StoreUnavailable:
            time.sleep(0.1)


def rows_of(store: Store, table: sa.Table, *order: sa.Column) -> list[sa.Row]:
    with store.reading() as connection:
        return list(connection.execute(sa.select(table).order_by(*order)))


@pytest.fixture
def every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is written at once."""
    monkeypatch.setattr(annotation.worker, "WRITE_SECONDS", 0)


# ---- asking ---------------------------------------------------------------------------------------------------


def test_prompts_are_taken_in_open_campaigns_that_say_so(store: Store, prompts, ada, clock) -> None:
    add_campaign(store, "plain", {})
    add_campaign(store, "members", {"live": True, "members_only": True})
    add_campaign(store, "closed", {"live": True}, state="closed")
    number = add_campaign(store, "live", {"live": True})
    offered, worker = prompts.campaigns(ada)
    assert [(found.campaign_id, found.campaign, found.policies) for found in offered] == [(number, "live", 0)]
    assert worker is False
    queue = joined(store, clock)
    assert (prompts.campaigns(ada)[0][0].policies, prompts.campaigns(ada)[1]) == (2, True)
    clock.now += WORKER_SECONDS
    assert prompts.campaigns(ada)[1] is False
    queue.beat()
    assert prompts.campaigns(ada)[1] is True
    queue.leave()
    assert prompts.campaigns(ada)[1] is False
    for refused in (number - 1, number - 2, number - 3, number + 1):
        with pytest.raises(InvalidPrompt, match=f"campaign {refused} takes no prompts of yours"):
            prompts.ask(ada, "tab-1", str(uuid.uuid4()), refused, QUESTION)


def test_a_prompt_sent_twice_is_one_prompt(store: Store, prompts, ada, sign_in, campaign_id) -> None:
    request_id = str(uuid.uuid4())
    assert [prompts.ask(ada, "tab-1", request_id, campaign_id, QUESTION) for _ in range(2)] == ["waiting", "waiting"]
    assert len(rows_of(store, live_request)) == 1
    other = [{"role": "user", "content": "something else"}]
    with pytest.raises(InvalidPrompt, match="was used for another prompt"):
        prompts.ask(ada, "tab-1", request_id, campaign_id, other)
    grace = sign_in("Grace")
    with pytest.raises(InvalidPrompt, match="was used for another prompt"):
        prompts.ask(grace, "tab-1", request_id, campaign_id, QUESTION)
    for action in (prompts.look, prompts.cancel):
        with pytest.raises(UnknownRequest):
            action(grace, request_id)


@pytest.mark.parametrize(
    "messages, words",
    [
        ([], "at least the user's message"),
        ([{"role": "assistant", "content": "hello"}], "end the prompt with the user"),
        ([{"role": "user", "content": " \n"}], "only white space"),
        ([{"role": "robot", "content": "x"}], "use one of system, user, assistant"),
        ([{"role": "user", "content": "a\0b"}], "NUL"),
        ([{"role": "user", "content": "x" * 50_001}], "50001 characters, at most 50000"),
        (QUESTION * 101, "101 messages"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_refused_in_words(store, prompts, ada, campaign_id, messages, words) -> None:
    with pytest.raises((InvalidPrompt, TooLong), match=words):
        prompts.ask(ada, "tab-1", str(uuid.uuid4()), campaign_id, messages)


def test_an_annotator_has_few_prompts_under_way_and_sees_their_place(prompts, ada, ask, sign_in, clock) -> None:
    first = ask("0")
    clock.now += 1
    grace = sign_in("Grace")
    hers = ask("hers", annotator_id=grace)
    clock.now += 1
    mine = [first, *(ask(str(number)) for number in range(1, MOST_WAITING))]
    with pytest.raises(TooManyWaiting, match=f"{MOST_WAITING} prompts of yours are not answered yet"):
        ask("one more")
    assert prompts.look(ada, first).position == 1
    assert prompts.look(grace, hers).position == 2
    assert sorted(prompts.look(ada, request_id).position for request_id in mine) == [1, 3, 4]
    assert prompts.cancel(ada, first) == "cancelled"
    assert prompts.look(ada, first).position is None
    assert prompts.look(grace, hers).position == 1
    ask("one more")


def test_a_prompt_that_nobody_takes_is_given_up(prompts, ada, ask, queue, clock) -> None:
    old = ask("old")
    assert prompts.look(ada, old).worker is True
    clock.now += PATIENCE_SECONDS
    assert prompts.look(ada, old).worker is False
    assert queue.claim() is None
    view = prompts.look(ada, old)
    assert (view.state, view.error) == ("failed", NOBODY_CAME)


# ---- answers become an item -----------------------------------------------------------------------------------


def test_answers_become_an_item_of_the_tab_that_asked(
    store: Store, service: AnnotationService, prompts, ada, ask, queue
) -> None:
    request_id = ask()
    assert Worker(queue, Speakers("Rayleigh scattering.", "I do not know.")).work() is True
    view = prompts.look(ada, request_id)
    assert (view.state, view.error, view.position) == ("done", None, None)
    assert view.card is not None
    assert (view.card.kind, view.card.prompt) == ("live", (Message("user", "Why is the sky blue?"),))
    assert view.card.responses == tuple(answer.text for answer in view.answers)
    assert all(answer.done for answer in view.answers)

    (made,) = rows_of(store, item)
    assert (made.kind, made.source) == ("live", "live")
    (held,) = rows_of(store, slot)
    assert (held.state, held.annotator_id, held.client, held.kind) == ("leased", ada, "tab-1", "live")
    (seen,) = rows_of(store, showing)
    names = {"Rayleigh scattering.": 0, "I do not know.": 1}
    assert seen.shown_order == [names[text] for text in view.card.responses]
    assert seen.chosen_by == "own"
    completions = rows_of(store, completion, completion.c.position)
    policies = {row.id: row for row in rows_of(store, policy)}
    kept = [(policies[row.policy_id].name, row.text, row.sampling, row.finish_reason) for row in completions]
    assert kept == [
        ("runs/sft", "Rayleigh scattering.", SAMPLING, "stop"),
        ("runs/ppo", "I do not know.", SAMPLING, "stop"),
    ]
    assert [(row.sha256, row.manifest) for row in policies.values()] == [("a" * 64, {"stage": "sft"}), ("b" * 64, None)]
    assert len({row.seed for row in completions}) == 2

    # others are not given it, the tab holds it, and a judgment of it counts
    assert service.next_card(ada, "tab-2").card is None
    given = service.next_card(ada, "tab-1").card
    assert given is not None
    assert (given.item_id, given.responses, given.kind) == (view.card.item_id, view.card.responses, "live")
    place = view.card.responses.index("Rayleigh scattering.")
    said = Said("ranking", ranks=tuple(1 if at == place else 2 for at in range(2)), strength=3)
    service.submit(ada, Judgment(str(uuid.uuid4()), view.card.item_id, said))
    (judged,) = rows_of(store, judgment)
    assert (judged.ranks, judged.role, judged.shown_order) == ([1, 2], "live", seen.shown_order)
    assert prompts.look(ada, request_id).card is None


def test_an_item_that_its_author_left_comes_back_to_them_and_to_nobody_else(
    service: AnnotationService, prompts, ada, ask, queue, sign_in, clock
) -> None:
    request_id = ask()
    Worker(queue, Speakers("one", "two")).work()
    item_id = prompts.look(ada, request_id).card.item_id
    clock.now += 3600
    assert service.next_card(sign_in("Grace"), "tab-2").card is None
    given = service.next_card(ada, "tab-2").card
    assert (given.item_id, given.kind) == (item_id, "live")
    service.submit(ada, Judgment(str(uuid.uuid4()), item_id, Said("ranking", (1, 2))))
    assert service.progress(ada).available == 0


def test_the_order_is_blind_and_stays_from_the_first_word_to_the_card(prompts, ada, ask, queue, every_word) -> None:
    orders = Counter()
    for number in range(12):
        request_id = ask(f"question {number}")
        seen: list[list[str]] = []
        look = lambda step: seen.append([answer.text for answer in prompts.look(ada, request_id).answers])  # noqa: B023, E731
        Worker(queue, Speakers(f"left {number} a", f"right {number} b c d", before_step=look)).work()
        last = prompts.look(ada, request_id)
        assert last.card is not None
        for place, text in enumerate(last.card.responses):
            growing = [texts[place] for texts in seen if texts]
            assert all(text.startswith(part) for part in growing)
            assert [len(part) for part in growing] == sorted(len(part) for part in growing)
        assert any(0 < len(texts[0]) < len(last.card.responses[0]) for texts in seen)
        orders[last.card.responses[0].split()[0]] += 1
    assert set(orders) == {"left", "right"}  # missed by chance once in 2048


@pytest.mark.parametrize(
    "texts, words",
    [(("the same", "the same"), ALL_THE_SAME), (("an answer", " "), TOO_FEW_TEXTS), (("", ""), TOO_FEW_TEXTS)],
    ids=["same", "one blank", "all blank"],
)
def test_answers_that_leave_no_choice_make_no_item(store: Store, prompts, ada, ask, queue, texts, words) -> None:
    request_id = ask()
    Worker(queue, Speakers(*texts)).work()
    view = prompts.look(ada, request_id)
    assert (view.state, view.error, view.card) == ("done", words, None)
    assert rows_of(store, item) == []


def test_the_same_answers_again_make_no_second_item(store: Store, prompts, ada, ask, queue) -> None:
    speakers = Speakers("one", "two")
    asked = [ask(), ask()]  # at the same time: either may come first
    assert [Worker(queue, speakers).work() for _ in range(3)] == [True, True, False]
    views = [prompts.look(ada, request_id) for request_id in asked]
    assert [view.state for view in views] == ["done", "done"]
    assert {view.error for view in views} == {None, KNOWN_ALREADY}
    assert all((view.card is None) == (view.error is not None) for view in views)
    assert len(rows_of(store, item)) == 1


def test_a_blank_answer_among_three_is_left_out_and_the_others_keep_their_order(
    store, prompts, ada, ask, clock
) -> None:
    three = [LivePolicy(name, PolicyOrigin(""), SAMPLING) for name in ("a", "b", "c")]
    queue = joined(store, clock, three)

    class Three:
        def start(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[Spoken]:
            texts = ("first answer", " ", "third answer")
            return [Spoken([text], "x", seed, lambda step: None) for text, seed in zip(texts, seeds, strict=True)]

    for number in range(4):
        request_id = ask(str(number))
        Worker(queue, Three()).work()
        view = prompts.look(ada, request_id)
        assert view.card is not None
        assert list(view.card.responses) == [answer.text for answer in view.answers if answer.text.strip()]
        assert sorted(view.card.responses) == ["first answer", "third answer"]


@pytest.mark.parametrize(
    "answering, words",
    [
        (Refusing(Unanswerable("the conversation has 9 tokens")), "the conversation has 9 tokens"),
        (Refusing(RuntimeError("/secret/path")), r"the worker failed at this \(RuntimeError\); its log says why"),
        (Speakers("fine", "with \0 in it"), "NUL"),
    ],
    ids=["words", "defect", "NUL"],
)
def test_a_prompt_that_is_not_answered_fails_in_words_and_the_next_one_is(
    prompts, ada, ask, queue, answering, words
) -> None:
    bad = ask("bad")
    Worker(queue, answering).work()
    view = prompts.look(ada, bad)
    assert (view.state, view.card) == ("failed", None)
    assert view.error is not None
    assert re.search(words, view.error)
    good = ask("good")
    Worker(queue, Speakers("one", "two")).work()
    assert prompts.look(ada, good).state == "done"


# ---- workers come and go --------------------------------------------------------------------------------------


def test_a_busy_store_ends_no_worker(store: Store, prompts, ada, ask, clock, caplog) -> None:
    class Busy(LiveQueue):
        tries = 0

        def join(self) -> None:
            self.tries += 1
            if self.tries == 1:
                raise StoreBusy("others write")
            super().join()

        def leave(self) -> None:
            raise StoreBusy("others write still")

    request_id = ask()
    worker = Worker(Busy(store, POLICIES, clock=clock), Speakers("one", "two"))
    running = threading.Thread(target=worker.run)
    running.start()
    while prompts.look(ada, request_id).state != "done":
        time.sleep(0.05)
    worker.stopping.set()
    running.join(timeout=20)
    assert not running.is_alive()
    assert "leaving: others write still" in caplog.text


def test_a_cancelled_prompt_is_answered_no_further(store: Store, prompts, ada, ask, queue, every_word) -> None:
    request_id = ask()
    steps: list[int] = []

    def count_and_cancel(step: int) -> None:
        steps.append(step)
        if len(steps) == 3:
            assert prompts.cancel(ada, request_id) == "cancelled"

    words = "a b c d e f g h i j k l m n o p"
    assert Worker(queue, Speakers(words, words + " q", before_step=count_and_cancel)).work() is True
    assert len(steps) == 4  # the round of both policies that was under way
    assert prompts.look(ada, request_id).state == "cancelled"
    assert prompts.cancel(ada, request_id) == "cancelled"
    assert rows_of(store, item) == []
    assert Worker(queue, Speakers("one", "two")).work() is False


def test_what_is_over_cannot_be_cancelled(prompts, ada, ask, queue) -> None:
    request_id = ask()
    Worker(queue, Speakers("one", "two")).work()
    assert prompts.cancel(ada, request_id) == "done"


def test_a_lost_workers_prompt_goes_on_with_the_same_seeds_and_is_tried_twice(
    store: Store, prompts, ada, ask, clock
) -> None:
    first, second, third = (joined(store, clock) for _ in range(3))
    request_id = ask()
    claimed = first.claim()
    assert claimed is not None
    assert first.write(request_id, {0: ("Rayleigh", None), 1: ("I do", None)})
    clock.now += 15
    first.beat()
    clock.now += 15
    assert second.claim() is None
    clock.now += 6
    again = second.claim()
    assert again is not None
    assert (again.id, again.seeds, again.texts) == (request_id, claimed.seeds, ("Rayleigh", "I do"))
    view = prompts.look(ada, request_id)
    assert (view.state, view.error) == ("running", LOST_ONCE)
    assert {answer.text for answer in view.answers} == {"Rayleigh", "I do"}
    # who is late writes nothing any more
    responses = [Response("late", "runs/sft", SAMPLING, 1), Response("later", "runs/ppo", SAMPLING, 2)]
    first.beat()
    assert [first.write(request_id, {}), first.finish(request_id, responses), first.fail(request_id, "x")] == [
        False
    ] * 3
    clock.now += 21
    assert third.claim() is None
    view = prompts.look(ada, request_id)
    assert (view.state, view.error) == ("failed", LOST_TWICE)


def test_text_does_not_shrink_when_another_worker_begins_again(store, prompts, ada, ask, clock, every_word) -> None:
    first, second = joined(store, clock), joined(store, clock)
    request_id = ask()
    first.claim()
    first.write(request_id, {0: ("one two three four", None), 1: ("eins", None)})
    clock.now += 21
    lengths: list[list[int]] = []
    look = lambda step: lengths.append([len(answer.text) for answer in prompts.look(ada, request_id).answers])  # noqa: E731
    Worker(second, Speakers("one two three four five", "eins zwei", before_step=look)).work()
    for column in zip(*lengths, strict=True):
        assert list(column) == sorted(column)
    assert prompts.look(ada, request_id).state == "done"


def test_a_worker_with_other_policies_begins_anew(store: Store, prompts, ada, ask, clock) -> None:
    first = joined(store, clock)
    request_id = ask()
    claimed = first.claim()
    first.write(request_id, {0: ("text", None)})
    clock.now += 21
    other = joined(store, clock, POLICIES[::-1])
    again = other.claim()
    assert again is not None
    assert again.texts == ("", "")
    assert claimed is not None
    assert again.seeds != claimed.seeds


def test_a_worker_that_leaves_gives_its_prompt_back(store: Store, prompts, ada, ask, clock) -> None:
    first, second = joined(store, clock), joined(store, clock)
    request_id = ask()
    first.claim()
    first.leave()
    assert (prompts.look(ada, request_id).state, prompts.look(ada, request_id).error) == ("waiting", None)
    assert [row.name for row in rows_of(store, live_worker)] == [second.name]
    assert second.claim() is not None


def test_no_prompt_goes_to_two_workers(store: Store, prompts, campaign_id, sign_in, clock) -> None:
    wanted = set()
    for number in range(7):
        annotator_id = sign_in(f"annotator {number}")
        for _ in range(MOST_WAITING):
            request_id = str(uuid.uuid4())
            prompts.ask(annotator_id, "tab-1", request_id, campaign_id, QUESTION)
            wanted.add(request_id)
    taken: list[str] = []

    def work() -> None:
        queue = patiently(lambda: joined(store, clock))
        while (claimed := patiently(queue.claim)) is not None:
            taken.append(claimed.id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # a worker that finds all rows locked sees none and stops; what is left is there for the next
    work()
    assert len(taken) == len(set(taken))
    assert set(taken) == wanted


def test_a_stopped_worker_gives_back_what_it_has_begun(store, prompts, ada, ask, clock) -> None:
    request_id = ask()
    worker = Worker(LiveQueue(store, POLICIES, clock=clock), Refusing(RuntimeError()))
    worker.answering = Speakers("a b c", "d e f", before_step=lambda step: worker.stopping.set())
    worker.run()
    assert prompts.look(ada, request_id).state == "waiting"
    assert rows_of(store, live_worker) == []


def test_the_worker_side_loads_no_torch() -> None:
    program = "import sys, annotation.worker, annotation.routes.live; print({'torch', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout == "set()\n", done.stderr


# ---- over HTTP ------------------------------------------------------------------------------------------------


@pytest.fixture
def app(service: AnnotationService, campaign_id: int) -> FastAPI:
    return create_app(service)


@pytest.fixture
def browser(app: FastAPI) -> TestClient:
    client = TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False)
    assert client.post("/login", data={"name": "Ada"}).status_code == 303
    return client


def asked(browser: TestClient, campaign_id: int, content: str = "Why?", **changes: object) -> tuple[str, int, dict]:
    request_id = str(uuid.uuid4())
    body = {"client": "tab-1", "id": request_id, "campaign_id": campaign_id}
    answer = browser.post("/api/v1/live", json=body | {"messages": [{"role": "user", "content": content}]} | changes)
    return request_id, answer.status_code, answer.json()


def told(text: str) -> Iterator[dict]:
    for line in text.split("\n\n"):
        if line.startswith("data: "):
            yield json.loads(line[6:])


def test_a_prompt_goes_through_the_rest_interface(browser: TestClient, campaign_id: int, store: Store, clock) -> None:
    offered = {"campaign_id": campaign_id, "campaign": "Own prompts", "policies": 0}
    assert browser.get("/api/v1/live").json() == {"campaigns": [offered], "worker": False}
    request_id, status, answer = asked(browser, campaign_id)
    assert (status, answer) == (201, {"id": request_id, "state": "waiting"})
    waiting = {"id": request_id, "state": "waiting", "position": 1, "answers": [], "error": None, "card": None}
    assert browser.get(f"/api/v1/live/{request_id}").json() == waiting | {"worker": False}

    worker = Worker(joined(store, clock), Speakers("*one*", "two"))
    threading.Timer(0.5, worker.work).start()  # the stream has begun by then, or comes to its end at once
    stream = browser.get(f"/api/v1/live/{request_id}/events")
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = list(told(stream.text))
    assert events[-1]["state"] == "done"
    card = events[-1]["card"]
    assert sorted(card["responses"]) == ["*one*", "two"]
    assert any("<em>one</em>" in html for html in card["html"]["responses"])
    assert all(first != second for first, second in itertools.pairwise(events))
    assert browser.get(f"/api/v1/live/{request_id}").json() == events[-1]
    body = {"client": "tab-1", "id": str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking", "ranks": [2, 1]}
    assert browser.post("/api/v1/judgments", json=body).status_code == 201


def test_what_cannot_be_done_is_said_with_a_status(browser: TestClient, app: FastAPI, campaign_id: int) -> None:
    assert asked(browser, campaign_id + 1)[1] == 422
    assert asked(browser, campaign_id, messages=[])[1] == 422
    ids = [asked(browser, campaign_id, str(number))[0] for number in range(MOST_WAITING)]
    _, status, answer = asked(browser, campaign_id)
    assert (status, "not answered yet" in answer["detail"]) == (429, True)
    assert browser.post(f"/api/v1/live/{ids[0]}/cancel", json={"client": "tab-1"}).json()["state"] == "cancelled"
    for path in (f"/api/v1/live/{uuid.uuid4()}", f"/api/v1/live/{uuid.uuid4()}/events"):
        assert browser.get(path).status_code == 404
    stranger = TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False)
    for path in ("/api/v1/live", f"/api/v1/live/{ids[1]}", f"/api/v1/live/{ids[1]}/events"):
        assert stranger.get(path).status_code == 401
    stranger.post("/login", data={"name": "Grace"})
    assert stranger.get(f"/api/v1/live/{ids[1]}/events").status_code == 404


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """A real server, whose streams may be left."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_streams_are_few_one_for_each_tab_and_end_when_they_are_left(app, address, campaign_id, monkeypatch) -> None:
    monkeypatch.setattr(live_routes, "MOST_STREAMS", 1)
    with httpx.Client(base_url=address, timeout=100) as browser:
        browser.post("/login", data={"name": "Ada"})
        first, other = asked(browser, campaign_id)[0], asked(browser, campaign_id, "other", client="tab-2")[0]
        with browser.stream("GET", f"/api/v1/live/{first}/events") as left:
            lines = left.iter_lines()  # let go of, it would end the stream
            assert json.loads(next(lines).removeprefix("data: "))["state"] == "waiting"
            refused = browser.get(f"/api/v1/live/{other}/events")
            assert (refused.status_code, "streams are open" in refused.json()["detail"]) == (503, True)
        wait_until(lambda: not app.state.live_streams._current)

        with browser.stream("GET", f"/api/v1/live/{other}/events") as replaced:
            lines = replaced.iter_lines()
            next(lines)
            with browser.stream("GET", f"/api/v1/live/{other}/events") as newer:
                assert [line for line in lines if line] == []  # it ends
                browser.post(f"/api/v1/live/{other}/cancel", json={"client": "tab-2"})
                *_, last = told("".join(newer.iter_text()))
                assert last["state"] == "cancelled"
        assert app.state.live_streams._current == {}
