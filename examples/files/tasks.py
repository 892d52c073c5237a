"""The index's one task: `pgqueue -A examples.files.tasks:app worker` runs it."""

import ast
import sysconfig
from collections import Counter
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
    nodes = Counter(type(node) for node in ast.walk(ast.parse(source, path)))
    return {
        "file": path,
        "lines": source.count(b"\n"),
        "functions": nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef],
        "coroutines": nodes[ast.AsyncFunctionDef],
        "classes": nodes[ast.ClassDef],
        "imports": nodes[ast.Import] + nodes[ast.ImportFrom],
        "nodes": nodes.total(),
    }
