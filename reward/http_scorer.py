"""A scorer behind an address: batches of conversations and responses go out as JSON, scores come back."""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from rlhf.data.comparisons import Message
from rlhf.training.scoring import ScoringFailure, score_responses
from rlhf.training.stopping import ScorerError

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "RLHF_SCORER_API_KEY"
FIRST_WAIT = 0.5  # seconds before the first repetition; doubled before each further one
LONGEST_WAIT = 60.0  # seconds, also of what a server asks for by Retry-After
TOO_MANY_REQUESTS = 429
MOST_BYTES = 16 * 2**20  # of an answer; a score is some twenty
SHOWN_CHARACTERS = 200
PROBE = (Message("user", "What is two and two?"),)
PROBE_RESPONSE = "It is four."


class _Retryable(Exception):
    """No answer, or one that says to try again, after `wait` seconds where it names them."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class HttpScorer:
    """Posts `{"prompts": [[{role, content}]], "responses": [text]}` and reads `{"scores": [number]}`.

    Connection errors, timeouts and the answers 429 and 5xx are tried again, after waits that double and vary; other
    answers are not. The environment's RLHF_SCORER_API_KEY is sent as a bearer key, and stands in no message. Proxies
    that the environment names are used, but not for an address of this machine.

    Args:
        name: the scorer's.
        url: the address, without names, keys and query.
        timeout: seconds for the whole answer to one batch.
        retries: how often a batch is tried again.
        batch_size: responses in one request.

    Raises:
        ValueError: the address is none, or holds a name, a key or a query; or the key cannot be sent.
    """

    def __init__(self, name: str, url: str, *, timeout: float, retries: int, batch_size: int):
        check_address(url)
        self.name = name
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.batch_size = batch_size
        self._key = _key_of_environment()
        self.is_local = _is_loopback(httpx.URL(url).host)
        if self._key and httpx.URL(url).scheme == "http" and not self.is_local:
            logger.warning("scorer %s: %s goes over the network unencrypted; use https", name, API_KEY_VARIABLE)
        self._random = random.Random()  # waits draw from no generator that the run's results depend on

    def probe(self) -> None:
        """Ask for one score.

        Raises:
            ValueError: none came, with what came instead.
        """
        try:
            score_responses(self, [PROBE], [PROBE_RESPONSE], failed="stop")
        except ScorerError as error:
            reason = str(error).partition("; first concerned")[0]
            raise ValueError(
                f'{reason}, when asked for one score; it must answer a POST of {{"prompts": [[{{"role", "content"}}, '
                f'...]], "responses": [text]}} with {{"scores": [number]}}'
            ) from error

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Sequence[float]:
        """`[n]` scores as the server gives them, whatever they are.

        Raises:
            ScoringFailure: a batch got no list of scores, or of another length.
        """
        scores: list[Any] = []
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with httpx.Client(headers=headers, timeout=self.timeout, trust_env=not self.is_local) as client:
            for start in range(0, len(responses), self.batch_size):
                batch = slice(start, start + self.batch_size)
                body: dict[str, list[Any]] = {
                    "prompts": [[message.to_dict() for message in prompt] for prompt in prompts[batch]],
                    "responses": list(responses[batch]),
                }
                try:
                    scores += self._scores_of_batch(client, body)
                except ScoringFailure as failure:
                    raise ScoringFailure(str(failure), first=start) from failure
        return scores

    def _scores_of_batch(self, client: httpx.Client, body: dict[str, list[Any]]) -> list[Any]:
        answer = self._post_again(client, body)
        try:
            scores = answer.json()["scores"]
        except (ValueError, KeyError, TypeError):
            raise ScoringFailure(f"at {self.url} answered without scores: {self._shown(answer.text)}") from None
        if not isinstance(scores, list):
            raise ScoringFailure(f"at {self.url} gave a {type(scores).__name__} as scores, where a list is expected")
        if len(scores) != len(body["responses"]):
            raise ScoringFailure(f"at {self.url} gave {len(scores)} scores for {len(body['responses'])} responses")
        return scores

    def _post_again(self, client: httpx.Client, body: dict[str, list[Any]]) -> httpx.Response:
        for attempt in range(self.retries + 1):
            try:
                return self._post(client, body)
            except _Retryable as failure:
                if attempt == self.retries:
                    tries = "" if attempt == 0 else f", the last of {attempt + 1} times"
                    raise ScoringFailure(f"at {self.url} {failure}{tries}") from failure
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * self._random.uniform(0.5, 1.0)
                time.sleep(wait if failure.wait is None else min(failure.wait, LONGEST_WAIT))
        raise AssertionError("every attempt returns or raises")

    def _post(self, client: httpx.Client, body: dict[str, list[Any]]) -> httpx.Response:
        deadline = time.monotonic() + self.timeout
        try:
            with client.stream("POST", self.url, json=body) as answer:
                # the client's own limit starts anew with every byte
                chunks, size = [], 0
                for chunk in answer.iter_bytes():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > MOST_BYTES:
                        raise ScoringFailure(f"at {self.url} answered with more than {MOST_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("too slow")
        except httpx.TimeoutException:
            raise _Retryable(f"timed out after {self.timeout:g} seconds") from None
        except httpx.TransportError as error:
            raise _Retryable(f"could not be reached ({type(error).__name__}: {error})") from error
        except httpx.HTTPError as error:
            raise ScoringFailure(f"at {self.url} answered unreadably ({type(error).__name__}: {error})") from error
        whole = httpx.Response(answer.status_code, headers=_plain_headers(answer), content=b"".join(chunks))
        if whole.is_success:
            return whole
        said = f"answered with status {whole.status_code}: {self._shown(whole.text)}"
        if whole.status_code == TOO_MANY_REQUESTS or whole.is_server_error:
            raise _Retryable(said, retry_after(whole.headers.get("Retry-After")))
        raise ScoringFailure(f"at {self.url} {said}")

    def _shown(self, text: str) -> str:
        """The beginning of an answer, without the key that a refusal may repeat."""
        text = text.replace(self._key, "[key]") if self._key else text
        return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def check_address(url: str) -> None:
    """Refuse an address that is none, or that holds what must not stand in `config.yaml` and logs.

    Raises:
        ValueError: it does not show the address where that may hold a key.
    """
    if "@" in url or "?" in url or "#" in url:
        raise ValueError(
            "a scorer's address holds a name or a key before an @, or a query behind a ?: leave them out, and put the "
            f"key into the environment variable {API_KEY_VARIABLE}"
        )
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise ValueError(f"scorer is {url!r}, which is no address ({error})") from None
    if not host:
        raise ValueError(f"scorer is {url!r}, which names no host; an address is like http://localhost:8000/score")


def _key_of_environment() -> str:
    """The key, without the line break that a file leaves behind it; empty where there is none.

    Raises:
        ValueError: it cannot stand in a header, whose own refusal would show it.
    """
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{API_KEY_VARIABLE} holds a line break or a character outside ASCII: give it the key alone")
    return key


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as a number or as a date; None where it says neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) if header.strip().isdigit() else _seconds_until(parsedate_to_datetime(header))
    except ValueError:
        return None


def _seconds_until(date: datetime) -> float:
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _plain_headers(answer: httpx.Response) -> dict[str, str]:
    # the bytes are decoded by now: their encoding must not be named once more
    return {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
