"""Codec: exact round trips, refusals that name their path, errors that are safe to store and to rebuild."""

import json
import math
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple, Optional
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import errors
from pgqueue.codec import (
    MAX_BYTES,
    clean_text,
    coercer_for,
    decode_args,
    decode_error,
    decode_headers,
    decode_kwargs,
    decode_result,
    encode_call,
    encode_error,
    encode_headers,
    encode_result,
    loaded_exception,
)
from pgqueue.errors import ArgumentsError, EncodingError, LimitExceeded, RemoteError


def through(value: Any) -> Any:
    return decode_args(encode_call([value], {})[0])[0]


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Berlin")])
hashables = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)
values = st.recursive(
    hashables | st.frozensets(hashables | st.tuples(hashables, hashables)) | st.sets(hashables),
    lambda inner: (
        st.lists(inner) | st.dictionaries(text | st.sampled_from(["__type__", "__value__", "zone"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def strict(value: Any) -> Any:
    """A form in which 1, 1.0, True and Decimal(1), 0.0 and -0.0 differ."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(strict, value))
    if isinstance(value, tuple):
        return tuple(map(strict, value))
    if isinstance(value, (datetime, time)):
        return value.isoformat(), getattr(value.tzinfo, "key", None)
    return type(value), str(value)


@settings(max_examples=300, deadline=None)
@given(values)
def test_values_round_trip_exactly(value: Any) -> None:
    assert strict(through(value)) == strict(value)


@settings(deadline=None)
@given(st.lists(values, max_size=3), st.dictionaries(text.filter(bool), values, max_size=3))
def test_calls_round_trip(args: list[Any], kwargs: dict[str, Any]) -> None:
    args_text, kwargs_text = encode_call(args, kwargs)
    assert (args_text is None, kwargs_text is None) == (not args, not kwargs)
    assert strict(decode_args(args_text)) == strict(args)
    assert strict(decode_kwargs(kwargs_text)) == strict(kwargs)


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | text, lambda x: st.lists(x) | st.dictionaries(text, x), max_leaves=20))
def test_any_json_from_sql_can_be_read(value: Any) -> None:
    assert decode_result(f" {json.dumps(value)}\n") == value


def test_nothing_needs_no_text() -> None:
    assert encode_call((), {}) == (None, None)
    assert (decode_args(None), decode_kwargs(None), decode_headers(None), decode_result(None)) == ([], {}, {}, None)
    assert (encode_result(None), encode_headers({}), encode_headers(None)) == (None, None, None)


def test_the_text_is_readable_in_sql() -> None:
    text, _ = encode_call([datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin")), "Größe", timedelta(1, 5)], {})
    assert text == (
        '[{"__type__":"datetime","__value__":"2026-01-31T12:00:00+01:00","zone":"Europe/Berlin"},"Größe",'
        '{"__type__":"timedelta","__value__":"P1DT5S"}]'
    )


@pytest.mark.parametrize("fold", [0, 1])
def test_the_repeated_hour_keeps_its_side(fold: int) -> None:
    value = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    found = through(value)
    assert (found.fold, found.utcoffset(), found.tzinfo) == (fold, value.utcoffset(), value.tzinfo)


def test_an_unknown_zone_leaves_the_offset() -> None:
    found = decode_result('{"__type__":"datetime","__value__":"2026-01-31T12:00:00+01:00","zone":"Mars/Base"}')
    assert found == datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert found.utcoffset() == timedelta(hours=1)


class Shade(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 9


class Mixed(Enum):
    PAIR = (1, "x")


class Name(str):
    def __str__(self) -> str:
        return "something else"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Point(1, 2), [1, 2]),
        (Shade.RED, "red"),
        (Level.HIGH, 9),
        (Mixed.PAIR, [1, "x"]),
        (Name("x"), "x"),
        ({Shade.RED: 1}, {"red": 1}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (True, True),
    ],
)
def test_subclasses_are_stored_as_what_they_extend(value: Any, stored: Any) -> None:
    found = through(value)
    assert found == stored
    assert type(found) is type(stored)


def test_negative_zero_and_big_integers_stay_what_they_are() -> None:
    assert math.copysign(1, through(-0.0)) == -1
    assert through([2**63, -(10**4299)]) == [2**63, -(10**4299)]
    assert through(10**4300 - 1) == 10**4300 - 1
    assert type(through(1e16)) is float


loop: list[Any] = []
loop.append(loop)
deep: list[Any] = []
for _ in range(10_000):
    deep = [deep]
wide: list[Any] = [1]
for _ in range(60):
    wide = [wide, wide]


@dataclass
class Order:
    prices: list[Any]


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ([object()], {}, EncodingError, "args[0]: object has no JSON form"),
        ([{"prices": [1, 2, 3, 1j]}], {}, EncodingError, "args[0]['prices'][3]: complex has no JSON form"),
        ([], {"a": [{"b": object()}]}, EncodingError, "kwargs['a'][0]['b']: object"),
        ([Order([object()])], {}, EncodingError, "args[0]['prices'][0]: object"),
        ([1, float("nan")], {}, EncodingError, "args[1]: nan has no JSON form"),
        ([], {"x": float("-inf")}, EncodingError, "kwargs['x']: -inf has no JSON form"),
        ([[float("inf")]], {}, EncodingError, "args[0][0]: inf has no JSON form"),
        (["a\0b"], {}, EncodingError, "args[0]: a NUL character"),
        ([], {"a\0": 1}, EncodingError, "kwargs['a\\x00']: a NUL character"),
        ([{"k": {"a\0": 1}}], {}, EncodingError, "args[0]['k']['a\\x00']: a NUL character"),
        (["\ud800"], {}, EncodingError, "args[0]: a lone surrogate ('\\ud800')"),
        (["\ud83d\ude00"], {}, EncodingError, "args[0]: a lone surrogate"),
        ([], {"\udfff": 1}, EncodingError, "kwargs['\\udfff']: a lone surrogate"),
        ([10**5000], {}, LimitExceeded, "args[0]: an int of more than 4,300 digits"),
        ([[10**5000]], {}, LimitExceeded, "args[0][0]: an int of more than 4,300 digits"),
        ([deep], {}, LimitExceeded, "nested deeper than 100 levels"),
        ([loop], {}, LimitExceeded, "or contains itself"),
        ([wide], {}, LimitExceeded, "more than the limit of 1,048,576 bytes"),
        ([{1: "a", "1": "b"}], {}, EncodingError, "args[0]: the key 1 is no str"),
        ([{None: 1}], {}, EncodingError, "args[0]: the key None is no str"),
        (["x" * 50 * MAX_BYTES], {}, LimitExceeded, "args: 52,428,804 bytes of JSON, more than the limit"),
        (["ä" * 600_000], {}, LimitExceeded, "args: 1,200,004 bytes"),
        (["x" * 600_000], {"x": "x" * 600_000}, LimitExceeded, "args and kwargs: more than the limit"),
        ([{Order([])} if False else {frozenset({1j})}], {}, EncodingError, "args[0]{frozenset({1j})}{1j}: complex"),
        ([bytearray(b"x")], {}, EncodingError, "pass bytes(value)"),
        ([iter([1])], {}, EncodingError, "pass list(value)"),
        ([Order], {}, EncodingError, "args[0]: type has no JSON form"),
    ],
)
def test_refusals_name_path_and_reason(
    args: list[Any], kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        encode_call(args, kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dict_of_a_million_keys_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="more than the limit"):
        encode_call([dict.fromkeys(map(str, range(1_000_000)))], {})


def test_a_hundred_levels_are_fine() -> None:
    value: Any = "x"
    for _ in range(100):
        value = [value]
    assert through(value) == value


def test_results_and_headers_name_themselves() -> None:
    with pytest.raises(EncodingError, match=r"result\['a'\]: object"):
        encode_result({"a": object()})
    with pytest.raises(EncodingError, match="result: nan"):
        encode_result(math.nan)
    with pytest.raises(LimitExceeded, match=r"headers: .* limit of 65,536 bytes"):
        encode_headers({"x": "x" * 70_000})


def test_a_backslash_u_that_is_no_nul_passes() -> None:
    assert through("\\u0000 and \\ud800 and 😀") == "\\u0000 and \\ud800 and 😀"


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "",
        "{}",
        "nonsense",
        '[{"__type__":"uuid","__value__":"x"}]',
        '[{"__type__":"date","__value__":7}]',
        '[{"__type__":"set","__value__":[[]]}]',
        '[{"__type__":"bytes","__value__":"%%"}]',
        '[{"__type__":"decimal","__value__":"one"}]',
        '[{"__type__":"timedelta","__value__":"1 day"}]',
    ],
)
def test_malformed_rows_are_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        decode_args(text)


def test_rows_nested_too_deep_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        decode_args("[" * 100_000 + "]" * 100_000)
    with pytest.raises(LimitExceeded, match="digits"):
        decode_args("[" + "9" * 5000 + "]")


def test_unknown_tags_from_sql_stay_plain() -> None:
    assert decode_args('[{"__type__":"cat"},{"__type__":"cat","__value__":1}]') == [
        {"__type__": "cat"},
        {"__type__": "cat", "__value__": 1},
    ]


# errors


class KnownError(Exception):
    class Inner(Exception):
        pass


class Picky(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [ValueError("bad", 3), KeyError("k"), OSError(2, "gone"), errors.LimitExceeded("x"), KnownError(Decimal(1))],
)
def test_known_errors_come_back_by_type(error: Exception) -> None:
    found = decode_error(encode_error(error), loaded_exception)
    assert type(found) is type(error)
    assert found.args == error.args


def test_nested_classes_are_found() -> None:
    assert type(decode_error(encode_error(KnownError.Inner("x")), loaded_exception)) is KnownError.Inner


@pytest.mark.parametrize(
    "error", [KnownError("a"), Picky(1, "a"), StopIteration("a"), errors.Retry("a"), SystemExit("a")]
)
def test_other_errors_become_remote(error: BaseException) -> None:
    found = decode_error(encode_error(error), loaded_exception if isinstance(error, Picky) else None)
    assert type(found) is RemoteError
    assert found.type_name.endswith(type(error).__qualname__)
    assert found.error_args == ("a",)
    assert str(found) == f"{found.type_name}: a"


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "eval",
        "exec",
        "antigravity.X",
        "os.path.join",
        "json",
        "",
        ".",
        "a..b",
    ],
)
def test_a_row_chooses_no_code_to_run(name: str) -> None:
    before = set(sys.modules)
    row = json.dumps({"type": name, "message": "m", "args": ["echo pwned"]})
    assert type(decode_error(row, loaded_exception)) is RemoteError
    assert set(sys.modules) == before


@pytest.mark.parametrize("row", [None, "", "[]", "null", "{", '{"type":1}', '{"type":"ValueError","args":5}'])
def test_strange_rows_still_give_an_error(row: str | None) -> None:
    assert isinstance(decode_error(row), Exception)


def test_an_error_written_by_sql_keeps_its_message() -> None:
    row = json.dumps({"type": "pgqueue.errors.WorkerLostError", "message": "worker shop@host died; lost 3 times"})
    error = decode_error(row)
    assert type(error) is errors.WorkerLostError
    assert str(error) == "worker shop@host died; lost 3 times"


def test_whatever_an_error_holds_can_be_stored() -> None:
    error = ValueError("a\0b\ud800", object(), math.nan, deep, "x" * 100_000)
    stored = encode_error(error)
    assert "\\u0000" not in stored
    assert "\0" not in stored
    assert len(stored.encode()) < 200_000
    found = decode_error(stored)
    assert found.args[0] == "a\ufffdb\ufffd"
    assert found.args[1].startswith("<object object")
    assert found.args[2] == "nan"
    assert "raised RuntimeError" in json.loads(encode_error(Mute()))["message"]


def test_the_cause_is_told() -> None:
    try:
        try:
            {}["k"]  # type: ignore[index] # raises on purpose
        except KeyError as cause:
            raise ValueError("v") from cause
    except ValueError as error:
        found = decode_error(encode_error(error))
    assert isinstance(found.__cause__, RemoteError)
    assert found.__cause__.type_name == "KeyError"


@settings(deadline=None)
@given(st.text(st.characters()), st.integers(256, 2000))
def test_cleaned_text_is_storable_and_bounded(raw: str, limit: int) -> None:
    found = clean_text(raw * 50, limit)
    assert len(found.encode()) <= limit
    assert "\0" not in found


def test_cleaned_text_keeps_both_ends() -> None:
    found = clean_text("begin" + "ä" * 100_000 + "end")
    assert found.startswith("begin")
    assert found.endswith("end")
    assert "bytes left out" in found
    assert clean_text("as it is") == "as it is"


# coercion


@dataclass
class Line:
    sku: str
    shade: Shade
    children: "list[Line]" = field(default_factory=list)
    total: int = field(default=0, init=False)


class Pair(NamedTuple):
    first: int
    line: Line


LINE = Line("a", Shade.RED, [Line("b", Shade.RED)])


def takes_everything(
    self: Any,
    line: Line,
    maybe: Optional[Line],  # noqa: UP045 - the older spelling is tested too
    many: list[Line],
    named: dict[str, Line | None],
    pair: tuple[int, Line],
    run: tuple[int, ...],
    both: Pair,
    shade: "Shade",
    plain: int,
    *rest: Line,
    option: set[Level],
    **others: Line,
) -> None: ...


def test_signatures_rebuild_what_they_name() -> None:
    coerce = coercer_for(takes_everything, skip_first=True)
    assert coerce is not None
    args = [LINE, None, [LINE], {"x": LINE, "y": None}, (1, LINE), (1, 2), Pair(1, LINE), Shade.RED, 5, LINE]
    kwargs = {"option": {Level.HIGH}, "other": LINE}
    args_text, kwargs_text = encode_call(args, kwargs)
    found_args, found_kwargs = coerce(decode_args(args_text), decode_kwargs(kwargs_text))
    assert found_args == args
    assert found_kwargs == kwargs
    assert isinstance(found_args[6], Pair)
    assert isinstance(next(iter(found_kwargs["option"])), Level)


def test_values_that_fit_are_left_alone() -> None:
    coerce = coercer_for(takes_everything, skip_first=True)
    assert coerce is not None
    assert coerce([LINE, LINE], {"plain": 7, "shade": Shade.RED}) == ([LINE, LINE], {"plain": 7, "shade": Shade.RED})


def plain(a: int, b: str = "", *c: float, d: dict[str, Any] | None = None, e: "Missing" = 1, **f: list[int]) -> None:  # type: ignore[name-defined] # noqa: F821 - a name that only type checkers know
    ...


def test_plain_signatures_need_no_coercion() -> None:
    assert coercer_for(plain) is None
    assert coercer_for(print) is None


def half_known(a: "Missing", b: Line) -> None:  # type: ignore[name-defined] # noqa: F821 - as above
    ...


def test_hints_that_resolve_are_used_beside_one_that_does_not() -> None:
    coerce = coercer_for(half_known)
    assert coerce is not None
    assert coerce([1, {"sku": "a", "shade": "red"}], {}) == ([1, Line("a", Shade.RED)], {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"sku": "a", "shade": "green"}, "argument b: 'green' is not a valid Shade"),
        ({"sku": "a"}, "argument b: "),
        ({"sku": "a", "shade": "red", "size": 3}, "argument b: Line has no field 'size'"),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any, message: str) -> None:
    coerce = coercer_for(half_known)
    assert coerce is not None
    with pytest.raises(ArgumentsError) as caught:
        coerce([1], {"b": value})
    assert message in str(caught.value)


def test_pydantic_models_by_signature() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):  # type: ignore[misc, name-defined] # a base known only at run time
        price: Decimal
        when: datetime
        ref: UUID = pydantic.Field(alias="reference")
        order: Order

        @pydantic.computed_field  # type: ignore[untyped-decorator] # as above
        def double(self) -> Decimal:
            return Decimal(self.price) * 2

        model_config = pydantic.ConfigDict(extra="forbid")

    item = Item(price=Decimal("1.10"), when=datetime.now(UTC), reference=uuid4(), order=Order([1]))

    def task(item: Item, items: "list[Any]" = []) -> None: ...  # noqa: B006 - never called

    task.__annotations__["items"] = list[Item]
    task.__annotations__["item"] = Item
    coerce = coercer_for(task)
    assert coerce is not None
    args_text, _ = encode_call([item, [item]], {})
    assert coerce(decode_args(args_text), {}) == ([item, [item]], {})
    with pytest.raises(ArgumentsError, match="argument item"):
        coerce([{"price": "x"}], {})


def test_union_members() -> None:
    def task(value: int | Shade | Line | list[Line]) -> None: ...

    coerce = coercer_for(task)
    assert coerce is not None
    plain_line = {"sku": "a", "shade": "red"}
    assert [coerce([value], {})[0][0] for value in (5, "red", plain_line, [plain_line])] == [
        5,
        Shade.RED,
        Line("a", Shade.RED),
        [Line("a", Shade.RED)],
    ]


def test_the_c_encoder_and_the_portable_one_agree() -> None:
    from pgqueue.codec import encoding

    value = [1, -0.0, 1e300, 'ä\x7f\n"', None, True, {"a": [], "b": {}}]
    assert encoding._encode(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
