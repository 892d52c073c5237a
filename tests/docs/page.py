"""Run one page of the documentation from top to bottom: `python -m tests.docs.page docs/quickstart.md`.

A page is a script. In a directory of its own, with PGQUEUE_DSN set by the caller:

- ```python is executed, all blocks of a page in one namespace; one that begins with a comment `# name.py` is written to
  that file instead.
- ```console runs each line that begins with `$ `; a `pgqueue worker` without --burst stays until the page ends.
- ```sql is run as `pgqueue sql --write` would.
- What a block prints is compared with the lines after the command, or with the ```text block that follows.
  `...` stands for anything; ids, process ids, hosts, paths, times and versions may differ. Commands end with code 0.
- `<!-- not run: why -->` before a block leaves it out.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

PATIENCE_SECONDS = 60
RUN = {"python", "console", "sql"}

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*\Z")
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"), "<id>"),
    (re.compile(r"pid:? \d+"), "pid <n>"),
    (re.compile(r"(?<=\w)@[\w.-]+"), "@<host>"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:[+-]\d\d:?\d\d|Z)?"), "<time>"),
    (re.compile(r"PostgreSQL \d+(?:\.\d+)*"), "PostgreSQL <n>"),
    (re.compile(r"(?:(?<= in )|(?<=@))/\S+"), "<place>"),
    (re.compile(r"processes x \d+"), "processes x <n>"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"[ \t]+"), " "),
)


class Block(NamedTuple):
    """A fenced block: its language, its text, the line it begins in, what it should print, whether it is run."""

    language: str
    text: str
    line: int
    expected: str | None
    wanted: bool


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    found = list(_FENCE.finditer(page))
    for number, match in enumerate(found):
        following = found[number + 1] if number + 1 < len(found) else None
        expected = None
        if following and following[2] == "text" and not page[match.end() : following.start()].strip():
            expected = following[3]
        text = "\n".join(line.removeprefix(match[1]) for line in match[3].splitlines()) + "\n"
        wanted = match[2] in RUN and not _NOT_RUN.search(page[: match.start()])
        yield Block(match[2], text, page.count("\n", 0, match.start()) + 2, expected, wanted)


def matches(expected: str, found: str) -> bool:
    """Whether an output is as the page says."""
    return re.fullmatch(_pattern(expected), _steady(found), re.DOTALL) is not None


def begins(expected: str, found: str) -> bool:
    """Whether an output begins as the page says."""
    return re.match(_pattern(expected), _steady(found), re.DOTALL) is not None


def _steady(text: str) -> str:
    for varying, name in _VARYING:
        text = varying.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _pattern(expected: str) -> str:
    return ".*".join(re.escape(part) for part in _steady(expected).split("..."))


class Different(AssertionError):
    """A block prints something else than the page says."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"the page says:\n{expected.rstrip()}\nbut it prints:\n{found.rstrip()}")


class Page:
    """The state of a page while it runs."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.background: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def run(self, block: Block) -> None:
        """Run one block; AssertionError when it prints something else than the page says."""
        if block.language == "console":
            self._console(block.text)
            return
        with contextlib.redirect_stdout(io.StringIO()) as output:
            if block.language == "python":
                self._python(block)
            else:
                self._sql(block.text)
        if block.expected is not None and not matches(block.expected, output.getvalue()):
            raise Different(block.expected, output.getvalue())

    def _python(self, block: Block) -> None:
        named = re.match(r"# (\w+\.py)\b", block.text)
        if named:
            Path(named[1]).write_text(block.text)
            return
        # The page's own line numbers in tracebacks.
        code = compile("\n" * (block.line - 1) + block.text, "page", "exec")
        exec(code, self.namespace)  # noqa: S102 - this is what the page says

    def _sql(self, text: str) -> None:
        from pgqueue.cli.output import print_table

        with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as conn:
            for name in ("json", "jsonb"):
                conn.adapters.register_loader(name, psycopg.types.string.TextLoader)
            cursor = conn.execute(text.encode())
            while True:
                if cursor.description:
                    print_table([column.name for column in cursor.description], cursor.fetchall())
                if not cursor.nextset():
                    break

    def _console(self, text: str) -> None:
        for command, expected in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            stays = re.search(r"pgqueue .*\bworker\b", command) and "--burst" not in command
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}" if stays else command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            if stays:
                said = _Output(process)
                self.background.append((process, said))
                said.expect(expected)
                continue
            try:
                found, _ = process.communicate(timeout=PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"$ {command}: no end after {PATIENCE_SECONDS} s") from None
            if process.returncode or not matches(expected, found):
                raise Different(f"$ {command}\n{expected}", f"{found}[exit code {process.returncode}]")

    def close(self) -> None:
        """Stop what the page started."""
        for process, _ in self.background:
            process.send_signal(signal.SIGTERM)
        for process, reader in self.background:
            process.wait(PATIENCE_SECONDS)
            reader.join(PATIENCE_SECONDS)
            if process.stdout is not None:
                process.stdout.close()


class _Output(threading.Thread):
    """What a program that stays prints, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._said: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self.start()

    def run(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._said.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def expect(self, expected: str) -> None:
        """Wait until it has printed what the page says."""

        def done() -> bool:
            return self._ended or begins(expected, "".join(self._said))

        with self._changed:
            self._changed.wait_for(done, PATIENCE_SECONDS)
            if not begins(expected, "".join(self._said)):
                self._process.kill()
                raise Different(expected, "".join(self._said))


def main(name: str) -> int:
    """Run a page; 1 when it is not true, with its line."""
    sys.path.insert(0, os.getcwd())
    page = Page()
    try:
        for block in blocks(Path(name).read_text(encoding="utf-8")):
            if block.wanted:
                try:
                    page.run(block)
                except BaseException:
                    print(f"{name}:{block.line}:\n{traceback.format_exc(limit=-3)}")
                    return 1
    finally:
        page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
