"""docs/porting.md lists exactly what pgqueue knows, and pgqueue knows every setting of Celery, each in one place."""

import re
from pathlib import Path

import pytest

from pgqueue.config.settings import MAPPED, SETTINGS
from pgqueue.declined.settings import DECLINED
from scripts.porting_table import END, PAGE, page

# the names of Celery 5.6's settings; a family of settings of one backend ends in *
CELERY = (Path(__file__).parent / "celery_settings.txt").read_text(encoding="utf-8").split()


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run scripts/porting_table.py"


def test_the_page_lists_every_setting_once() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+\*?)`", PAGE.read_text(encoding="utf-8").partition("## Settings")[2], re.M)
    assert sorted(rows) == sorted([*SETTINGS, *MAPPED, *DECLINED])


def test_a_changed_table_would_be_noticed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text.replace("| `timezone` |", "| `time_zone` |")) == text
    assert END in text


def test_every_setting_has_one_place() -> None:
    assert not SETTINGS.keys() & MAPPED.keys()
    assert not (SETTINGS.keys() | MAPPED.keys()) & DECLINED.keys()
    assert all(mapped.target in SETTINGS for mapped in MAPPED.values())


@pytest.mark.parametrize("name", CELERY)
def test_every_setting_of_celery_is_known(name: str) -> None:
    assert name in SETTINGS or name in MAPPED or name in DECLINED


def test_settings_without_a_mark_are_celerys() -> None:
    ours = {setting.name for setting in SETTINGS.values() if not setting.celery}
    assert {name for name in [*SETTINGS, *MAPPED, *DECLINED] if name not in ours} == set(CELERY)


def test_ways_out_are_one_line() -> None:
    for name, way_out in DECLINED.items():
        assert way_out.strip() == way_out, name
        assert "\n" not in way_out
        assert way_out
