"""The pipeline's tasks: `pgqueue -A examples.images.tasks:app worker` runs them."""

import json
import math
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.images.picture import NoPicture, Picture, read_picture
from pgqueue import AsyncResult, PgQueue, Signature, chord, group

app = PgQueue("images")
WIDTHS = (160, 96)
FILTERS = ("grey", "negative", "mirrored")


def originals(folder: Path) -> list[Path]:
    """Real pictures: the icons that Python brings along, if it does, and six that are drawn into a folder."""
    icons = sorted(Path(sysconfig.get_path("stdlib"), "idlelib", "Icons").glob("*.png"))
    for number in range(6):
        width, height = 240, 150
        rows = [
            bytes(
                round(127 + 127 * math.sin(x / (9 + number) + colour) * math.cos(y / (7 + colour)))
                for x in range(width)
                for colour in range(3)
            )
            for y in range(height)
        ]
        Picture(width, height, rows).save(folder / f"waves-{number}.png")
    return [*icons, *sorted(folder.glob("waves-*.png"))]


def pipeline(path: Path, folder: Path) -> Signature[Any]:
    """One picture: look at it, then make all variants side by side, then list them."""
    variants = [
        thumbnail.s(str(folder)),
        *(resize.s(str(folder), width) for width in WIDTHS),
        *(change.s(str(folder), name) for name in FILTERS),
    ]
    return inspect.s(str(path)) | group(variants) | album.s(str(path))


def process(paths: Iterable[Path], folder: Path) -> AsyncResult[str]:
    """All pictures, and a manifest when the last variant of the last one is there: chords in chains in a chord."""
    sent: AsyncResult[str] = chord([pipeline(path, folder) for path in paths], manifest.s(str(folder)))()
    return sent


@app.task(throws=(NoPicture,))
def inspect(path: str) -> dict[str, Any]:
    """Read a picture, so that what is none fails here and once."""
    found = read_picture(Path(path))
    return {"path": path, "width": found.width, "height": found.height}


@app.task
def thumbnail(picture: dict[str, Any], folder: str) -> dict[str, Any]:
    """A picture of 48 pixels' width."""
    return _saved(picture, folder, "thumbnail", read_picture(Path(picture["path"])).scaled(48))


@app.task
def resize(picture: dict[str, Any], folder: str, width: int) -> dict[str, Any]:
    """A picture of another width."""
    return _saved(picture, folder, f"{width}px", read_picture(Path(picture["path"])).scaled(width))


@app.task
def change(picture: dict[str, Any], folder: str, name: str) -> dict[str, Any]:
    """A picture after one of FILTERS."""
    changed: Picture = getattr(read_picture(Path(picture["path"])), name)()
    return _saved(picture, folder, name, changed)


@app.task
def album(variants: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """What was made of one picture."""
    return {"picture": path, "bytes": sum(each["bytes"] for each in variants), "variants": variants}


@app.task
def manifest(albums: list[dict[str, Any]], folder: str) -> str:
    """Write what was made of all pictures into manifest.json; its path."""
    path = Path(folder) / "manifest.json"
    path.write_text(json.dumps({"pictures": len(albums), "albums": albums}, indent=2), encoding="utf-8")
    return str(path)


def _saved(picture: dict[str, Any], folder: str, what: str, made: Picture) -> dict[str, Any]:
    # Under the name that a second attempt gives it, too.
    path = Path(folder) / f"{Path(picture['path']).stem}-{what}.png"
    made.save(path)
    return {"file": path.name, "width": made.width, "height": made.height, "bytes": path.stat().st_size}
