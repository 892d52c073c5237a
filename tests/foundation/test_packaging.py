"""What users install: the wheel and the source archive carry everything, and nothing else."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(archives: Path) -> set[str]:
    """The names in the wheel."""
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as archive:
        return set(archive.namelist())


def sources(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(REPOSITORY / folder).as_posix() for path in (REPOSITORY / folder).rglob(pattern)}


@pytest.mark.slow
def test_the_wheel_carries_every_module_and_its_types(wheel: set[str]) -> None:
    assert {f"pgqueue/{name}" for name in sources("pgqueue", "*.py")} <= wheel
    assert "pgqueue/py.typed" in wheel


@pytest.mark.slow
def test_the_wheel_carries_the_named_queries(wheel: set[str]) -> None:
    queries = sources("sql", "*.sql")
    assert queries
    assert {f"pgqueue/_sql/{name}" for name in queries} <= wheel


@pytest.mark.slow
def test_the_wheel_carries_the_migrations(wheel: set[str]) -> None:
    migrations = sources("migrations", "*.sql") | sources("migrations", "*.py")
    assert any(name.endswith(".up.sql") for name in migrations)
    assert {f"pgqueue/_migrations/{name}" for name in migrations} <= wheel


@pytest.mark.slow
def test_the_wheel_carries_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"pgqueue"}
    assert not [name for name in wheel if "__pycache__" in name]


@pytest.mark.slow
def test_the_wheel_names_its_command_licence_and_extras(archives: Path, wheel: set[str]) -> None:
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as archive:
        info = next(name.split("/")[0] for name in wheel if ".dist-info/" in name)
        assert "pgqueue = pgqueue.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    for extra in ("embedded", "sqlalchemy", "asyncpg", "django", "reload", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


@pytest.mark.slow
def test_the_source_archive_is_complete(archives: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    with tarfile.open(next(archives.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if (REPOSITORY / name).exists()} <= names
