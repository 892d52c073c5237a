"""app.conf: sources and their order, refusals with a way out, files, freezing."""

import re
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgqueue import PgQueue
from pgqueue.config.conf import Conf
from pgqueue.config.settings import MAPPED, SETTINGS
from pgqueue.declined.settings import OLD_NAMES, decline
from pgqueue.errors import ConfigurationError, UnknownSetting, UnsupportedOption


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    return Conf(environ={}, directory=tmp_path)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_defaults_pass_their_own_checks(conf: Conf) -> None:
    for setting in SETTINGS.values():
        assert conf[setting.name] == setting.default
        if setting.default is not None:
            assert setting.check(setting.default) == setting.default
    conf.check()


def test_attributes_and_keys_are_the_same(conf: Conf) -> None:
    conf.task_default_queue = "mail"
    conf["timezone"] = "Europe/Berlin"
    conf.update({"worker_concurrency": 8}, task_always_eager=True)
    assert (conf["task_default_queue"], conf.timezone, conf.worker_concurrency) == ("mail", "Europe/Berlin", 8)
    assert dict(conf)["task_always_eager"] is True
    assert len(conf) == len(SETTINGS) == len(list(conf))
    assert "timezone" in conf
    assert "time_zone" not in conf
    assert conf.get("time_zone", 5) == 5


def test_every_source_wins_over_the_ones_below(tmp_path: Path) -> None:
    write(tmp_path / "pgqueue.toml", 'timezone = "Asia/Tokyo"\ntask_default_queue = "file"\nworker_concurrency = 2\n')
    (tmp_path / "deep" / "er").mkdir(parents=True)
    environ = {"PGQUEUE_TASK_DEFAULT_QUEUE": "env", "PGQUEUE_WORKER_CONCURRENCY": "3", "PGQUEUE_SCHEMA": "env"}
    conf = Conf({"schema": "given"}, environ=environ, directory=tmp_path / "deep" / "er")
    conf.worker_concurrency = 4
    conf.schema = "code"
    assert [conf[name] for name in ("timezone", "task_default_queue", "worker_concurrency", "schema")] == [
        "Asia/Tokyo",
        "env",
        4,
        "given",
    ]
    assert [
        conf.source(name) for name in ("timezone", "task_default_queue", "worker_concurrency", "schema", "dsn")
    ] == [
        str(tmp_path / "pgqueue.toml"),
        "PGQUEUE_TASK_DEFAULT_QUEUE",
        "code",
        "argument",
        "default",
    ]


def test_the_dsn_has_its_order(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "postgres://url/d"}
    write(tmp_path / "pyproject.toml", '[tool.pgqueue]\ndsn = "postgres://file/d"\n')
    assert Conf(environ={}, directory=tmp_path).dsn == "postgres://file/d"
    assert Conf(environ={"DATABASE_URL": ""}, directory=tmp_path).dsn == "postgres://file/d"
    assert Conf(environ=environ, directory=tmp_path).source("dsn") == "DATABASE_URL"
    environ["PGQUEUE_DSN"] = "postgres://env/d"
    assert Conf(environ=environ, directory=tmp_path).dsn == "postgres://env/d"
    assert Conf({"dsn": "postgres://given/d"}, environ=environ, directory=tmp_path).dsn == "postgres://given/d"
    with pytest.raises(ConfigurationError, match="PGQUEUE_DSN: dsn: expected a connection string"):
        _ = Conf(environ={"PGQUEUE_DSN": ""}, directory=tmp_path).dsn


