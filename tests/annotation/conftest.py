"""Real databases: a SQLite file, and a PostgreSQL server of the test's own, each empty for every test."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from annotation.importing import import_comparisons
from annotation.service import AnnotationService
from annotation.store import Store
from tests.annotation.items import comparison

NUMBERS = itertools.count(1)


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; Debian keeps them off the path."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A server on a socket in a folder, which is given."""
    programs = postgres_programs()
    if programs is None:
        assert not os.environ.get("CI"), "PostgreSQL is missing; .ci/system-packages installs it"
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgres-"))
    # it refuses to run as root
    owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if owner:
        shutil.chown(folder, **owner)
    quick = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=200"
    data = folder / "data"

    def run(*command: object) -> None:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd="/", timeout=120, **owner)
        assert done.returncode == 0, done.stdout + done.stderr

    run(programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")
    run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", quick, "-w", "start")
    yield folder
    run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/annotations.db"
    server = request.getfixturevalue("postgres_server")
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={server}"


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
