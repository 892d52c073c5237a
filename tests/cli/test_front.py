"""The command line itself: what it lists, what it refuses, how it ends; nothing ends as a traceback."""

import io
import os
import re
import signal
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pgqueue import PgQueue
from pgqueue.cli import declined
from pgqueue.cli.main import COMMANDS, cli, main
from pgqueue.cli.output import print_table, printable, seconds_of, span
from tests.support.process import clean_environment
from tests.support.process import cli as command


def run(*args: str, cwd: Path | None = None, text: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """One real `pgqueue …`."""
    return subprocess.run(
        command(*args), cwd=cwd, input=text, env=clean_environment(**env), capture_output=True, text=True, check=False
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that was refused before it did anything."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_lists_every_command_with_its_own_words() -> None:
    done = run("--help")
    assert done.returncode == 0
    context = click.Context(cli)
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        loaded = cli.get_command(context, name)
        assert loaded is not None
        assert loaded.get_short_help_str(200).rstrip(".") == text.rstrip("."), name


def test_help_loads_neither_the_engine_nor_a_database() -> None:
    done = subprocess.run(
        [*command("--help")[:1], "-X", "importtime", *command("--help")[1:]],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "pgqueue.cli.main" in loaded
    assert not {"alembic", "sqlalchemy", "pgqueue.worker", "pgqueue.store.schema"} & loaded


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pgqueue 0.")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["wroker"], "pgqueue: no command 'wroker'; did you mean 'worker'?"),
        (["worker", "--nonsense"], "--nonsense"),
        (
            ["schedules", "add", "x", "t", "--solar", "sunset 1"],
            "an event, a latitude and a longitude, got 'sunset 1'",
        ),
        (["schedules", "add", "x", "t", "--solar", "sunset 1 x"], "--solar: expected such as 'sunset 52.52 13.41'"),
        (["worker", "-A", "tasks"], "It stands before the command: pgqueue -A"),
        (["beat", "-S", "x"], "-S/--scheduler is not supported: schedules are rows"),
        (["-b", "redis://h", "worker"], "-b/--broker is not supported: there is no broker: set PGQUEUE_DSN"),
        (["--workdir", "/nowhere", "status"], "/nowhere"),
        (["worker", "-c", "0"], "0 is not between 1 and 10000"),
        (["worker", "-c", "-1"], "-1 is not between 1 and 10000"),
        (["worker", "-c", "100000"], "100000 is not between 1 and 10000"),
        (["worker", "-c", "abc"], "'abc' is no whole number"),
        (["worker", "-Q", ""], "'' is no queue"),
        (["worker", "-Q", "mail,mail"], "queue 'mail' is named twice"),
        (["worker", "-Q", "q;DROP TABLE"], "is no queue"),
        (["worker", "-Q", "mail", "-X", "mail"], "in --queues and in --exclude-queues"),
        (["worker", "-P", "gevent"], "gevent is not supported: use threads, or write the tasks as coroutines"),
        (["worker", "-P", "eventlet"], "use threads, or write the tasks as coroutines (async def)"),
        (["worker", "-P", "fibers"], "'fibers' is no pool: processes (prefork), threads, loop or solo"),
        (["worker", "-P", "processes:0"], "0 is not between 1 and 10000"),
        (["worker", "--time-limit", "5", "--soft-time-limit", "5"], "must be shorter than --time-limit"),
        (["worker", "--time-limit", "nan"], "no number of seconds"),
        (["worker", "--autoscale", "2,10"], "MAX,MIN"),
        (["worker", "--autoscale", "10,2", "-c", "4"], "not both"),
        (["worker", "--max-tasks-per-child", "0"], "0 is not between"),
        (["worker", "-I", "a/b.py"], "is no module"),
        (["worker", "-l", "LOUD"], "LOUD"),
        (["call", "a", "-a", "{}"], "a JSON array is needed"),
        (["call", "a", "-a", "[1"], "no JSON"),
        (["call", "a", "-k", "[]"], "a JSON object is needed"),
        (["call", "a", "--eta", "tomorrow"], "is no instant"),
        (["call", "a", "--expires", "nan"], "is no number of seconds"),
        (["call", "a", "--countdown", "1", "--eta", "2030-01-01T00:00:00Z"], "not both"),
        (["call", "a", "--serializer", "pickle"], "--serializer is not supported: arguments are JSON"),
        (["result", ""], "not an id"),
        (["result", "x" * 256], "not an id"),
        (["result", "-t", "a", "x"], "-t/--task is not supported"),
        (["jobs", "list", "--state", "lost"], "'lost' is no state"),
        (["jobs", "list", "--since", "soon"], "is no length of time"),
        (["jobs", "list", "-n", "0"], "0"),
        (["jobs", "show", ""], "not an id"),
        (["jobs", "cancel"], "ID"),
        (["purge", "-Q", "a", "-X", "b"], "not both"),
        (["prune", "--older-than", "-3"], "-3"),
        (["sql", ""], "the query is empty"),
        (["sql", "select 1", "--json", "--csv"], "not both"),
        (["migrate", "sideways"], "sideways"),
        (["migrate", "down", "--sql"], "--sql prints every step up"),
        (["status", "-d", "w@h"], "-d/--destination is not supported"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.delenv("PGQUEUE_APP", raising=False)
    monkeypatch.chdir(tmp_path)
    line = explained(args)
    assert said in line
    assert "\n" not in line


def explained(args: list[str]) -> str:
    """What main() would say of these arguments, in this process: each real one costs a third of a second."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click, "echo", lambda text="", err=False, **more: said.append(str(text)))
        patch.setattr("sys.argv", ["pgqueue", *args])
        with pytest.raises(SystemExit) as caught:
            main(args)
    assert caught.value.code == 2, said
    assert len(said) == 1, said
    return said[0]


@pytest.mark.parametrize("option", declined.WORKER, ids=lambda option: option.names[-1])
def test_flags_of_celerys_worker_are_refused_by_name(option: declined.Declined) -> None:
    for name in option.names:
        line = explained(["worker", name, *(["1"] if option.takes_value else [])])
        assert name in line
        assert option.way_out in line


@pytest.mark.parametrize("name", declined.COMMANDS)
def test_commands_of_celery_are_refused_by_name(name: str) -> None:
    assert f"pgqueue: {name}: {declined.COMMANDS[name]}" == explained([name, "--whatever"])


@pytest.mark.parametrize(
    "words",
    [
        *("status", "jobs list", "jobs show x", "result x", "sql", "purge", "schedules list", "health", "prune"),
        *("workflows list", "call x", "migrate"),
    ],
)
@pytest.mark.parametrize("file", [False, True])
def test_a_slip_in_a_setting_is_one_line(
    words: str, file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGQUEUE_DSN", "postgresql://127.0.0.1:1/d")
    monkeypatch.setenv("PGQUEUE_EMBEDDED_PATH", str(tmp_path / "none"))
    if file:
        (tmp_path / "pgqueue.toml").write_text("worker_concurency = 3\n")
    else:
        monkeypatch.setenv("PGQUEUE_WORKER_CONCURENCY", "3")
    monkeypatch.setattr("sys.stdin", io.StringIO("select 1"))
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    told = capsys.readouterr()
    assert (caught.value.code, told.out) == (2, "")
    assert re.fullmatch(
        r"pgqueue: \S+ no setting 'worker_concurency'; did you mean 'worker_concurrency'\?\n", told.err
    ), told.err


def test_real_commands_refuse_in_one_line(tmp_path: Path) -> None:
    assert "-s/--schedule-filename/--schedule is not supported" in refused(run("worker", "-s", "f", cwd=tmp_path))
    assert "which application?" in refused(run("worker", cwd=tmp_path, PGQUEUE_DSN="postgresql://h/d"))
    assert "no module 'nowhere'" in refused(run("-A", "nowhere", "status", cwd=tmp_path))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_to_be_found", "broken.py:1: "),
        ("\n\n1/0", "broken.py:3: ZeroDivisionError"),
        ("def f(:", "broken.py:1: SyntaxError"),
        ("raise SystemExit(3)", "broken.py:1: SystemExit"),
        ("import broken2", "partially initialized module"),
        ("x = 1", "no PgQueue application in broken.py"),
        (
            "from pgqueue import PgQueue\napp = PgQueue('a')\n"
            "@app.task(name='same')\ndef one(): ...\n@app.task(name='same')\ndef two(): ...",
            "broken.py:5: ConfigurationError: two tasks are named 'same'",
        ),
    ],
)
def test_broken_applications_name_file_and_line(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(source)
    (tmp_path / "broken2.py").write_text("from broken import app")
    line = refused(run("-A", "broken", "status", cwd=tmp_path, PGQUEUE_DSN="postgresql://h/d"))
    assert said in line


@pytest.mark.parametrize(
    ("dsn", "code", "said"),
    [
        ("postgresql://u:top%40secret@127.0.0.1:1/d", 3, "no server listens there"),
        ("postgresql://u:top%40secret@[::1]:1/d", 3, "::1"),
        ("postgresql://u:topsecret@127.0.0.1:99999/d", 2, "port"),
        ("postgresql://u:top@secret@h/d", 2, "%40"),
        ("mysql://u:topsecret@h/d", 2, "is not PostgreSQL"),
        ("", 2, "dsn"),
        ("service=nowhere password=topsecret", 2, "nowhere"),
    ],
)
def test_bad_dsns_end_in_one_line_without_the_password(dsn: str, code: int, said: str, tmp_path: Path) -> None:
    done = run("status", cwd=tmp_path, PGQUEUE_DSN=dsn)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_output_may_be_closed(dsn: str, tmp_path: Path) -> None:
    query = "select repeat('x', 1000) from generate_series(1, 2000)"
    reader, writer = os.pipe()
    with subprocess.Popen(
        command("sql", query),
        stdout=writer,
        stderr=subprocess.PIPE,
        env=clean_environment(PGQUEUE_DSN=dsn),
        cwd=tmp_path,
    ) as program:
        os.close(writer)
        os.close(reader)
        assert program.stderr is not None
        assert program.stderr.read() == b""
        assert program.wait() == 141


def test_any_terminal_will_do(dsn: str, tmp_path: Path) -> None:
    done = run(
        "sql",
        "select 'Ünïcode → 🎉' as x",
        cwd=tmp_path,
        PGQUEUE_DSN=dsn,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
        TERM="dumb",
        COLUMNS="20",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "code" in done.stdout


def test_ctrl_c_is_no_traceback(dsn: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("status", "--watch", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(PGQUEUE_DSN=dsn, PYTHONUNBUFFERED="1"),
        cwd=tmp_path,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert '"queues"' in program.stdout.readline()
        for _ in range(3):
            program.send_signal(signal.SIGINT)
        assert "Traceback" not in program.stderr.read()
        assert program.wait() in (130, -signal.SIGINT)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ✓ text", "plain ✓ text"),
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("\x9b31m", "\\u009b31m"),
        ("a\r\nb\tc", "a\\u000d\\u000ab\\u0009c"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
def test_ids_are_never_cut(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    job_id = "01a20076-8000-7000-8000-000000000001"
    heads = ("id", "state", "task", "queue", "prio", "")
    row = (job_id, "available", "shop.tasks.send_the_mail", "default", 0, "ValueError: no paper in the printer")
    print_table(heads, [row], drop=("prio", "queue"))
    head, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{job_id}  ")
    assert max(len(head), len(line)) <= columns
    assert ("queue" in head, "prio" in head) == (columns >= 80, columns > 80)
    assert ("available" in line) == (columns >= 80)


def test_tables_escape_and_align(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("\x1b[2J", 5), (None, 1000)], right=("n",))
    assert capsys.readouterr().out == "name          n\n\\u001b[2J     5\n           1000\n"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1w", 604800)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1e9", "nan", "1y", "99999d", "١", "1 m m"])
def test_bad_lengths_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59, "59 s"), (90, "2 min"), (5400, "1 h 30 min"), (90_000, "1 d 1 h"), (-5, "-5.0 s")],
)
def test_spans(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_completion_knows_the_commands() -> None:
    asked = {"_PGQUEUE_COMPLETE": "bash_complete", "COMP_WORDS": "pgqueue mig", "COMP_CWORD": "1"}
    assert "migrate" in CliRunner().invoke(cli, env=asked, prog_name="pgqueue").output


def test_beat_options_reach_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_with_beat.py").write_text("from pgqueue import PgQueue\napp = PgQueue('shop')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given: dict[str, object] = {}

    def engine(app: PgQueue, **options: object) -> int:
        given.update(options, color=app.conf.worker_log_color)
        return 7

    monkeypatch.setattr("pgqueue.worker.beat.run", engine)
    with pytest.raises(SystemExit) as caught:
        main(["-C", "-A", "shop_with_beat", "beat", "-l", "debug", "-f", "log", "--max-interval", "5"])
    assert caught.value.code == 7
    assert given == {
        "spec": "shop_with_beat",
        "loglevel": "DEBUG",
        "logfile": "log",
        "max_interval": 5.0,
        "quiet": False,
        "color": False,
    }


def test_worker_options_reach_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_with_options.py").write_text("from pgqueue import PgQueue\napp = PgQueue('shop')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given: dict[str, object] = {}

    def engine(app: object, **options: object) -> int:
        given.update(options, app=app)
        return 7

    monkeypatch.setattr("pgqueue.worker.command.run", engine)
    line = "-C -A shop_with_options worker -Q mail,default -c 8 -P prefork -n w@%h -l debug -I a.b,c --time-limit 30"
    line += " --soft-time-limit 20 --max-tasks-per-child 5 --max-memory-per-child 20000 -f log --pidfile pid --burst"
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 7
    app = given.pop("app")
    assert isinstance(app, PgQueue)
    assert app.conf.worker_log_color is False
    assert given == {
        "queues": ["mail", "default"],
        "exclude_queues": None,
        "concurrency": 8,
        "pool": "processes",
        "name": "w@%h",
        "loglevel": "DEBUG",
        "include": ("a.b", "c"),
        "time_limit": 30.0,
        "soft_time_limit": 20.0,
        "max_tasks_per_child": 5,
        "max_memory_per_child": 20000,
        "autoscale": None,
        "logfile": "log",
        "pidfile": "pid",
        "burst": True,
        "scheduler": True,
        "reload": False,
        "spec": "shop_with_options",
        "quiet": False,
    }