def test_another_librarys_database_url_matters_only_when_it_is_needed(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "mysql://u:p@h/d"}
    conf = Conf(environ=environ, directory=tmp_path)
    assert conf.timezone == "UTC"
    with pytest.raises(ConfigurationError, match="DATABASE_URL: dsn: mysql:// is not PostgreSQL"):
        _ = conf.dsn
    conf.dsn = "postgres://h/d"
    assert conf.dsn == "postgres://h/d"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("task_default_que", "task_default_queue"), ("worker_leese", "worker_lease"), ("timezon", "timezone")],
)
def test_unknown_names_suggest_the_nearest(conf: Conf, name: str, nearest: str) -> None:
    for act in (lambda: conf.update({name: 1}), lambda: setattr(conf, name, 1), lambda: getattr(conf, name)):
        with pytest.raises(UnknownSetting, match=f"no setting '{name}'; did you mean '{nearest}'"):
            act()
    assert not hasattr(conf, name)


def test_a_wholly_unknown_name_suggests_nothing(conf: Conf) -> None:
    with pytest.raises(UnknownSetting) as caught:
        conf["qqqq"] = 1
    assert str(caught.value) == "no setting 'qqqq'"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("worker_lease", "30s", "worker_lease: expected seconds as a number between 1 and 86,400, got '30s'"),
        ("worker_lease", True, "expected seconds"),
        ("worker_lease", float("nan"), "expected seconds"),
        ("worker_lease", None, "expected seconds"),
        ("worker_poll_interval", 0, "expected seconds"),
        ("task_always_eager", "true", "expected true or false, got 'true'"),
        ("task_always_eager", None, "expected true or false"),
        ("worker_concurrency", 0, "expected a whole number between 1 and 10,000, got 0"),
        ("worker_concurrency", -1, "expected a whole number"),
        ("worker_concurrency", 100_000, "expected a whole number"),
        ("worker_concurrency", "abc", "expected a whole number"),
        ("worker_concurrency", True, "expected a whole number"),
        ("task_default_priority", 10, "expected a whole number between 0 and 9"),
        ("task_default_max_retries", 1001, "expected a whole number between 0 and 1,000"),
        ("task_default_queue", "", "expected a queue name"),
        ("task_default_queue", "a" * 129, "expected a queue name"),
        ("task_default_queue", "q;DROP TABLE", "expected a queue name"),
        ("task_default_queue", "Ünïcode", "expected a queue name"),
        ("task_default_queue", "mail ", "expected a queue name"),
        ("task_queues", ["a", 5], "expected a queue name"),
        ("schema", "public; --", "expected a name of 1 to 48 characters"),
        ("schema", "a" * 64, "expected a name"),
        ("schema", "Shop", "expected a name"),
        ("schema", "1a", "expected a name"),
        ("schema", "", "expected a name"),
        ("schema", "a\n", "expected a name"),
        ("schema", "select", "reserved by PostgreSQL"),
        ("schema", "pg_catalog", "reserved by PostgreSQL"),
        ("schema", "information_schema", "reserved by PostgreSQL"),
        ("timezone", "Mars/Base", "expected the name of a time zone"),
        ("timezone", "../etc/passwd", "expected the name of a time zone"),
        ("timezone", 3, "expected the name of a time zone"),
        ("worker_pool", "gevent", "use threads, or write the tasks as coroutines"),
        ("worker_pool", "eventlet", "use threads, or write the tasks as coroutines"),
        ("worker_pool", "forks", "expected 'processes'"),
        ("environment", "staging", "expected 'development' or 'production'"),
        ("task_serializer", "pickle", "only 'json' is supported"),
        ("accept_content", ["json", "yaml"], "only 'json' is supported, got 'yaml'"),
        ("enable_utc", False, "only True is supported"),
        ("result_extended", False, "only True is supported"),
        ("task_track_started", 1, "only True is supported"),
        ("dsn", "", "expected a connection string"),
        ("dsn", "mysql://h/d", "mysql:// is not PostgreSQL"),
        ("credentials", "secret", "expected a callable"),
        ("result_expires", timedelta.max, "expected seconds"),
        ("result_expires", -1, "expected seconds"),
        ("task_routes", {"a": {"exchange": "x"}}, "there are no exchanges"),
        ("task_routes", {"a": {"queue": "no way"}}, "expected a queue name"),
        ("task_routes", {5: "a"}, "expected a pair"),
        ("task_routes", 5, "expected a dict, a list"),
        ("task_routes", [("a", 5)], "expected a queue name or a dict"),
        ("task_annotations", {"a": 5}, "expected a dict of task name"),
        ("worker_redirect_stdouts_level", "LOUD", "expected a logging level"),
        ("imports", 5, "expected a list of names"),
    ],
)
def test_wrong_values_are_refused_in_one_line(conf: Conf, name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf[name] = value
    said = str(caught.value)
    assert said.startswith(f"{name}: ")
    assert message in said
    assert "\n" not in said
    assert conf[name] == SETTINGS[name].default


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("result_expires", timedelta(days=2), 172_800.0),
        ("result_expires", None, None),
        ("worker_pool", "prefork", "processes"),
        ("task_queues", ["a", "b", "a"], ("a", "b")),
        ("task_queues", "a", ("a",)),
        ("imports", "shop.tasks", ("shop.tasks",)),
        ("worker_redirect_stdouts_level", 40, "ERROR"),
        ("accept_content", {"application/json"}, ("json",)),
        ("task_routes", {"shop.*": "mail"}, (("shop.*", {"queue": "mail"}),)),
        ("task_routes", [("a", {"priority": 3})], (("a", {"priority": 3}),)),
        ("task_routes", "shop.routes.Router", ("shop.routes.Router",)),
        ("task_routes", None, ()),
        ("task_annotations", {"*": {"time_limit": 3}}, ({"*": {"time_limit": 3}},)),
        ("schema", "pgqueue_two", "pgqueue_two"),
    ],
)
def test_values_are_kept_in_one_form(conf: Conf, name: str, value: Any, kept: Any) -> None:
    conf[name] = value
    assert conf[name] == kept
    assert type(conf[name]) is type(kept)


