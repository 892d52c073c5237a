"""The index's one task: `pgqueue -A examples.files.tasks:app worker` runs it."""

import ast
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgqueue import PgQueue

app = PgQueue("files")


def source_files() -> list[Path]:
    """Every source file of this Python's standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return sorted(path for path in library.rglob("*.py") if not foreign.intersection(path.relative_to(library).parts))


@app.task(queue="files", throws=(SyntaxError,))
def measure(path: str) -> dict[str, Any]:
    """Parse one file and count what is in it; the figures are the job's result.

    Raises:
        SyntaxError: this is no Python 3 (the library's own tests have such files); the job fails and keeps the error.
    """
    source = Path(path).read_bytes()
    found = Counter(type(statement) for statement in statements(ast.parse(source, path)))
    return {
        "file": path,
        "lines": source.count(b"\n"),
        "functions": found[ast.FunctionDef] + found[ast.AsyncFunctionDef],
        "coroutines": found[ast.AsyncFunctionDef],
        "classes": found[ast.ClassDef],
        "imports": found[ast.Import] + found[ast.ImportFrom],
        "statements": found.total(),
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
