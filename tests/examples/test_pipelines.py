"""The image pipeline on real files, and the data pipeline whose members are chains."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from examples.images.picture import NoPicture, Picture, read_picture
from pgqueue import ChordError
from tests.support.process import REPOSITORY


@pytest.fixture
def images(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    module = importlib.reload(importlib.import_module("examples.images.tasks"))
    with module.app:
        yield module


def test_every_picture_gets_all_its_variants(images: Any, tmp_path: Path) -> None:
    paths = images.originals(tmp_path)
    assert len(paths) >= 6
    out = tmp_path / "out"
    out.mkdir()
    sent = images.process(paths, out)
    with images.app.worker(pool="threads", concurrency=2):
        written = json.loads(Path(sent.get(timeout=60)).read_text())
    assert [album["picture"] for album in written["albums"]] == [str(path) for path in paths]
    assert len(list(out.glob("*.png"))) == 6 * len(paths)
    for album in written["albums"]:
        sizes = [each["width"] for each in album["variants"]]
        assert sizes[:3] == [48, 160, 96]
        for each in album["variants"]:
            found = read_picture(out / each["file"])
            assert (found.width, found.height) == (each["width"], each["height"])


def test_a_file_that_is_no_picture_ends_the_manifest_with_its_name(images: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear Ann")
    sent = images.process([tmp_path / "letter.png"], tmp_path)
    with images.app.worker(pool="threads", concurrency=2), pytest.raises(ChordError, match="is no PNG file"):
        sent.get(timeout=60)


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    drawn = Picture(2, 2, [bytes([0, 10, 20, 250, 240, 230]), bytes([1, 2, 3, 4, 5, 6])])
    drawn.save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png") == drawn
    assert drawn.mirrored().rows[1] == bytes([4, 5, 6, 1, 2, 3])
    assert drawn.negative().negative() == drawn
    assert drawn.scaled(1).rows == [bytes([63, 64, 64])]
    assert len(set(drawn.grey().rows[0][:3])) == 1
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(NoPicture, match="damaged"):
        read_picture(tmp_path / "b.png")


def test_a_chain_for_each_station_and_one_load(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    weather = importlib.reload(importlib.import_module("examples.weather.tasks"))
    paths = weather.write_readings(tmp_path)
    with psycopg.connect(dsn, autocommit=True) as conn, weather.app:
        conn.execute((REPOSITORY / "examples/weather/tables.sql").read_bytes())
        sent = weather.load_all(paths)
        with weather.app.worker(pool="threads", concurrency=2):
            assert sent.get(timeout=60) == 24
        found = conn.execute(
            "select station, readings + refused, mean between lowest and highest from climate"
        ).fetchall()
    assert {station for station, _, _ in found} == {path.stem for path in paths}
    assert {count for _, count, _ in found} == {len(path.read_text().splitlines()) - 1 for path in paths}
    assert all(sound for _, _, sound in found)
