"""Pictures in PNG files, with nothing but the standard library: 8 bits a channel, not interlaced."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class NoPicture(Exception):
    """A file is no PNG that is understood here."""


class Picture(NamedTuple):
    """Rows of pixels, three bytes each."""

    width: int
    height: int
    rows: list[bytes]

    def scaled(self, width: int) -> "Picture":
        """The picture in another width; each new pixel is the mean of those that it covers."""
        height = max(1, round(self.height * width / self.width))
        rows = []
        for y in range(height):
            top, bottom = y * self.height // height, max((y + 1) * self.height // height, y * self.height // height + 1)
            row = bytearray()
            for x in range(width):
                left = x * self.width // width
                right = max((x + 1) * self.width // width, left + 1)
                found = b"".join(line[3 * left : 3 * right] for line in self.rows[top:bottom])
                row += bytes(sum(found[colour::3]) * 3 // len(found) for colour in range(3))
            rows.append(bytes(row))
        return Picture(width, height, rows)

    def grey(self) -> "Picture":
        """Without its colours."""
        rows = []
        for line in self.rows:
            pixels = zip(line[::3], line[1::3], line[2::3], strict=True)
            shades = ((299 * r + 587 * g + 114 * b) // 1000 for r, g, b in pixels)
            rows.append(b"".join(bytes((shade,)) * 3 for shade in shades))
        return self._replace(rows=rows)

    def negative(self) -> "Picture":
        """With each colour turned into its opposite."""
        return self._replace(rows=[line.translate(bytes(range(255, -1, -1))) for line in self.rows])

    def mirrored(self) -> "Picture":
        """Left and right exchanged."""
        return self._replace(
            rows=[b"".join(line[place : place + 3] for place in range(len(line) - 3, -1, -3)) for line in self.rows]
        )

    def save(self, path: Path) -> None:
        """Write it."""
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + line for line in self.rows), 6)
        parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
        path.write_bytes(_SIGNATURE + b"".join(parts))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_picture(path: Path) -> Picture:
    """Read a PNG file.

    Raises:
        NoPicture: it is none, or one of a kind that is not understood.
    """
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise NoPicture(f"{path.name} is no PNG file")
    found: dict[bytes, bytes] = {}
    place = len(_SIGNATURE)
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        found[kind] = found.get(kind, b"") + data[place + 8 : place + 8 + size]
        place += size + 12
    try:
        width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", found[b"IHDR"])
        if depth != 8 or interlaced or colours not in _CHANNELS:
            raise NoPicture(f"{path.name}: only PNG files with 8 bits a channel, not interlaced, are understood")
        lines = _unfiltered(zlib.decompress(found[b"IDAT"]), width, height, _CHANNELS[colours])
        return Picture(width, height, [_rgb(line, colours, found.get(b"PLTE", b"")) for line in lines])
    except (KeyError, struct.error, zlib.error, IndexError) as error:
        raise NoPicture(f"{path.name} is damaged: {error}") from None


def _unfiltered(data: bytes, width: int, height: int, step: int) -> Iterator[bytes]:
    """The rows as they were before each was written as differences to its neighbours."""
    size = width * step
    above = bytes(size)
    for y in range(height):
        kind, line = data[y * (size + 1)], bytearray(data[y * (size + 1) + 1 : (y + 1) * (size + 1)])
        for x in range(size if kind else 0):
            a, b = line[x - step] if x >= step else 0, above[x]
            c = above[x - step] if x >= step else 0
            line[x] = (line[x] + (0, a, b, (a + b) // 2, _paeth(a, b, c))[kind]) & 255
        above = bytes(line)
        yield above


def _paeth(a: int, b: int, c: int) -> int:
    return min((a, b, c), key=lambda one: abs(a + b - c - one))


def _rgb(line: bytes, colours: int, palette: bytes) -> bytes:
    if colours == 2:
        return line
    if colours == 3:
        return b"".join(palette[3 * one : 3 * one + 3] for one in line)
    if colours == 6:
        return b"".join(line[place : place + 3] for place in range(0, len(line), 4))
    return b"".join(bytes((shade,)) * 3 for shade in line[:: _CHANNELS[colours]])
