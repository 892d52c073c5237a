"""A task's error as text that is always storable, and back as an exception that is always safe to build.

The worker encodes, AsyncResult decodes. A row never names what is imported: see decode_error.
"""

import builtins
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pgqueue.errors as errors
from pgqueue.codec.decoding import decode_result
from pgqueue.codec.encoding import encode_result
from pgqueue.errors import PgQueueError, RemoteError, TaskPredicate, ValidationError

__all__ = ["MAX_TEXT_BYTES", "clean_text", "decode_error", "encode_error", "loaded_exception", "type_name"]

MAX_TEXT_BYTES = 64 * 1024
_MAX_ARG_BYTES = 8 * 1024
_MAX_ARGS = 32
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def clean_text(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Text that PostgreSQL stores: NUL and lone surrogates become U+FFFD; the middle of what is too long is left out.

    Args:
        text: an error message, a traceback, a log line.
        limit: most bytes of UTF-8 to return, default 64 KiB; 256 at least.
    """
    text = _UNSTORABLE.sub("\ufffd", text)
    if len(text) * 4 <= limit:
        return text
    raw = text.encode()
    if len(raw) <= limit:
        return text
    half = (max(limit, 256) - 80) // 2
    head, tail = raw[:half].decode(errors="ignore"), raw[-half:].decode(errors="ignore")
    return f"{head}\n[… {len(raw) - 2 * half:,} bytes left out …]\n{tail}"


def type_name(kind: type) -> str:
    """How rows spell a type: ``module.Qualname``, built-in types without a module."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def encode_error(error: BaseException) -> str:
    """Encode an error, whatever it holds.

    Args:
        error: what a task raised.

    Returns:
        JSON text of {"type": "module.Qualname", "message", "args"} and, when it has a cause (or a context that is not
        suppressed), "cause": {"type", "message"}. Arguments without a JSON form are kept as their repr().
    """
    found: dict[str, Any] = {
        "type": clean_text(type_name(type(error)), 1024),
        "message": _said(str, error, MAX_TEXT_BYTES),
        "args": [_argument(value) for value in error.args[:_MAX_ARGS]],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        found["cause"] = {
            "type": clean_text(type_name(type(cause)), 1024),
            "message": _said(str, cause, _MAX_ARG_BYTES),
        }
    # arguments are JSON text already: spliced in, so that their tags are kept as they are
    args = found.pop("args")
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return f'{text[:-1]},"args":[{",".join(args)}]}}'


def _said(say: Callable[[object], str], value: object, limit: int) -> str:
    try:
        return clean_text(say(value), limit)
    except Exception as error:
        return f"<{type_name(type(value))}, whose {say.__name__}() raised {type(error).__name__}>"


def _argument(value: object) -> str:
    try:
        return encode_result(value, _MAX_ARG_BYTES) or "null"
    except (ValidationError, RecursionError):
        if type(value) is str:
            return json.dumps(clean_text(value, _MAX_ARG_BYTES), ensure_ascii=False)
        return json.dumps(_said(repr, value, _MAX_ARG_BYTES), ensure_ascii=False)


def loaded_exception(name: str) -> type[Exception] | None:
    """The exception class of this name, if its module is loaded; nothing is imported, no attribute hook is run.

    Args:
        name: as type_name() spells it.
    """
    parts = name.split(".")
    for at in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:at]))
        if module is None:
            continue
        found: Any = module
        for part in parts[at:]:
            found = getattr(found, "__dict__", {}).get(part) if isinstance(found, (type, type(sys))) else None
        if isinstance(found, type) and issubclass(found, Exception) and type_name(found) == name:
            return found
        return None
    return None


def decode_error(text: str | None, known: Callable[[str], type[BaseException] | None] | None = None) -> BaseException:
    """Rebuild an error from its JSON text.

    A row may be written by anyone who may write rows, so it chooses no code to run: the type must be a built-in
    exception, one of pgqueue.errors, or one that `known` vouches for; only it is called, with the stored arguments.

    Args:
        text: what encode_error gave; anything else gives a RemoteError too.
        known: gives the application's exception class of a name, or None; loaded_exception is a fit one.

    Returns:
        The error, or a RemoteError that names its type and holds its arguments. Its cause, if any, is a RemoteError.
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return RemoteError(clean_text(str(text)))
    name, message = found["type"], str(found.get("message", ""))
    # SQL writes errors too, of lost workers, and gives them a message only.
    args = _stored_args(found["args"]) if "args" in found else (message,) if message else ()
    error = _rebuild(name, args, known)
    if error is None:
        error = RemoteError(f"{name}: {message}" if message else name, name, args)
    cause = found.get("cause")
    if isinstance(cause, dict):
        error.__cause__ = RemoteError(f"{cause.get('type')}: {cause.get('message')}", str(cause.get("type")))
    return error


def _stored_args(stored: object) -> tuple[Any, ...]:
    if not isinstance(stored, list):
        return ()
    try:
        return tuple(decode_result(json.dumps(stored)))
    except (ValidationError, RecursionError):
        return tuple(stored)


def _rebuild(
    name: str, args: tuple[Any, ...], known: Callable[[str], type[BaseException] | None] | None
) -> BaseException | None:
    try:
        kind = _builtin(name) or _own(name) or (known(name) if known is not None else None)
        # control flow must not come out of a row: StopIteration ends loops, Retry and Reject steer workers
        if kind is None or not issubclass(kind, Exception) or issubclass(kind, _CONTROL_FLOW):
            return None
        error = kind(*args)
        return error if isinstance(error, kind) else None
    except Exception:
        return None  # its constructor wants something else


_CONTROL_FLOW = (StopIteration, StopAsyncIteration, TaskPredicate)


def _builtin(name: str) -> type[BaseException] | None:
    found = vars(builtins).get(name)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _own(name: str) -> type[PgQueueError] | None:
    module, _, last = name.rpartition(".")
    found = vars(errors).get(last) if module == errors.__name__ else None
    return found if isinstance(found, type) and issubclass(found, PgQueueError) else None