def test_routes_take_patterns_functions_and_objects(conf: Conf) -> None:
    def route(name: str, *rest: Any, **kw: Any) -> None: ...

    class Router:
        route_for_task = staticmethod(route)

    pattern, router = re.compile("x.*"), Router()
    conf.task_routes = [{"a": {"queue": "q"}}, (pattern, "r"), route, router]
    assert conf.task_routes == (("a", {"queue": "q"}), (pattern, {"queue": "r"}), route, router)


def test_mapped_settings_are_kept_under_our_name(conf: Conf) -> None:
    conf.update(broker_url="postgresql://h/d", broker_pool_limit=3, broker_connection_timeout=4)
    assert (conf.dsn, conf.pool_max_size, conf.connect_timeout) == ("postgresql://h/d", 3, 4.0)
    assert conf.broker_url == conf.dsn
    conf.broker_url = "sqla+postgresql://h/e"
    assert conf.dsn == "postgresql://h/e"
    with pytest.raises(UnsupportedOption, match="broker_url: redis:// is not PostgreSQL"):
        conf.broker_url = "redis://h/0"
    with pytest.raises(ConfigurationError, match="broker_pool_limit: expected a whole number"):
        conf.broker_pool_limit = None


@pytest.mark.parametrize("name", ["beat_scheduler", "redis_host", "worker_prefetch_multiplier", "result_backend"])
def test_declined_settings_name_the_way_out(conf: Conf, name: str) -> None:
    way_out = decline(name)
    assert way_out
    for act in (lambda: conf.update({name: 1}), lambda: conf[name]):
        with pytest.raises(UnsupportedOption) as caught:
            act()
        assert str(caught.value) == f"{name}: {way_out}"


def test_update_sets_all_or_none(conf: Conf) -> None:
    with pytest.raises(ConfigurationError):
        conf.update(timezone="Europe/Berlin", worker_concurrency=0)
    assert conf.timezone == "UTC"


