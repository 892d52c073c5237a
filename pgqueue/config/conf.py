"""app.conf: settings by attribute and by key, from five sources, frozen when the application first runs.

A later source wins: defaults < pgqueue.toml or [tool.pgqueue] < environment (PGQUEUE_*, DATABASE_URL) < assignments in
code < arguments of PgQueue and the command line. Values are checked where they are
set, relations between settings at freeze().
"""

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from pgqueue.config.settings import MAPPED, RELATIONS, SETTINGS
from pgqueue.config.settings_file import SettingsFile, find_settings_file
from pgqueue.declined.settings import DECLINED, OLD_NAMES, decline
from pgqueue.discovery import find_object
from pgqueue.errors import ConfigurationError, UnknownSetting, UnsupportedOption

__all__ = ["Conf"]

_ENVIRONMENT = "PGQUEUE_"
_OLD_PREFIXES = ("CELERY_", "CELERYD_", "CELERYBEAT_", "CELERYMON_", "BROKER_")
_FAMILIES = (
    "accept_",
    "beat_",
    "broker_",
    "control_",
    "database_",
    "event_",
    "result_",
    "security_",
    "task_",
    "worker_",
)


class Conf(Mapping[str, Any]):
    """The settings of one application.

    Args:
        given: settings that win over all others: arguments of PgQueue, options of the command line.
        environ: environment variables; default os.environ.
        directory: where the search for pgqueue.toml or a pyproject.toml with [tool.pgqueue] begins, to go upwards;
            default the current directory. File and environment are read when a setting is first read.

    Raises:
        UnknownSetting: no setting has this name; the nearest is named.
        UnsupportedOption: a setting of Celery that is not honoured; the way out is named.
        ConfigurationError: a wrong value, a wrong file, or a write after freeze().
    """

    def __init__(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self._given: dict[str, tuple[Any, str]] = {}
        self._code: dict[str, tuple[Any, str]] = {}
        self._outside: dict[str, tuple[Any, str]] | None = None  # environment over file; None until first read
        self._environ = os.environ if environ is None else environ
        self._directory = directory
        self._own_defaults: dict[str, dict[str, Any]] = {}  # people put entries into them, as into Celery's
        self._frozen: dict[str, Any] | None = None
        self._moment = ""
        self.override(given or {})

    # reading

    def __getitem__(self, name: str) -> Any:
        name = MAPPED[name].target if name in MAPPED else name
        if self._frozen is not None and name in self._frozen:
            return self._frozen[name]
        if name not in SETTINGS:
            raise _no_setting(name)
        return self._find(name)[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownSetting as error:
            if name in self:  # another name is wrong, in a file or the environment
                raise
            raise _NoAttribute(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)

    def __contains__(self, name: object) -> bool:
        return name in SETTINGS or name in MAPPED

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a setting; `default` if there is no setting of this name."""
        return self[name] if name in self else default  # noqa: SIM401 - this is get

    def source(self, name: str) -> str:
        """Where a value comes from: ``default``, a file's path, an environment variable, ``code`` or ``argument``."""
        return self._find(MAPPED[name].target if name in MAPPED else name)[1]

    def __repr__(self) -> str:
        changed = ", ".join(sorted({*self._given, *self._code, *(self._outside or {})}))
        return f"<Conf: {changed or 'defaults'}{', frozen' if self._frozen is not None else ''}>"

    def _find(self, name: str) -> tuple[Any, str]:
        for layer in (self._given, self._code, self._read_outside()):
            if name in layer:
                return layer[name]
            if name == "dsn" and layer is self._code and (found := self._dsn_from_environment()):
                return found
        default = SETTINGS[name].default
        if isinstance(default, Mapping):
            default = self._own_defaults.setdefault(name, dict(default))
        return default, "default"

    def _dsn_from_environment(self) -> tuple[Any, str] | None:
        """Looked up when it is needed only: another library's DATABASE_URL may name another kind of database."""
        for variable in ("PGQUEUE_DSN", "DATABASE_URL"):
            found = self._environ.get(variable)
            if found is not None and (found or variable == "PGQUEUE_DSN"):
                return _check("dsn", found, f"{variable}: ")[1], variable
        return None

    def _read_outside(self) -> dict[str, tuple[Any, str]]:
        if self._outside is None:
            file = find_settings_file(Path(self._directory or Path.cwd()))
            found = {} if file is None else _from_file(file)
            self._outside = found | _from_environment(self._environ)
        return self._outside

    # writing

    def __setitem__(self, name: str, value: Any) -> None:
        self._put(self._code, {name: value}, "code")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def update(self, *settings: Mapping[str, Any], **more: Any) -> None:
        """Set several settings, all or none."""
        found: dict[str, Any] = {}
        for each in settings:
            found.update(each)
        self._put(self._code, found | more, "code")

    def override(self, settings: Mapping[str, Any]) -> None:
        """Set several settings above all other sources: arguments of PgQueue, options of the command line."""
        self._put(self._given, settings, "argument")

    def _put(self, layer: dict[str, tuple[Any, str]], settings: Mapping[str, Any], source: str) -> None:
        if self._frozen is not None and settings:
            raise ConfigurationError(f"{next(iter(settings))} cannot change: settings are frozen since {self._moment}")
        layer.update({name: (value, source) for name, value in (_check(*item) for item in settings.items())})

    def freeze(self, moment: str) -> None:
        """Check the relations between settings, and refuse every later change. A second call does nothing.

        Args:
            moment: what happens now, for later messages; "the first enqueue".

        Raises:
            ConfigurationError: two settings contradict each other.
        """
        if self._frozen is not None:
            return
        self.check()
        self._moment = moment
        self._frozen = {name: self._find(name)[0] for name in SETTINGS}
        vars(self).update(self._frozen)  # from now on an attribute is read at an attribute's price

    @property
    def frozen(self) -> bool:
        """Whether freeze() was called."""
        return self._frozen is not None

    def check(self) -> None:
        """Check the relations between settings; ConfigurationError states the one that does not hold."""
        for relation in RELATIONS:
            problem = relation(self)
            if problem:
                raise ConfigurationError(problem)

    # objects and modules

    def config_from_object(self, source: Any, *, silent: bool = False, namespace: str | None = None) -> bool:
        """Take settings from a module, an object's attributes, or a mapping; they are read at once.

        Args:
            source: the object, or its name: ``celeryconfig``, ``django.conf:settings``.
            silent: return False when a name cannot be imported, instead of raising.
            namespace: prefix of the names that count, upper-case as in Celery: with "CELERY", CELERY_TASK_ROUTES sets
                task_routes and the rest is left alone. Without it names are lower-case; a mapping's must all be known,
                a module's only where they look like settings (its imports and variables are its own), and upper-case
                names of Celery 3 are refused with today's name.

        Returns:
            Whether the source was found.
        """
        if isinstance(source, str):
            try:
                source = find_object(source)
            except ConfigurationError:
                if silent:
                    return False
                raise
        self._put(self._code, _settings_of(source, namespace), "code")
        return True

    def config_from_envvar(self, variable: str, *, silent: bool = False) -> bool:
        """The same from the object that an environment variable names; unset is an error unless `silent`."""
        name = self._environ.get(variable)
        if not name:
            if silent:
                return False
            raise ConfigurationError(f"{variable} is not set; it should name a module with settings")
        return self.config_from_object(name, silent=silent)


class _NoAttribute(UnknownSetting, AttributeError):
    pass


def _check(name: str, value: Any, where: str = "") -> tuple[str, Any]:
    mapped = MAPPED.get(name)
    setting = SETTINGS.get(mapped.target if mapped else name)
    if setting is None:
        raise _no_setting(name, where)
    try:
        return setting.name, (mapped or setting).check(value)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{where}{name}: {error}") from None
    except ConfigurationError as error:
        raise (UnsupportedOption if mapped else ConfigurationError)(f"{where}{name}: {error}") from None


def _no_setting(name: str, where: str = "") -> ConfigurationError:
    way_out = decline(name)
    if way_out is not None:
        return UnsupportedOption(f"{where}{name}: {way_out}")
    if name in OLD_NAMES or (name.isupper() and name.startswith(_OLD_PREFIXES)):
        today = OLD_NAMES.get(name) or _nearest(name.partition("_")[2].lower())
        return UnsupportedOption(
            f"{where}{name}: upper-case names need a namespace; write {today or 'the lower-case name'}"
        )
    nearest = _nearest(name)
    return UnknownSetting(f"{where}no setting {name!r}" + (f"; did you mean {nearest!r}?" if nearest else ""))


def _nearest(name: str, cutoff: float = 0.6) -> str | None:
    known = [*SETTINGS, *MAPPED, *(declined for declined in DECLINED if not declined.endswith("*"))]
    found = get_close_matches(name.lower(), known, 1, cutoff)
    return found[0] if found else None


def _from_file(file: SettingsFile) -> dict[str, tuple[Any, str]]:
    return {
        name: (value, str(file.path))
        for name, value in (_check(key, value, file.where(key)) for key, value in file.values.items())
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(_ENVIRONMENT) or variable in ("PGQUEUE_DSN", "PGQUEUE_APP"):
            continue
        name = variable.removeprefix(_ENVIRONMENT).lower()
        if name == "env":
            if value.strip():
                found["environment"] = (_check("environment", value.strip().lower(), f"{variable}: ")[1], variable)
            continue
        if name in MAPPED:
            raise ConfigurationError(f"{variable}: set {_ENVIRONMENT}{MAPPED[name].target.upper()} instead")
        setting = SETTINGS.get(name)
        if setting is None:
            # others have variables of this prefix too (a service named pgqueue in Kubernetes): only a slip is an error
            if decline(name) or _nearest(name, 0.85):
                raise _no_setting(name, f"{variable}: ")
            continue
        if setting.parse is None:
            raise ConfigurationError(
                f"{variable}: {name} cannot be set by the environment; set it in code or in a file"
            )
        found[name] = (_check(name, setting.parse(value), f"{variable}: ")[1], variable)
    return found


def _settings_of(source: Any, namespace: str | None) -> dict[str, Any]:
    named = isinstance(source, Mapping)
    values = dict(source) if named else {name: getattr(source, name) for name in dir(source) if name[:1] != "_"}
    if namespace:
        prefix = namespace if namespace.endswith("_") else f"{namespace}_"
        found = {
            name: name[len(prefix) :].lower()
            for name in values
            if isinstance(name, str) and (name.startswith(prefix) or name.startswith(prefix.upper()))
        }
        for name, ours in found.items():
            _check(ours, values[name], f"{name}: ")  # what is wrong is told by the name that it has in the source
        return {ours: values[name] for name, ours in found.items()}
    return {name: value for name, value in values.items() if named or _is_setting(name, value)}


def _is_setting(name: str, value: Any) -> bool:
    if name in SETTINGS or name in MAPPED or decline(name) is not None:
        return not isinstance(value, ModuleType)
    if isinstance(value, (ModuleType, type, FunctionType)):
        return False
    if name.isupper():
        return name in OLD_NAMES or name.startswith(_OLD_PREFIXES)
    return re.fullmatch("[a-z0-9_]+", name) is not None and (
        name.startswith(_FAMILIES) or _nearest(name, 0.85) is not None
    )
