"""pgqueue.toml, or [tool.pgqueue] in pyproject.toml: looked for from a directory upwards, refused in one line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgqueue.errors import ConfigurationError

__all__ = ["SettingsFile", "find_settings_file", "read_settings_file"]

MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a file sets, and where it says so."""

    path: Path
    values: Mapping[str, Any]
    text: str

    def where(self, key: str) -> str:
        """``file:line: `` of a key, for messages."""
        found = re.search(
            rf"""^[ \t]*(?:\[(?:tool\.pgqueue\.)?)?["']?{re.escape(key)}["']?\s*[=.\]]""", self.text, re.M
        )
        line = f"{self.text.count(chr(10), 0, found.start()) + 1}:" if found else ""
        return f"{self.path}:{line} "


def find_settings_file(directory: Path) -> SettingsFile | None:
    """The nearest file with settings, in this directory or one above it.

    Raises:
        ConfigurationError: it cannot be read; the message names file and line.
    """
    directory = directory.absolute()
    for folder in (directory, *directory.parents):
        for name in ("pgqueue.toml", "pyproject.toml"):
            path = folder / name
            if _is_there(path):
                found = read_settings_file(path)
                if found is not None:
                    return found
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder above that may not be looked into
        return False


def read_settings_file(path: Path) -> SettingsFile | None:
    """Read one file; None for a pyproject.toml that says nothing about pgqueue. Errors as in find_settings_file."""
    foreign = path.name == "pyproject.toml"
    try:
        if path.is_dir():
            raise ConfigurationError(f"{path}: is a directory, not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None
    if foreign and b"tool.pgqueue" not in raw:
        return None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x})") from None
    import tomllib  # noqa: PLC0415 - 5 ms that most processes need not spend

    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r" \(at line (\d+), column \d+\)", str(error))
        at = found[1] if found else text.count("\n") + 1
        reason = str(error)[: found.start() if found else None].splitlines()[0]
        raise ConfigurationError(f"{path}:{at}: {reason}") from None
    if foreign:
        tool = values.get("tool")
        found_here: Any = tool.get("pgqueue") if isinstance(tool, dict) else None
        if found_here is None:
            return None
        if not isinstance(found_here, dict):
            raise ConfigurationError(f"{path}: [tool.pgqueue] must be a table")
        values = found_here
    return SettingsFile(path, values, text)
