"""What is acknowledged stays: crowds, a server that is killed again and again, a lock, a full disk, a clock."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from annotation import audit
from annotation.importing import import_comparisons
from annotation.records import Judgment, Said
from annotation.service import AnnotationService
from annotation.store import Store, StoreUnavailable
from annotation.tables import judgment, slot
from benchmarks.annotation.databases import database
from benchmarks.annotation.figures import Figure, quantiles
from benchmarks.annotation.server import Annotator, Server
from rlhf.data.comparisons import Comparison, Message, Response

WORDS = "a plain answer in a few words that an annotator reads before the next one is shown "


def items(count: int, num_responses: int = 2) -> list[Comparison]:
    """So many items whose texts are as long as a short answer is."""
    return [
        Comparison(
            (Message("user", f"question {number}"),),
            tuple(Response(f"{number} {place} {WORDS * 4}") for place in range(num_responses)),
        )
        for number in range(count)
    ]


def fill(url: str, count: int, *, overlap: int) -> None:
    store = Store.open(url)
    import_comparisons(store, items(count), overlap=overlap)
    store.close()


def run_at_once(actions: Sequence[Callable[[], None]]) -> list[BaseException]:
    """Each in a thread of its own; what went wrong."""
    problems: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


def killed(kind: str, folder: Path, *, clients: int = 50, submissions: int = 200, kills: int = 20) -> Figure:
    """Annotators judge while the server is killed; what it had acknowledged is counted in the database."""
    overlap = 3
    with database(kind, folder) as url:
        fill(url, clients * submissions // overlap + submissions, overlap=overlap)
        server = Server(url, folder / f"server-{kind}.log")
        server.start()
        annotators: list[Annotator] = []
        checks: list[str] = []

        def work(number: int) -> None:
            with Annotator(server.url, f"annotator {number}") as annotator:
                annotators.append(annotator)
                while len(annotator.acknowledged) < submissions and (card := annotator.next_card()) is not None:
                    annotator.judge(card)

        done = threading.Event()

        def kill() -> None:
            draw = random.Random(0)
            for number in range(kills):
                # spread over the work: the next one when its share of the submissions is in
                while sum(len(a.acknowledged) for a in annotators) < clients * submissions * number / kills:
                    if done.wait(0.05):
                        return
                time.sleep(draw.uniform(0.0, 0.3))
                server.kill()
                checks.append(integrity(url))
                server.start()

        killer = threading.Thread(target=kill)
        killer.start()
        problems = run_at_once([lambda number=number: work(number) for number in range(clients)])
        done.set()
        killer.join()
        server.stop()
        found = counted(url, [name for annotator in annotators for name in annotator.acknowledged], overlap)
    bad = [check for check in checks if check != "ok"]
    details = found | {"kills": len(checks), "integrity_failures": len(bad), "problems": [str(p) for p in problems[:3]]}
    acknowledged = clients * submissions
    text = (
        f"{found['lost']} of {found['acknowledged']} lost, {found['duplicated']} duplicated, "
        f"{found['over_assigned']} over-assigned; {len(checks)} kills, {len(bad)} integrity failures"
    )
    kept = found["acknowledged"] == acknowledged and len(checks) == kills and not problems and not bad
    return Figure("acknowledged is durable", kind, text, kept and not any_wrong(found), details)


def any_wrong(found: dict[str, int]) -> bool:
    return any(found[name] for name in ("lost", "duplicated", "over_assigned", "chain_problems"))


def counted(url: str, acknowledged: Sequence[str], overlap: int) -> dict[str, int]:
    """What the database says of the judgments that were acknowledged."""
    store = Store.open(url)
    with store.reading() as connection:
        rows = connection.execute(sa.select(judgment.c.id, judgment.c.item_id, judgment.c.annotator_id)).all()
        judged = sa.select(slot.c.item_id, sa.func.count()).where(slot.c.state == "judged").group_by(slot.c.item_id)
        per_item = [count for _, count in connection.execute(judged)]
        problems = audit.verify(connection).problems
    store.close()
    ids = {row.id for row in rows}
    pairs = Counter((row.item_id, row.annotator_id) for row in rows)
    by_item = Counter(row.item_id for row in rows)
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(name not in ids for name in acknowledged),
        "duplicated": len(rows) - len(ids) + sum(count > 1 for count in pairs.values()),
        "over_assigned": sum(count > overlap for count in [*per_item, *by_item.values()]),
        "chain_problems": len(problems),
    }


def integrity(url: str) -> str:
    """What the database itself says of its files: "ok", or what is wrong."""
    store = Store.open(url)
    try:
        with store.reading() as connection:
            if connection.dialect.name == "sqlite":
                return str(connection.execute(sa.text("PRAGMA integrity_check")).scalar())
            connection.execute(sa.text("SELECT count(*) FROM judgment")).scalar()
            return "ok"
    finally:
        store.close()


def crowd(kind: str, folder: Path, *, annotators: int = 50, count: int = 1000, overlap: int = 3) -> Figure:
    """Many finish a campaign together: each item by exactly `overlap` different people."""
    with database(kind, folder) as url:
        fill(url, count, overlap=overlap)
        server = Server(url, folder / f"crowd-{kind}.log")
        server.start()

        def work(number: int) -> None:
            with Annotator(server.url, f"annotator {number}") as annotator:
                while (card := annotator.next_card()) is not None:
                    annotator.judge(card)

        problems = run_at_once([lambda number=number: work(number) for number in range(annotators)])
        server.stop()
        store = Store.open(url)
        with store.reading() as connection:
            rows = connection.execute(sa.select(judgment.c.item_id, judgment.c.annotator_id)).all()
        store.close()
    people: dict[int, set[str]] = {}
    for row in rows:
        people.setdefault(row.item_id, set()).add(row.annotator_id)
    exact = sum(len(who) == overlap for who in people.values())
    text = f"{exact} of {count} items by exactly {overlap} people, {len(rows)} judgments"
    kept = exact == count and len(rows) == count * overlap and not problems
    return Figure("a crowd finishes a campaign", kind, text, kept, {"problems": [str(p) for p in problems[:3]]})


def identical(kind: str, folder: Path, *, times: int = 100) -> Figure:
    """The same submission many times at once is one."""
    with database(kind, folder) as url:
        fill(url, 2, overlap=3)
        server = Server(url, folder / f"identical-{kind}.log")
        server.start()
        name = str(uuid.uuid4())
        answers: list[tuple[int, str]] = []
        with Annotator(server.url, "annotator") as annotator:
            card = annotator.next_card()
            assert card is not None

            def send() -> None:
                body = {"id": name, "item_id": card["item_id"], "kind": "ranking", "ranks": [1, 2], "active_ms": 5}
                answer = annotator.post("judgments", body)
                answers.append((answer.status_code, str(answer.json().get("saved"))))

            problems = run_at_once([send] * times)
        server.stop()
        found = counted(url, [name], 3)
        store = Store.open(url)
        with store.reading() as connection:
            num_rows = connection.execute(sa.select(sa.func.count()).select_from(judgment)).scalar_one()
        store.close()
    text = f"{num_rows} row, {len(set(answers))} answer to {len(answers)} submissions"
    kept = num_rows == 1 and len(set(answers)) == 1 and len(answers) == times and not problems
    return Figure("identical submissions are one", kind, text, kept and not any_wrong(found), dict(found))


def locked(kind: str, folder: Path, *, short: float = 3.0, long: float = 30.0) -> Figure:
    """Another writer holds the store: a short lock is waited for, a long one is said, and nothing is lost."""
    with database(kind, folder) as url:
        fill(url, 20, overlap=1)
        server = Server(url, folder / f"locked-{kind}.log")
        server.start()
        annotator = Annotator(server.url, "annotator")
        store = Store.open(url)

        # the short lock ends while the request waits
        card = annotator.next_card()
        assert card is not None
        with Hold(store, kind) as release:
            threading.Timer(short, release).start()
            short_status = annotator.judge(card)
        card = annotator.next_card()
        assert card is not None
        with Hold(store, kind) as release:
            threading.Timer(long, release).start()
            body = {"id": str(uuid.uuid4()), "item_id": card["item_id"], "kind": "ranking", "ranks": [1, 2]}
            answer = annotator.http.post("/api/v1/judgments", json={"client": annotator.client, **body}, timeout=long)
        long_status, retry_after = answer.status_code, answer.headers.get("retry-after")
        final = annotator.next_card()
        final_status = annotator.judge(final) if final is not None else 0
        annotator.http.close()
        server.stop()
        store.close()
        found = counted(url, annotator.acknowledged, 1)
    text = f"{short:g} s: {short_status}; longer: {long_status}, Retry-After {retry_after}; afterwards: {final_status}"
    kept = (short_status, long_status, final_status) == (201, 503, 201) and retry_after is not None
    return Figure("a locked database", kind, text, kept and not any_wrong(found), dict(found))


class Hold:
    """Lock what every judgment needs, until the block ends or `release` is called."""

    def __init__(self, store: Store, kind: str):
        self.store, self.kind = store, kind
        self.connection = store.engine.connect()
        self.ended = threading.Lock()
        self.is_open = True

    def __enter__(self) -> Callable[[], None]:
        if self.kind == "sqlite":
            self.connection.execution_options(rlhf_writes=True)
            self.transaction = self.connection.begin()
        else:
            self.transaction = self.connection.begin()
            self.connection.execute(sa.text("LOCK TABLE judgment, slot IN ACCESS EXCLUSIVE MODE"))
        return self.release

    def release(self) -> None:
        with self.ended:
            if self.is_open:
                self.is_open = False
                self.transaction.rollback()
                self.connection.close()

    def __exit__(self, *_: object) -> None:
        self.release()


def full(folder: Path) -> Figure:
    """A SQLite file that may not grow, as on a full disk; then there is room again, without a restart."""
    url = f"sqlite:///{folder}/full.db"
    store = Store.open(url)
    import_comparisons(store, items(2000))
    service = AnnotationService(store)
    who = service.annotator_of(service.sign_in("annotator"))
    assert who is not None
    acknowledged: list[str] = []
    refused = 0

    def judge() -> None:
        card = service.next_card(who.id, "tab").card
        if card is None:
            return
        name = str(uuid.uuid4())
        service.submit(who.id, Judgment(name, card.item_id, Said("ranking", (1, 2), rationale="x" * 3000)))
        acknowledged.append(name)

    pages = {"limit": 2**30}

    @sa.event.listens_for(store.engine, "begin")
    def set_limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages['limit']}")

    judge()
    with store.reading() as connection:
        pages["limit"] = int(connection.execute(sa.text("PRAGMA page_count")).scalar_one()) + 20
    for _ in range(200):
        try:
            judge()
        except StoreUnavailable:
            refused += 1
            if refused >= 5:
                break
    before = len(acknowledged)
    pages["limit"] = 2**30
    judge()
    store.close()
    found = counted(url, acknowledged, 1)
    text = f"{refused} refused, {found['lost']} of {before} acknowledged lost, went on without a restart"
    kept = refused >= 5 and before > 3 and len(acknowledged) == before + 1 and not any_wrong(found)
    return Figure("a full disk", "sqlite", text, kept, dict(found))


def clock(kind: str, folder: Path, *, jumps: int = 20) -> Figure:
    """The clock jumps a day forward and back while annotators work: no item goes to two where one was asked for."""
    with database(kind, folder) as url:
        store = Store.open(url)
        import_comparisons(store, items(60))
        offset = [0.0]
        service = AnnotationService(store, clock=lambda: time.time() + offset[0])
        draw = random.Random(1)
        names = [f"annotator {number}" for number in range(6)]
        people = [service.annotator_of(service.sign_in(name)) for name in names]
        refused = 0
        acknowledged: list[str] = []
        cards: dict[str, str] = {}
        for step in range(200):
            if step % max(200 // jumps, 1) == 0:
                offset[0] = draw.choice([-86400.0, 0.0, 86400.0])
            person = draw.choice(people)
            assert person is not None
            if person.id in cards and draw.random() < 0.6:
                item_id = cards.pop(person.id)
                name = str(uuid.uuid4())
                try:
                    service.submit(person.id, Judgment(name, item_id, Said("ranking", (1, 2))))
                    acknowledged.append(name)
                except ValueError:
                    refused += 1  # it went to somebody else, and the annotator is told
            else:
                card = service.next_card(person.id, f"tab-{person.id}").card
                if card is not None:
                    cards[person.id] = card.item_id
        store.close()
        found = counted(url, acknowledged, 1)
    text = (
        f"{len(acknowledged)} judgments over {jumps} jumps, {found['over_assigned']} items judged twice, {refused} told"
    )
    return Figure("clock jumps of a day", kind, text, not any_wrong(found) and len(acknowledged) > 20, dict(found))


def latency(kind: str, folder: Path, *, annotators: int = 20, count: int = 10_000, seconds: float = 60.0) -> Figure:
    """Submit and next with annotators at once who look at an item for one to three seconds, then without any pause."""
    with database(kind, folder) as url:
        fill(url, count, overlap=3)
        server = Server(url, folder / f"latency-{kind}.log")
        server.start()
        slow = submit_and_next(server.url, annotators, 0.7 * seconds, pause=(1.0, 3.0))
        fast = submit_and_next(server.url, annotators, 0.3 * seconds, pause=None)
        server.stop()
    thinking, rushing = quantiles(slow), quantiles(fast)
    text = (
        f"p50 {thinking['p50_ms']:.0f} ms, p95 {thinking['p95_ms']:.0f} ms; without any pause p50 "
        f"{rushing['p50_ms']:.0f} ms, p95 {rushing['p95_ms']:.0f} ms"
    )
    kept = thinking["p50_ms"] <= 50 and thinking["p95_ms"] <= 250
    details = {"thinking": thinking, "without_pause": rushing, "n": len(slow), "items": count}
    return Figure(f"submit + next, {annotators} at once, {count} items", kind, text, kept, details)


def submit_and_next(url: str, annotators: int, seconds: float, *, pause: tuple[float, float] | None) -> list[float]:
    """Seconds that a submit and the next card after it took together, of everybody."""
    end = time.monotonic() + seconds
    found: list[list[float]] = []

    def work(number: int) -> None:
        draw = random.Random(number)
        with Annotator(url, f"annotator {number}") as annotator:
            annotator.next_card()
            annotator.seconds.clear()
            while time.monotonic() < end and (card := annotator.next_card()) is not None:
                if pause is not None:
                    time.sleep(draw.uniform(*pause))
                annotator.judge(card)
        # next, submit, next, submit, ...: each submit with the next after it
        submits, following = annotator.seconds[1::2], annotator.seconds[2::2]
        found.append([a + b for a, b in zip(submits, following, strict=False)])

    run_at_once([lambda number=number: work(number) for number in range(annotators)])
    return [value for values in found for value in values]
