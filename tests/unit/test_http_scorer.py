"""A scorer behind an address, against a server of this process that answers as it is told to."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from reward import http_scorer
from reward.http_scorer import HttpScorer, retry_after
from reward.scorers import build_scorers
from rlhf.data.comparisons import Message
from rlhf.training.scoring import ScoringFailure, score_responses
from rlhf.training.stopping import ScorerError
from tests.unit.scorer_stand_in import Answer, StandIn, lengths

PROMPTS = [(Message("system", "Be kind."), Message("user", f"Question {index}")) for index in range(5)]
RESPONSES = ["a", "bb", "ccc", "dddd", "eeeee"]
LENGTHS = [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Callable[[dict, int], Answer]], StandIn]]:
    monkeypatch.setattr(http_scorer, "FIRST_WAIT", 0.01)
    monkeypatch.delenv(http_scorer.API_KEY_VARIABLE, raising=False)
    started: list[StandIn] = []

    def start(answer: Callable[[dict, int], Answer]) -> StandIn:
        started.append(StandIn(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


def scorer_of(server: StandIn, **settings: Any) -> HttpScorer:
    return HttpScorer("remote", server.url, **{"timeout": 5.0, "retries": 2, "batch_size": 2} | settings)


def test_conversations_go_out_in_batches_and_scores_come_back_in_order(serve) -> None:
    server = serve(lengths)
    assert scorer_of(server).score(PROMPTS, RESPONSES) == LENGTHS
    assert [len(body["responses"]) for body in server.requests] == [2, 2, 1]
    assert server.requests[1]["prompts"][0] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Question 2"},
    ]
    assert set(server.requests[0]) == {"prompts", "responses"}
    assert server.keys == [None] * 3


def test_an_answer_without_end_is_not_read_to_its_end(serve, monkeypatch) -> None:
    monkeypatch.setattr(http_scorer, "MOST_BYTES", 1000)
    server = serve(lambda body, _: Answer({"scores": [1.0], "more": "x" * 1000}))
    with pytest.raises(ScoringFailure, match="answered with more than 1000 bytes"):
        scorer_of(server).score(PROMPTS[:1], RESPONSES[:1])
    assert len(server.requests) == 1


def test_the_key_of_the_environment_is_sent(serve, monkeypatch) -> None:
    server = serve(lengths)
    monkeypatch.setenv("RLHF_SCORER_API_KEY", "sesame")
    scorer_of(server).score(PROMPTS[:1], RESPONSES[:1])
    assert server.keys == ["Bearer sesame"]


@pytest.mark.parametrize("key", ["sesame\n", " sesame\r\n"])
def test_a_line_break_that_a_file_left_behind_the_key_is_not_sent(serve, monkeypatch, key) -> None:
    server = serve(lengths)
    monkeypatch.setenv("RLHF_SCORER_API_KEY", key)
    scorer_of(server).score(PROMPTS[:1], RESPONSES[:1])
    assert server.keys == ["Bearer sesame"]


@pytest.mark.parametrize("key", ["ses\name", "sesam\u00e9", "ses\x07ame"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(monkeypatch, key) -> None:
    monkeypatch.setenv("RLHF_SCORER_API_KEY", key)
    with pytest.raises(ValueError, match="RLHF_SCORER_API_KEY holds a line break or a character") as caught:
        build_scorers(["http://localhost:9/score"], timeout=1.0, retries=0, batch_size=1)
    assert "ses" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_server_repeats_is_not_shown(serve, monkeypatch, status) -> None:
    server = serve(lambda body, number: Answer("no access for sesame", status))
    monkeypatch.setenv("RLHF_SCORER_API_KEY", "sesame")
    with pytest.raises(ScoringFailure, match=r"no access for \[key\]") as caught:
        scorer_of(server, retries=0).score(PROMPTS[:1], RESPONSES[:1])
    assert "sesame" not in str(caught.value)


def test_proxies_of_the_environment_are_not_asked_for_this_machine(serve, monkeypatch) -> None:
    server = serve(lengths)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert scorer_of(server).score(PROMPTS, RESPONSES) == LENGTHS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(serve, status) -> None:
    server = serve(lambda body, number: Answer("busy", status) if number < 3 else lengths(body))
    assert scorer_of(server, batch_size=5).score(PROMPTS, RESPONSES) == LENGTHS
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_asked_again(serve, status) -> None:
    server = serve(lambda body, number: Answer("no such model", status))
    with pytest.raises(ScoringFailure, match=f"answered with status {status}: no such model"):
        scorer_of(server).score(PROMPTS, RESPONSES)
    assert len(server.requests) == 1


def test_a_redirection_is_not_followed(serve, monkeypatch) -> None:
    monkeypatch.setenv("RLHF_SCORER_API_KEY", "sesame")
    other = serve(lengths)
    server = serve(lambda body, number: Answer("", 307, {"Location": other.url}))
    with pytest.raises(ScoringFailure, match="answered with status 307"):
        scorer_of(server).score(PROMPTS, RESPONSES)
    assert other.requests == []


def test_the_last_failure_is_told(serve) -> None:
    server = serve(lambda body, number: Answer("overloaded", 503))
    with pytest.raises(ScoringFailure, match="status 503: overloaded, the last of 3 times"):
        scorer_of(server).score(PROMPTS, RESPONSES)
    assert len(server.requests) == 3


def test_a_server_that_asks_for_patience_gets_it(serve, monkeypatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(http_scorer.time, "sleep", waits.append)
    headers = iter(["7", "100000", "soon", None])

    def answer(body: dict, number: int) -> Answer:
        header = next(headers, "end")
        return lengths(body) if header == "end" else Answer("", 429, {"Retry-After": header} if header else {})

    server = serve(answer)
    scorer_of(server, batch_size=5, retries=4).score(PROMPTS, RESPONSES)
    assert waits[:2] == [7.0, http_scorer.LONGEST_WAIT]
    # without a number: 0.01 doubled each time, and somewhere in its upper half
    assert 0.02 <= waits[2] <= 0.04
    assert 0.04 <= waits[3] <= 0.08


def test_a_date_to_wait_for_is_read_as_seconds() -> None:
    seconds = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert seconds is not None
    assert 25 < seconds <= 30
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(seconds=30), usegmt=True)) == 0.0


def test_a_slow_answer_times_out(serve) -> None:
    server = serve(lambda body, number: Answer({"scores": [1.0] * 5}, wait=20.0))
    started = time.monotonic()
    with pytest.raises(ScoringFailure, match=r"timed out after 0.2 seconds, the last of 2 times"):
        scorer_of(server, timeout=0.2, retries=1, batch_size=5).score(PROMPTS, RESPONSES)
    assert time.monotonic() - started < 5
    assert len(server.requests) == 2


def test_an_answer_that_drips_times_out_as_a_whole(serve) -> None:
    server = serve(lambda body, number: Answer({"scores": [1.0] * 5}, drip=0.1))
    started = time.monotonic()
    with pytest.raises(ScoringFailure, match="timed out"):
        scorer_of(server, timeout=0.4, retries=0, batch_size=5).score(PROMPTS, RESPONSES)
    assert time.monotonic() - started < 1.5


def test_a_slow_first_answer_is_made_up_for_by_the_next(serve) -> None:
    server = serve(lambda body, number: Answer("", wait=20.0) if number == 1 else lengths(body))
    assert scorer_of(server, timeout=0.3, batch_size=5).score(PROMPTS, RESPONSES) == LENGTHS


@pytest.mark.parametrize(
    "answer, message",
    [
        (Answer({"scores": [1.0]}), "gave 1 scores for 2 responses"),
        (Answer({"scores": 1.0}), "gave a float as scores"),
        (Answer({"rewards": [1.0, 2.0]}), 'answered without scores: {"rewards"'),
        (Answer([1.0, 2.0]), "answered without scores"),
        (Answer("<html>Hello</html>"), "answered without scores: <html>"),
        (Answer(""), "answered without scores"),
        (Answer("this is no gzip", headers={"Content-Encoding": "gzip"}), "answered unreadably"),
    ],
)
def test_an_answer_of_another_shape_names_the_batch(serve, answer, message) -> None:
    server = serve(lambda body, number: lengths(body) if number == 1 else answer)
    with pytest.raises(ScoringFailure, match=message) as caught:
        scorer_of(server).score(PROMPTS, RESPONSES)
    assert caught.value.first == 2
    assert len(server.requests) == 2


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", '"0.5"', "[1]"])
def test_a_value_that_is_no_number_stops_the_run_or_is_left_out(serve, value) -> None:
    def answer(body: dict, number: int) -> Answer:
        values = [value if response == "ccc" else "1.5" for response in body["responses"]]
        return Answer(f'{{"scores": [{", ".join(values)}]}}')

    scorer = scorer_of(serve(answer))
    with pytest.raises(ScorerError, match=r"scorer remote gave .* response 3 of 5, 'ccc'"):
        score_responses(scorer, PROMPTS, RESPONSES, failed="stop")
    scores = score_responses(scorer, PROMPTS, RESPONSES, failed="leave_out")
    assert [score == 1.5 for score in scores] == [True, True, False, True, True]


def test_only_the_response_that_a_server_cannot_score_is_left_out(serve) -> None:
    server = serve(lambda body, number: Answer("?", 500) if "dddd" in body["responses"] else lengths(body))
    scores = score_responses(scorer_of(server, retries=0), PROMPTS, RESPONSES, failed="leave_out")
    assert [*scores[:3], scores[4]] == [1.0, 2.0, 3.0, 5.0]
    assert scores[3] != scores[3]


@pytest.fixture
def nobody() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}/score"


def test_a_refused_connection_is_tried_again_and_told(nobody, monkeypatch) -> None:
    monkeypatch.setattr(http_scorer, "FIRST_WAIT", 0.01)
    scorer = HttpScorer("remote", nobody, timeout=2.0, retries=1, batch_size=2)
    with pytest.raises(ScorerError, match=r"could not be reached \(ConnectError.*the last of 2 times.*response 1 of 5"):
        score_responses(scorer, PROMPTS, RESPONSES, failed="stop")


def test_an_address_that_does_not_answer_is_refused_before_a_run(nobody) -> None:
    with pytest.raises(ValueError, match=r"scorer 127.0.0.1-.* could not be reached.*it must answer a POST"):
        build_scorers([nobody], timeout=2.0, retries=0, batch_size=2)


def test_an_address_that_gives_no_number_is_refused_before_a_run(serve) -> None:
    server = serve(lambda body, number: Answer({"scores": [None]}))
    with pytest.raises(ValueError, match="scorer judge gave None for a response, when asked for one score"):
        build_scorers([f"judge={server.url}"], timeout=2.0, retries=0, batch_size=2)


def test_an_address_is_asked_for_one_score_before_a_run(serve) -> None:
    server = serve(lengths)
    (scorer,) = build_scorers([f"judge={server.url}"], timeout=2.0, retries=0, batch_size=2)
    assert [len(body["responses"]) for body in server.requests] == [1]
    assert scorer.name == "judge"


@pytest.mark.parametrize(
    "url",
    [
        *("http://me:secret@localhost/score", "https://secret@localhost", "http://localhost/score?api_key=secret"),
        *("judge=http://localhost/score?key=secret", "http://localhost/score#secret", "HTTP://me:secret@localhost/"),
    ],
)
def test_an_address_with_a_key_is_refused_and_not_shown(url) -> None:
    with pytest.raises(ValueError, match="RLHF_SCORER_API_KEY") as caught:
        build_scorers([url], timeout=1.0, retries=0, batch_size=1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "https:///score", "http://local host:x/"])
def test_an_address_without_a_host_is_refused(url) -> None:
    with pytest.raises(ValueError, match=r"which (names no host|is no address)"):
        build_scorers([url], timeout=1.0, retries=0, batch_size=1)


def test_a_key_over_an_open_network_is_warned_of(monkeypatch, caplog) -> None:
    monkeypatch.setenv("RLHF_SCORER_API_KEY", "sesame")
    HttpScorer("remote", "http://scores.example.org/", timeout=1.0, retries=0, batch_size=1)
    assert "unencrypted" in caplog.text
    caplog.clear()
    HttpScorer("remote", "https://scores.example.org/", timeout=1.0, retries=0, batch_size=1)
    HttpScorer("remote", "http://localhost:8000/", timeout=1.0, retries=0, batch_size=1)
    assert caplog.text == ""
