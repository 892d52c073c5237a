"""The pipeline's tasks: `pgqueue -A examples.weather.tasks:app worker` runs them."""

import csv
import random
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from pgqueue import AsyncResult, PgQueue, chain, chord, current_connection

app = PgQueue("weather")


def write_readings(folder: Path, stations: int = 24, hours: int = 500) -> list[Path]:
    """Files of readings as stations send them: some hours are missing, some come twice, some are nonsense."""
    paths = []
    for number in range(stations):
        chance = random.Random(number)  # the same readings each time
        path = folder / f"station-{number:02}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(("hour", "celsius"))
            for hour in range(hours):
                celsius: object = round(chance.gauss(number - 5, 6), 1)
                if chance.random() < 0.03:
                    celsius = chance.choice(("", "n/a", "-999"))
                for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 1, 2))):
                    lines.writerow((hour, celsius))
        paths.append(path)
    return paths


def load_all(paths: Iterable[Path]) -> AsyncResult[int]:
    """A chain for each file, side by side, and one load when all are done."""
    sent: AsyncResult[int] = chord(
        [chain(extract.s(str(path)), clean.s(), summarise.s(path.stem)) for path in paths], load.s()
    )()
    return sent


@app.task
def extract(path: str) -> list[list[str]]:
    """The lines of a file."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [[line["hour"], line["celsius"]] for line in csv.DictReader(file)]


@app.task
def clean(lines: list[list[str]]) -> dict[str, Any]:
    """One reading for each hour, and how many lines were refused."""
    readings: dict[int, float] = {}
    refused = 0
    for hour, celsius in lines:
        try:
            value = float(celsius)
        except ValueError:
            value = -999.0
        if value < -90 or int(hour) in readings:
            refused += 1
        else:
            readings[int(hour)] = value
    return {"celsius": list(readings.values()), "refused": refused}


@app.task
def summarise(cleaned: dict[str, Any], station: str) -> dict[str, Any]:
    """The figures of one station."""
    celsius = cleaned["celsius"]
    return {
        "station": station,
        "readings": len(celsius),
        "refused": cleaned["refused"],
        "mean": round(fmean(celsius), 2),
        "lowest": min(celsius),
        "highest": max(celsius),
    }


@app.task(transactional=True)
def load(stations: list[dict[str, Any]]) -> int:
    """Replace the table by these figures: they and this job's end commit together."""
    conn = current_connection()
    conn.execute("delete from climate")
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into climate values (%(station)s, %(readings)s, %(refused)s, %(mean)s, %(lowest)s, %(highest)s)",
            stations,
        )
    return len(stations)
