"""`--reload`: run the same command as a child, and start it again when a source file changes. For development."""

import ctypes
import importlib
import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from pgqueue.errors import ConfigurationError

__all__ = ["run_reloading", "same_command"]

STOP_SECONDS = 30.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: little may be done after a fork


def same_command() -> list[str]:
    """The command that this process runs, but for --workdir: it is there already, and the directory may be relative."""
    found, given = [sys.executable, "-m", "pgqueue"], iter(sys.argv[1:])
    for argument in given:
        if argument == "--workdir":
            next(given, None)
        elif not argument.startswith("--workdir="):
            found.append(argument)
    return found


def run_reloading() -> int:
    """Run until interrupted. Signals are passed on to the worker, whose end is then waited for.

    Returns:
        0.

    Raises:
        ConfigurationError: the package watchfiles is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs the package watchfiles: pip install 'pgqueue[reload]'")
    watchfiles = importlib.import_module("watchfiles")
    ended = threading.Event()
    process = _start()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    changes: Iterator[Any] = watchfiles.watch(
        Path.cwd(),
        watch_filter=watchfiles.PythonFilter(),
        stop_event=ended,
        raise_interrupt=False,
    )
    try:
        for changed in changes:
            names = ", ".join(sorted({Path(path).name for _, path in changed})[:3])
            click.echo(f"pgqueue worker: {names} changed, starting again", err=True)
            _end(process)
            if ended.is_set():
                break
            process = _start()
        process.wait()
    finally:
        _end(process)
    return 0


def _start() -> "subprocess.Popen[bytes]":
    command = [arg for arg in same_command() if arg != "--reload"]
    # Out of the terminal's reach: of one Ctrl-C it would be told twice, and not wait for what runs.
    return subprocess.Popen(command, process_group=0, preexec_fn=_end_with_parent if _LIBC else None)


def _end_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
