"""What a user without a clone does: install the wheel into a fresh environment, follow the README, run the demo."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.process import REPOSITORY, CommandLine, clean_environment, wait_until


@pytest.fixture(scope="module")
def programs_of_wheel(archives: Path) -> Iterator[Path]:
    """The programs of a fresh environment with the built wheel; its dependencies are those of this one."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "venv"
        venv.create(home)
        install = ["install", "--quiet", "--no-deps", "--no-index", str(next(archives.glob("*.whl")))]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(home / "bin/python"), *install], check=True)
        library = next((home / "lib").glob("python*/site-packages"))
        (library / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        yield home / "bin"


@pytest.fixture
def home_of_server() -> Iterator[Path]:
    """A directory for an embedded server, where the server's user can enter."""
    with tempfile.TemporaryDirectory(prefix="pgq-readme-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.mark.slow
def test_the_readme_is_true_for_those_who_install_the_wheel(
    programs_of_wheel: Path, home_of_server: Path, tmp_path: Path
) -> None:
    environment = clean_environment(
        PGQUEUE_EMBEDDED_PATH=str(home_of_server), PATH=f"{programs_of_wheel}:/usr/bin:/bin"
    )
    try:
        done = subprocess.run(
            [programs_of_wheel / "python", REPOSITORY / "tests/docs/page.py", REPOSITORY / "README.md"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "tasks.py").exists()
    finally:
        subprocess.run([programs_of_wheel / "pgqueue", "db", "stop"], env=environment, check=True, capture_output=True)


@pytest.mark.slow
def test_the_wheel_is_what_runs(programs_of_wheel: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [programs_of_wheel / "python", "-c", "import pgqueue; print(pgqueue.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(where).is_relative_to(programs_of_wheel.parent)


def left_behind(program: CommandLine) -> tuple[Path, str]:
    """Where the demonstration put its server, and its line about it."""
    line = program.expect("embedded PostgreSQL: starting", timeout=60)
    return Path(line.rsplit(" ", 1)[1].strip()), line


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_proves_itself_and_leaves_nothing(
    programs_of_wheel: Path, spawn: Callable[..., CommandLine], tmp_path: Path
) -> None:
    # A settings file, a DSN and a package of the user's must not reach it.
    (tmp_path / "pgqueue.toml").write_text('task_default_queue = "elsewhere"\n')
    (tmp_path / "examples.py").write_text("raise RuntimeError('not this one')\n")
    demo = spawn(
        str(programs_of_wheel / "pgqueue"),
        "demo",
        env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        cwd=tmp_path,
    )
    place, _ = left_behind(demo)
    assert demo.wait(280) == 0, demo.output
    assert "All of it holds" in demo.output
    assert "with -9" in demo.output
    assert " NO" not in demo.output
    assert "from pgqueue.all_workflows where name like" in demo.output
    assert not place.exists()


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing(
    programs_of_wheel: Path, spawn: Callable[..., CommandLine], tmp_path: Path
) -> None:
    demo = spawn(str(programs_of_wheel / "pgqueue"), "demo", cwd=tmp_path)
    place, _ = left_behind(demo)
    demo.expect("steps of orders", timeout=60)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130, demo.output
    assert not place.exists()
    wait_until(lambda: not running_in(place), what="no process works there any more")


def running_in(place: Path) -> list[str]:
    """Processes that name a directory in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in command and process.name != str(os.getpid()):
            found.append(command)
    return found
