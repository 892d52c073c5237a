"""`--reload`: run the same command as a child, and start it again when a source file changes. For development."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pgqueue.errors import ConfigurationError

__all__ = ["run_reloading"]

STOP_SECONDS = 30.0


def run_reloading() -> int:
    """Run until interrupted.

    Returns:
        0.

    Raises:
        ConfigurationError: the package watchfiles is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs the package watchfiles: pip install 'pgqueue[reload]'")
    watchfiles = importlib.import_module("watchfiles")
    command = [sys.executable, "-m", "pgqueue", *(arg for arg in sys.argv[1:] if arg != "--reload")]
    changes: Iterator[Any] = watchfiles.watch(Path.cwd(), watch_filter=watchfiles.PythonFilter(), raise_interrupt=False)
    process = subprocess.Popen(command)
    try:
        for changed in changes:
            names = ", ".join(sorted({Path(path).name for _, path in changed})[:3])
            click.echo(f"pgqueue worker: {names} changed, starting again", err=True)
            _end(process)
            process = subprocess.Popen(command)
    finally:
        _end(process)
    return 0


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
