"""Finding applications and tasks: Celery's rules, and one line with file and line for whatever goes wrong."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgqueue.discovery import autodiscover, find_app, find_object, import_tasks
from pgqueue.errors import AppNotFound, ConfigurationError

APP = "class App:\n    conf = tasks = None\n    def send_task(self): ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.relative_to(Path.cwd()).parents:
        if folder != Path("."):
            (folder / "__init__.py").touch()
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "spec"),
    [
        ("one.py", "app = App()", "one"),
        ("one.py", "app = App()", "one:app"),
        ("one.py", "app = App()", "one.app"),
        ("one.py", "app = App()", " one "),
        ("one.py", "celery = App()", "one"),
        ("one.py", "class Flask: ...\napp = Flask()\ncelery = App()", "one"),
        ("one.py", "queue = App()", "one"),
        ("one.py", "class Holder:\n    app = App()", "one:Holder.app"),
        ("shop/celery.py", "app = App()", "shop"),
        ("shop/celery.py", "queue = App()", "shop"),
        ("shop/celery.py", "app = App()", "shop.celery"),
        ("shop/tasks.py", "app = App()", "shop.tasks:app"),
        ("shop/tasks.py", "app = App()", "shop.tasks.app"),
        ("shop/__init__.py", "app = App()", "shop"),
    ],
)
def test_applications_are_found(project: Path, file: str, text: str, spec: str) -> None:
    write(project / file, APP + text)
    assert type(find_app(spec)).__name__ == "App"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "-A '': expected module:attribute"),
        ("a b", "expected module:attribute"),
        ("shop:", "expected module:attribute"),
        ("../shop", "expected a module, not a file"),
        ("shop/tasks.py", "expected a module, not a file; write -A shop.tasks"),
        ("missing", "no module 'missing'"),
        ("missing.tasks:app", "no module 'missing' (wanted 'missing.tasks')"),
        ("shop.missing:app", "no module 'shop.missing'"),
        ("shop.missing", "module 'shop' has neither a module nor an attribute 'missing'"),
        ("shop.py", "-A shop.py: expected a module, not a file; write -A shop"),
        ("shop", "no PgQueue application in shop/__init__.py; write -A module:attribute"),
        ("shop.fine:other", "shop/fine.py has no attribute 'other'; it has queue"),
        ("shop.fine:number", "this is a int, not a PgQueue application"),
        ("shop.fine:App", "this is a type, not a PgQueue application"),
        ("shop.typo", "shop/typo.py:2: ModuleNotFoundError: No module named 'requets'"),
        ("shop.raises:app", "shop/raises.py:3: RuntimeError: first line second line"),
        ("shop.exits:app", "shop/exits.py:2: SystemExit: 3"),
        ("shop.syntax", "shop/syntax.py:2: SyntaxError: "),
        ("shop.circle", "shop/square.py:1: ImportError: cannot import name 'app' from partially initialized module"),
        ("shop.deep", "shop/deep.py:1: "),
        ("broken", "broken/__init__.py:1: ZeroDivisionError: division by zero"),
        ("broken.tasks", "broken/__init__.py:1: ZeroDivisionError"),
    ],
)
def test_whatever_is_wrong_is_told_in_one_line(project: Path, spec: str, message: str) -> None:
    write(project / "shop/fine.py", APP + "queue = App()\nnumber = 5")
    write(project / "shop/typo.py", "\nimport requets")
    write(project / "shop/raises.py", "def fail():\n\n    raise RuntimeError('first line\\nsecond line')\nfail()")
    write(project / "shop/exits.py", "import sys\nsys.exit(3)")
    write(project / "shop/syntax.py", "\nx = = 1")
    write(project / "shop/circle.py", "import shop.square\napp = 1")
    write(project / "shop/square.py", "from shop.circle import app")
    write(project / "shop/deep.py", "import json; json.loads('{')")
    write(project / "broken/__init__.py", "1 / 0")
    write(project / "broken/tasks.py", "")
    (project / "broken/__init__.py").write_text("1 / 0")
    with pytest.raises(AppNotFound) as caught:
        find_app(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_task_modules_are_imported(project: Path) -> None:
    write(project / "shop/tasks.py", "")
    write(project / "shop/bad.py", "\n1 / 0")
    assert [module.__name__ for module in import_tasks(["shop.tasks", "shop"])] == ["shop.tasks", "shop"]
    with pytest.raises(ConfigurationError, match=r"^shop/bad.py:2: ZeroDivisionError: division by zero$"):
        import_tasks(["shop.bad"])
    with pytest.raises(ConfigurationError, match=r"no module 'shop\.none'"):
        import_tasks(["shop.none"])


def test_packages_are_searched(project: Path) -> None:
    write(project / "shop/tasks.py", "")
    write(project / "shop/apps.py", "class ShopConfig: ...")
    write(project / "mail/jobs.py", "")
    names = [module.__name__ for module in autodiscover(["shop", "mail"])]
    assert names == ["shop.tasks"]
    assert [module.__name__ for module in autodiscover(["shop.apps.ShopConfig"])] == ["shop.tasks"]
    assert [module.__name__ for module in autodiscover(["shop", "mail"], "jobs")] == ["mail.jobs"]
    assert [module.__name__ for module in autodiscover(["mail"], None)] == ["mail"]


def test_a_found_module_that_fails_is_told(project: Path) -> None:
    write(project / "shop/tasks.py", "import requets")
    with pytest.raises(ConfigurationError, match=r"^shop/tasks.py:1: ModuleNotFoundError"):
        autodiscover(["shop"])
    with pytest.raises(ConfigurationError, match="no module 'nowhere'"):
        autodiscover(["nowhere"])


def test_objects_by_path(project: Path) -> None:
    write(project / "shop/routes.py", "class Router:\n    inner = 5")
    for path in ("shop.routes:Router", "shop.routes.Router"):
        assert find_object(path).__name__ == "Router"
    assert find_object("shop.routes:Router.inner") == 5
    assert find_object("shop.routes").__name__ == "shop.routes"
    with pytest.raises(ConfigurationError, match=r"shop/routes\.py has no attribute 'None'"):
        find_object("shop.routes.None")
    for path in ("", ":", "a b", "../x"):
        with pytest.raises(ConfigurationError, match="expected a module"):
            find_object(path)
