"""The index's tasks: `pgqueue -A examples.files.tasks:app worker` runs them."""

import ast
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pgqueue import AsyncResult, PgQueue, chord

app = PgQueue("files")
FIGURES = ("lines", "functions", "coroutines", "classes", "imports", "statements")


def source_files() -> list[Path]:
    """Every source file of this Python's standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return sorted(path for path in library.rglob("*.py") if not foreign.intersection(path.relative_to(library).parts))


def index(paths: Iterable[Path]) -> AsyncResult[dict[str, Any]]:
    """Measure all files, side by side, and report on them together: one chord, sent in one statement."""
    sent: AsyncResult[dict[str, Any]] = chord((measure.s(str(path)) for path in paths), report.s())()
    return sent


@app.task(queue="files")
def measure(path: str) -> dict[str, Any]:
    """Parse one file and count what is in it.

    What is no Python 3 (the library's own tests have such files) is a result as well: a member that fails would end the
    chord.
    """
    source = Path(path).read_bytes()
    try:
        found = Counter(type(statement) for statement in statements(ast.parse(source, path)))
    except SyntaxError as error:
        return {"file": path, "error": str(error.msg)}
    return {
        "file": path,
        "lines": source.count(b"\n"),
        "functions": found[ast.FunctionDef] + found[ast.AsyncFunctionDef],
        "coroutines": found[ast.AsyncFunctionDef],
        "classes": found[ast.ClassDef],
        "imports": found[ast.Import] + found[ast.ImportFrom],
        "statements": found.total(),
    }


@app.task(queue="files")
def report(files: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the figures of all files; they are read when the last of them is there."""
    read = [each for each in files if "error" not in each]
    largest = sorted(read, key=lambda each: -int(each["lines"]))[:5]
    return {
        "files": len(files),
        "broken": len(files) - len(read),
        **{name: sum(each[name] for each in read) for name in FIGURES},
        "largest": [each["file"] for each in largest],
    }


def statements(module: ast.Module) -> Iterator[ast.AST]:
    """Every statement of a module, nested ones too."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            nested = getattr(node, part, ())
            waiting.extend(nested)
            yield from nested
