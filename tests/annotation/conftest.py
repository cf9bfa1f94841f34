"""Real databases: a SQLite file, and a PostgreSQL server of the test's own, each empty for every test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annotation.importing import import_comparisons
from annotation.service import AnnotationService
from annotation.store import Store
from benchmarks.annotation.databases import new_database, postgres_programs
from benchmarks.annotation.databases import postgres_server as running_postgres
from tests.annotation.items import comparison


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A server on a socket in a folder, which is given."""
    if postgres_programs() is None:
        assert not os.environ.get("CI"), "PostgreSQL is missing; .ci/system-packages installs it"
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with running_postgres(durable=False) as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/annotations.db"
    return new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(store: Store, clock: Clock) -> AnnotationService:
    return AnnotationService(store, lease_seconds=60, clock=clock)


@pytest.fixture
def sign_in(service: AnnotationService) -> Callable[[str], str]:
    """Signs a name in and gives the annotator's id."""

    def identify(name: str) -> str:
        annotator = service.annotator_of(service.sign_in(name))
        assert annotator is not None
        return annotator.id

    return identify


@pytest.fixture
def fill(store: Store) -> Callable[..., None]:
    """`fill(3, num_responses=4, overlap=2)` adds items numbered from 1."""

    def add(count: int, *, num_responses: int = 2, overlap: int = 1) -> None:
        rows = [comparison(number, num_responses) for number in range(1, count + 1)]
        import_comparisons(store, rows, overlap=overlap)

    return add
