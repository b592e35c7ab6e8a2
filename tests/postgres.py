"""A private PostgreSQL server for tests: in a folder of its own, reachable by its socket alone, ended for certain.

    with Server() as server:
        url = server.new_database()

PostgreSQL refuses to run as root; there it runs as `postgres`, or as `nobody`.
"""

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import URL, make_url

USER = "classy"
START_SECONDS = 60
# A test's server may forget everything when the machine loses power; a client's kill it must not mind.
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}


class NoPostgres(Exception):
    """PostgreSQL is not installed, or does not start here; the message says what to do."""


def binary(name: str) -> Path | None:
    """Where a program of PostgreSQL's server is: on the PATH, or where Debian puts it, newest first."""
    found = shutil.which(name)
    if found:
        return Path(found)
    places = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return max(places, key=lambda path: int(path.parts[-3]), default=None)


class Server:
    """A context manager. `new_database` gives the SQLAlchemy URL of an empty one."""

    password = "unasked"
    """In the URLs, so that it can be seen that nobody prints it; the server lets its owner in without."""

    def __init__(self) -> None:
        self._databases = 0

    def __enter__(self) -> "Server":
        if not importlib.util.find_spec("psycopg2"):
            raise NoPostgres("psycopg2 is not installed; `uv sync --extra postgres` brings it")
        initdb, postgres = binary("initdb"), binary("postgres")
        if initdb is None or postgres is None:
            raise NoPostgres("PostgreSQL is not installed; `.ci/packages` installs it")
        owner = _owner()
        self._as: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        # Not below pytest's own folder: the server's user cannot enter it. Short: a socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="classy-pg-"))
        if owner:
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        try:
            self._start(initdb, postgres)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self, initdb: Path, postgres: Path) -> None:
        data = self.folder / "data"
        # The folder is its owner's alone, and with it the socket: a password would only cost each connection time.
        made = subprocess.run(
            [initdb, "-D", data, "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd="/", env=_plain_environment(), **self._as, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise NoPostgres(f"{initdb}: {made.stderr.strip()}")
        settings = [word for name, value in OPTIONS.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            self._child = subprocess.Popen(
                [postgres, "-D", data, "-k", self.folder, *settings],
                cwd="/", env=_plain_environment(), **self._as, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_the_tests,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        import psycopg2

        until = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg2.connect(self._dsn("postgres")).close()
                return
            except psycopg2.OperationalError as error:
                if self._child.poll() is not None or time.monotonic() > until:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise NoPostgres(f"PostgreSQL does not start: {error}\n{log}") from error
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child = getattr(self, "_child", None)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGQUIT)  # "immediate": its children end with it
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _dsn(self, database: str) -> str:
        return f"host={self.folder} user={USER} password={self.password} dbname={database} connect_timeout=10"

    def _run(self, statement: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self._dsn("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def url(self, database: str) -> str:
        return URL.create(
            "postgresql", USER, self.password, database=database, query={"host": str(self.folder)}
        ).render_as_string(hide_password=False)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database; whoever is still connected is cut off."""
        self._run(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


def _owner() -> pwd.struct_passwd | None:
    """Whom to run the server as where this is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return known[name]
    raise NoPostgres("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")


def _plain_environment() -> dict[str, str]:
    """Without PGDATA, PGHOST and the like, which would point elsewhere."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


def _end_with_the_tests() -> None:
    """Let the kernel end the server when the tests are killed (Linux; elsewhere it is ended by `__exit__` alone)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGQUIT)
