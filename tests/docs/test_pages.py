"""Every example of the documentation is executed, page by page."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgqueue import embedded
from tests.docs.page import RUN, Page, blocks, matches
from tests.support.process import REPOSITORY, clean_environment

PAGES = sorted(REPOSITORY.glob("docs/**/*.md"))
QUICKSTART = REPOSITORY / "docs/quickstart.md"
RUNNING = [page for page in PAGES if any(block.wanted for block in blocks(page.read_text(encoding="utf-8")))]
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([\w-]+))?\)")


@pytest.fixture
def embedded_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for an embedded server of a page's own."""
    # Not tmp_path: pytest closes it to other users, and for root the server runs as one.
    with tempfile.TemporaryDirectory(prefix="pgq-page-") as base:
        Path(base).chmod(0o755)
        place = Path(base) / "server"
        monkeypatch.setenv("PGQUEUE_EMBEDDED_PATH", str(place))
        yield place
        embedded.reset()


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_a_page_does_what_it_says(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if page == QUICKSTART:
        where = {"PGQUEUE_EMBEDDED_PATH": str(request.getfixturevalue("embedded_place"))}
    else:
        where = {"PGQUEUE_DSN": request.getfixturevalue("dsn")}
    environment = clean_environment(**where, PYTHONPATH=str(REPOSITORY), NO_COLOR="1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.page", str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tables_on_a_server_one_has(empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGQUEUE_DSN", empty_dsn)
    (block,) = (each for each in blocks(QUICKSTART.read_text(encoding="utf-8")) if "pgqueue migrate\n" in each.text)
    Page().run(block)


@pytest.mark.parametrize("page", [*PAGES, *REPOSITORY.glob("*.md"), *REPOSITORY.glob("examples/*.md")], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{name_of(page)} links to {target}#{anchor}; there are {sorted(anchors)}"


def test_every_page_is_reached_from_the_index() -> None:
    index = REPOSITORY / "docs/index.md"
    linked = {(index.parent / target).resolve() for target, _ in _LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page != index} <= linked


def test_what_is_not_run_says_why() -> None:
    """A block is executable, or a comment before it says why not."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        left_out = [block for block in blocks(text) if block.language in RUN and not block.wanted]
        assert len(left_out) == text.count("<!-- not run: "), name_of(page)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("SUCCESS\n", "SUCCESS", True),
        ("SUCCESS", "FAILURE", False),
        ("job 0198c0de-0000-7000-8000-000000000001 is done", "job 0199aaaa-1111-7222-8333-444444444444 is done", True),
        ("hello@laptop is ready (pid 1)", "hello@box.example is ready (pid 4711)", True),
        ("a ... z", "a b\nc z", True),
        ("a ... z", "a b\nc", False),
        ("one", "one\ntwo", False),
    ],
)
def test_what_may_differ_between_two_runs(expected: str, found: str, same: bool) -> None:
    assert matches(expected, found) is same