def test_frozen_settings_do_not_change(conf: Conf) -> None:
    conf.timezone = "Europe/Berlin"
    conf.freeze("the first enqueue")
    conf.freeze("something else")
    assert conf.frozen
    for act in (
        lambda: setattr(conf, "timezone", "UTC"),
        lambda: conf.update(timezone="UTC"),
        lambda: conf.override({"timezone": "UTC"}),
        lambda: conf.config_from_object({"timezone": "UTC"}),
    ):
        with pytest.raises(
            ConfigurationError, match="timezone cannot change: settings are frozen since the first enqueue"
        ):
            act()
    assert conf.timezone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"worker_lease": 10}, r"worker_lease \(10 s\) must be at least 3 x worker_heartbeat \(5 s\)"),
        ({"task_time_limit": 5, "task_soft_time_limit": 5}, "must be shorter than task_time_limit"),
        ({"task_queues": ["a"], "task_create_missing_queues": False}, "'default' is not among task_queues"),
    ],
)
def test_relations_are_checked_when_all_is_known(conf: Conf, values: dict[str, Any], message: str) -> None:
    conf.update(values)
    with pytest.raises(ConfigurationError, match=message):
        conf.freeze("now")
    assert not conf.frozen


# environment


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("WORKER_CONCURRENCY", "8", 8),
        ("WORKER_CONCURRENCY", "", None),
        ("WORKER_LEASE", "30.5", 30.5),
        ("RESULT_EXPIRES", "none", None),
        ("ENVIRONMENT", "production", "production"),
        ("TASK_ALWAYS_EAGER", "yes", True),
        ("TASK_ALWAYS_EAGER", "0", False),
        ("TASK_QUEUES", "mail, default", ("mail", "default")),
        ("IMPORTS", "a.b,c", ("a.b", "c")),
    ],
)
def test_environment_variables_are_read(tmp_path: Path, variable: str, text: str, value: Any) -> None:
    conf = Conf(environ={f"PGQUEUE_{variable}": text}, directory=tmp_path)
    assert conf[variable.lower()] == value


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("PGQUEUE_WORKER_LEASE", "30s", "PGQUEUE_WORKER_LEASE: worker_lease: expected seconds"),
        ("PGQUEUE_TASK_ALWAYS_EAGER", "maybe", "expected true or false"),
        ("PGQUEUE_WORKER_LEESE", "30", "did you mean 'worker_lease'"),
        ("PGQUEUE_TASK_ROUTES", "{}", "cannot be set by the environment"),
        ("PGQUEUE_RESULT_BACKEND", "x", "PGQUEUE_RESULT_BACKEND: result_backend: results are rows"),
        ("PGQUEUE_BROKER_URL", "amqp://h", "PGQUEUE_BROKER_URL: set PGQUEUE_DSN instead"),
        ("PGQUEUE_ENV", "prod", "PGQUEUE_ENV: environment: expected 'development' or 'production', got 'prod'"),
    ],
)
def test_wrong_variables_are_named(tmp_path: Path, variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _ = Conf(environ={variable: text}, directory=tmp_path).timezone
    assert message in str(caught.value)


def test_the_short_name_of_the_environment(tmp_path: Path) -> None:
    assert Conf(environ={"PGQUEUE_ENV": "Production"}, directory=tmp_path).environment == "production"
    assert Conf(environ={"PGQUEUE_ENV": ""}, directory=tmp_path).environment == "development"


def test_a_slip_of_a_source_is_no_missing_attribute(tmp_path: Path) -> None:
    write(tmp_path / "pgqueue.toml", "worker_concurency = 3\n")
    told = "no setting 'worker_concurency'; did you mean 'worker_concurrency'"
    app = PgQueue("slip")
    app.conf = Conf(environ={}, directory=tmp_path)
    for look in (lambda: app.conf.timezone, lambda: app.dsn, lambda: app.queries, lambda: hasattr(app, "database")):
        with pytest.raises(UnknownSetting, match=told) as caught:
            look()
        assert not isinstance(caught.value, AttributeError)
    task = app.task(write)
    for look in (lambda: task.delay(tmp_path, "x"), lambda: task.plan, lambda: app.AsyncResult("x").state):
        with pytest.raises(UnknownSetting, match=told):
            look()
    with pytest.raises(AttributeError):
        _ = Conf(environ={}, directory=tmp_path).nosuch


def test_a_property_that_fails_by_a_missing_attribute_says_which() -> None:
    app = PgQueue("broken")
    app.conf = object()  # type: ignore[assignment]  # as any fault below a property
    with pytest.raises(AttributeError, match="'object' object has no attribute 'timezone'"):
        _ = app.zone


def test_foreign_variables_of_our_prefix_do_no_harm(tmp_path: Path) -> None:
    environ = {"PGQUEUE_SERVICE_HOST": "10.0.0.1", "PGQUEUE_PORT_5432_TCP": "x", "PGQUEUE_APP": "shop:app"}
    assert Conf(environ=environ, directory=tmp_path).timezone == "UTC"


# files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("timezone = \n", r"pgqueue.toml:1: "),
        ('timezone = "UTC"\nx = [1,\n', r"pgqueue.toml:3: "),
        ('timezone = "UTC"\r\ntimezone = "UTC"\r\n', r"pgqueue.toml:2: "),
        ('# \n\nworker_lease = "30s"\n', r"pgqueue.toml:3: worker_lease: expected seconds"),
        ("\ntimezoon = 'UTC'\n", r"pgqueue.toml:2: no setting 'timezoon'; did you mean 'timezone'"),
        ("\n\n[beat_schedule.x]\ntask = 'a'\n", r"pgqueue.toml:3: beat_schedule: 'x': schedule is missing"),
        (b'timezone = "UTC"\n# \xff\n', r"pgqueue.toml:2: not UTF-8 \(byte 0xff\)"),
        ('timezone = "UTC"\n'.encode("utf-16"), r"pgqueue.toml:1: not UTF-8"),
        (b"#" * 1_000_001, r"pgqueue.toml: larger than 1,000,000 bytes"),
        ("a = " + "[" * 100_000, r"pgqueue.toml:1: "),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    write(tmp_path / "pgqueue.toml", content)
    with pytest.raises(ConfigurationError) as caught:
        _ = Conf(environ={}, directory=tmp_path).timezone
    said = str(caught.value)
    assert re.search(message, said), said
    assert said.startswith(str(tmp_path))
    assert "\n" not in said


@pytest.mark.parametrize(
    "content", [b'\xef\xbb\xbftimezone = "Asia/Tokyo"\n', b'schema = "x"\r\ntimezone = "Asia/Tokyo"\r\n']
)
def test_bom_and_crlf_are_fine(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "pgqueue.toml", content)
    assert Conf(environ={}, directory=tmp_path).timezone == "Asia/Tokyo"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "pgqueue.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"pgqueue.toml: is a directory"):
        _ = Conf(environ={}, directory=tmp_path).timezone


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "pgqueue.toml").symlink_to(
        "/proc/self/mem"
    )  # opens, even for root, and cannot be read at its beginning
    with pytest.raises(ConfigurationError, match=r"pgqueue.toml: Input/output error"):
        _ = Conf(environ={}, directory=tmp_path).timezone


