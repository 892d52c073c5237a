"""The Makefile: its help is made from its comments, and knows every command."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def help_lines() -> dict[str, str]:
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=MAKEFILE.parent, capture_output=True, text=True, check=True
    ).stdout
    return dict(re.findall(r"^  make (\w+) +(\S.*)$", printed, re.MULTILINE))


@pytest.mark.parametrize("command", ["help", "demo", "test", "check", "bench", "faults", "matrix", "db"])
def test_help_explains(command: str) -> None:
    assert len(help_lines()[command]) > 10


def test_help_lists_every_command() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert phony is not None
    assert set(help_lines()) == set(phony[1].split())


def test_help_is_what_bare_make_prints() -> None:
    bare = subprocess.run(["make"], cwd=MAKEFILE.parent, capture_output=True, text=True, check=True).stdout
    assert "make test" in bare


def test_an_old_python_is_refused_with_the_reason(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / "pyproject.toml").touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    old = programs / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what any Python before 3.11 answers to the Makefile's question
    old.chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "venv"], cwd=tmp_path, env={"PATH": str(programs)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "pgqueue needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
