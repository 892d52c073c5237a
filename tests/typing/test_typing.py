"""What type checkers say of user code: each line marked `# error` is refused, and no other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
REPOSITORY = CASES.parents[2]


def expected(case: Path) -> set[int]:
    """Numbers of the lines marked as errors."""
    lines = case.read_text().splitlines()
    found = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(found) >= 10, "the case lost its marks"
    return found


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    case = CASES / "calls.py"
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path}", str(case)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    found = {int(match[1]) for match in re.finditer(r"calls\.py:(\d+): error:", run.stdout)}
    assert found == expected(case), run.stdout + run.stderr


@pytest.mark.slow
def test_pyright(tmp_path: Path) -> None:
    case = CASES / "calls.py"
    command = [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}"]
    if subprocess.run([*command[:3], "--version"], capture_output=True, cwd=tmp_path).returncode != 0:
        pytest.skip("pyright's wrapper cannot fetch pyright here")
    # Outside of the repository, whose own configuration is about the package.
    run = subprocess.run([*command, str(case)], cwd=tmp_path, capture_output=True, text=True)
    report = json.loads(run.stdout)["generalDiagnostics"]
    found = {one["range"]["start"]["line"] + 1 for one in report if one["severity"] == "error"}
    assert found == expected(case), run.stdout