def test_a_pyproject_of_others_is_passed_by(tmp_path: Path) -> None:
    write(tmp_path / "pgqueue.toml", 'timezone = "Asia/Tokyo"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner / "pyproject.toml", "broken = = \n")
    assert Conf(environ={}, directory=inner).timezone == "Asia/Tokyo"
    write(inner / "pyproject.toml", '[tool.pgqueue]\ntimezone = "Europe/Berlin"\n')
    assert Conf(environ={}, directory=inner).timezone == "Europe/Berlin"
    write(inner / "pyproject.toml", '[tool]\npgqueue = "tool.pgqueue"\n')
    with pytest.raises(ConfigurationError, match=r"\[tool.pgqueue\] must be a table"):
        _ = Conf(environ={}, directory=inner).timezone


def test_routes_in_a_file(tmp_path: Path) -> None:
    write(tmp_path / "pgqueue.toml", '[task_routes."shop.*"]\nqueue = "mail"\npriority = 5\n')
    assert Conf(environ={}, directory=tmp_path).task_routes == (("shop.*", {"queue": "mail", "priority": 5}),)


# objects


def test_settings_from_a_module(conf: Conf) -> None:
    module = types.ModuleType("celeryconfig")
    vars(module).update(
        timezone="Europe/Berlin", broker_url="postgresql://h/d", re=re, Path=Path, BASE=5, here="x", _x=1, write=write
    )
    assert conf.config_from_object(module)
    assert (conf.timezone, conf.dsn) == ("Europe/Berlin", "postgresql://h/d")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("task_default_qeue", "did you mean 'task_default_queue'"),
        ("timezne", "did you mean 'timezone'"),
        ("task_something_of_the_future", "no setting"),
        ("CELERYD_CONCURRENCY", "write worker_concurrency"),
        ("BROKER_URL", "write broker_url"),
        ("CELERY_UNHEARD_OF", "upper-case names need a namespace"),
    ],
)
def test_slips_in_a_module_are_found(conf: Conf, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        conf.config_from_object(types.SimpleNamespace(**{name: 1}))


def test_settings_from_a_mapping_must_all_be_known(conf: Conf) -> None:
    with pytest.raises(UnknownSetting):
        conf.config_from_object({"here": 1})


def test_a_namespace_selects_upper_case_names(conf: Conf) -> None:
    class Settings:
        CELERY_TASK_ROUTES = (("a", "b"),)
        CELERY_TIMEZONE = "Europe/Berlin"
        TIMEZONE = "Asia/Tokyo"
        DEBUG = True

    conf.config_from_object(Settings, namespace="CELERY")
    assert (conf.task_routes, conf.timezone) == ((("a", {"queue": "b"}),), "Europe/Berlin")
    Settings.CELERY_NONSENSE = 1  # type: ignore[attr-defined] # added late on purpose
    with pytest.raises(UnknownSetting):
        conf.config_from_object(Settings, namespace="CELERY")


def test_a_slip_in_a_namespace_is_told_as_it_was_written(conf: Conf) -> None:
    with pytest.raises(UnknownSetting, match=r"^CELERY_TIMEZON: no setting 'timezon'; did you mean 'timezone'"):
        conf.config_from_object({"CELERY_TIMEZON": "UTC"}, namespace="CELERY")
    with pytest.raises(ConfigurationError, match=r"^CELERY_TIMEZONE: timezone: expected the name of a time zone"):
        conf.config_from_object({"CELERY_TIMEZONE": "Mars"}, namespace="CELERY")


def test_settings_by_name_and_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "conf_by_name.py", "timezone = 'Asia/Tokyo'\nclass Other:\n    timezone = 'Europe/Berlin'\n")
    monkeypatch.syspath_prepend(tmp_path)
    conf = Conf(environ={"SHOP_CONFIG": "conf_by_name"}, directory=tmp_path)
    assert conf.config_from_envvar("SHOP_CONFIG")
    assert conf.timezone == "Asia/Tokyo"
    assert conf.config_from_object("conf_by_name:Other")
    assert conf.timezone == "Europe/Berlin"
    assert not conf.config_from_object("conf_missing", silent=True)
    assert not conf.config_from_envvar("UNSET", silent=True)
    with pytest.raises(ConfigurationError, match="no module 'conf_missing'"):
        conf.config_from_object("conf_missing")
    with pytest.raises(ConfigurationError, match="UNSET is not set"):
        conf.config_from_envvar("UNSET")


def test_old_names_lead_to_settings() -> None:
    for new in OLD_NAMES.values():
        assert new in SETTINGS or new in MAPPED or decline(new), new
