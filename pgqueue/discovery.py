"""Finding applications and the modules with their tasks; every failed import ends as one line with file and line.

The command line puts the current directory on sys.path before it calls find_app, as Celery does; nothing here does.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeGuard

from pgqueue.errors import AppNotFound, ConfigurationError

__all__ = ["AppLike", "autodiscover", "find_app", "find_object", "import_tasks"]


_STDLIB = str(Path(traceback.__file__).parent)
_PACKAGE = str(Path(__file__).parent)


class AppLike(Protocol):
    """What makes an object an application (pgqueue.PgQueue), without an import from above."""

    conf: Any
    tasks: Any

    def send_task(self, name: str, *args: Any, **kwargs: Any) -> Any: ...


def is_app(found: object) -> TypeGuard[AppLike]:
    """Whether this is an application object (a class is none)."""
    return not isinstance(found, (type, ModuleType)) and all(
        hasattr(type(found), name) or name in getattr(found, "__dict__", {}) for name in ("conf", "tasks", "send_task")
    )


def find_app(spec: str) -> Any:
    """Find an application.

    Args:
        spec: ``module:attribute``, ``module.attribute``, or a module alone: then its `app`, its `celery`, for a package
            the same of its module `celery`, else the first application that it holds.

    Returns:
        The application.

    Raises:
        AppNotFound: nothing of this name, or its import failed; the message names file and line.
    """
    spec = spec.strip() if isinstance(spec, str) else ""
    name, colon, attribute = spec.partition(":")
    _check_spec(spec, [*name.split("."), *(attribute.split(".") if colon else ())])
    if colon:
        return _as_app(spec, _attribute(spec, _import(name, AppNotFound), attribute))
    parent, _, last = name.rpartition(".")
    if not _exists(name) and parent and _exists(parent):
        module = _import(parent, AppNotFound)
        found = getattr(module, last, None)
        if found is None and last == "py":
            raise AppNotFound(f"-A {spec}: expected a module, not a file; write -A {parent}")
        if found is None:
            raise AppNotFound(f"-A {spec}: module {parent!r} has neither a module nor an attribute {last!r}")
        return _as_app(spec, found)
    return _app_of(spec, _import(name, AppNotFound))


def _check_spec(spec: str, parts: list[str]) -> None:
    if parts and all(part.isidentifier() for part in parts):
        return
    if spec.endswith(".py") or "/" in spec:
        better = spec.removesuffix(".py").strip("./").replace("/", ".")
        raise AppNotFound(f"-A {spec}: expected a module, not a file; write -A {better}")
    raise AppNotFound(f"-A {spec!r}: expected module:attribute, such as shop.tasks:app")


def _as_app(spec: str, found: object) -> Any:
    if isinstance(found, ModuleType):
        return _app_of(spec, found)
    if not is_app(found):
        raise AppNotFound(f"-A {spec}: this is a {type(found).__qualname__}, not a PgQueue application")
    return found


def _app_of(spec: str, module: ModuleType) -> Any:
    for name in ("app", "celery"):
        found = vars(module).get(name)
        if is_app(found):
            return found
    if hasattr(module, "__path__") and _exists(f"{module.__name__}.celery"):
        return _app_of(spec, _import(f"{module.__name__}.celery", AppNotFound))
    for found in vars(module).values():
        if is_app(found):
            return found
    raise AppNotFound(f"-A {spec}: no PgQueue application in {_file_of(module)}; write -A module:attribute")


def _file_of(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _short(file) if file else f"module {module.__name__!r}"


def _attribute(spec: str, found: Any, path: str) -> Any:
    where = found
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = sorted(name for name, value in vars(where).items() if is_app(value))
            hint = f"; it has {', '.join(names)}" if names else ""
            raise AppNotFound(f"-A {spec}: {_file_of(where)} has no attribute {path!r}{hint}") from None
    return found


def find_object(path: str) -> Any:
    """Import ``module``, ``module:attribute`` or ``module.attribute``, for settings that name an object.

    Raises:
        ConfigurationError: there is none, or its import failed.
    """
    name, colon, attribute = path.partition(":")
    if not colon and "." in name and not _exists(name):
        name, _, attribute = path.rpartition(".")
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{path!r}: expected a module, module:attribute or module.attribute")
    found: Any = _import(name, ConfigurationError)
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"{path!r}: {_short_name(found)} has no attribute {part!r}") from None
    return found


def _short_name(found: Any) -> str:
    return _file_of(found) if isinstance(found, ModuleType) else type(found).__qualname__


def import_tasks(names: Iterable[str]) -> list[ModuleType]:
    """Import modules that define tasks.

    Args:
        names: dotted names, from `imports`, `include` and -I.

    Raises:
        ConfigurationError: one is not found, or its import failed.
    """
    return [_import(name, ConfigurationError) for name in names]


def autodiscover(packages: Iterable[str], related_name: str | None = "tasks") -> list[ModuleType]:
    """Import the module of this name of every package that has one.

    Args:
        packages: dotted names of packages; Django's ``shop.apps.ShopConfig`` stands for ``shop.apps``, then ``shop``.
        related_name: module to look for; None imports the packages alone.

    Returns:
        The modules found.

    Raises:
        ConfigurationError: a package is not found, or an import failed.
    """
    found = []
    for package in packages:
        name = package
        while name and not _exists(name) and "." in name:
            name = name.rpartition(".")[0]
        module = _import(name or package, ConfigurationError)
        if related_name is None:
            found.append(module)
            continue
        while name:
            if _exists(f"{name}.{related_name}"):
                found.append(_import(f"{name}.{related_name}", ConfigurationError))
                break
            name = name.rpartition(".")[0] if name != package else ""
    return found


def _exists(name: str) -> bool:
    """Whether a module can be found; its parents are imported for that, and what they raise is left to _import."""
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        missing = error.name or ""
        return not (name == missing or name.startswith(f"{missing}."))
    except (ImportError, ValueError):
        return False
    except Exception:
        return True


def _import(name: str, failure: type[ConfigurationError]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            message = f"no module {missing!r}"
            if missing != name:
                message += f" (wanted {name!r})"
            raise failure(f"{message}; searched {_short(sys.path[0] or '.')} and the installed packages") from error
        raise failure(_explain(name, error)) from error
    except (Exception, SystemExit) as error:
        raise failure(_explain(name, error)) from error


def _explain(name: str, error: BaseException) -> str:
    said = " ".join(str(error).split())
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen") and "importlib" not in frame.filename
    ]
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith((_STDLIB, _PACKAGE)) and "site-packages" not in frame.filename
    ]
    where = (own or frames)[-1:]
    return f"{_short(where[0].filename)}:{where[0].lineno}: {what}" if where else f"import {name}: {what}"


def _short(file: str) -> str:
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
