"""How many positional arguments a function takes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["positional_range", "shown", "takes_three"]


def positional_range(signature: inspect.Signature) -> tuple[int, int]:
    """How many positional arguments alone make a call that fits; (0, -1): none does, or it is not that simple."""
    fewest = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = 1 << 31
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                return 0, -1
        elif parameter.kind is not parameter.VAR_KEYWORD:
            most += 1
            fewest += parameter.default is parameter.empty
    return fewest, most


def shown(signature: inspect.Signature) -> str:
    """A signature as it stands in the source, also under `from __future__ import annotations`: without quotes."""
    bare = [
        each.replace(annotation=_Bare(each.annotation)) if isinstance(each.annotation, str) else each
        for each in signature.parameters.values()
    ]
    result = signature.return_annotation
    return str(
        signature.replace(parameters=bare, return_annotation=_Bare(result) if isinstance(result, str) else result)
    )


class _Bare:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def takes_three(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function takes three positional arguments beside these."""
    takes = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        if parameter.kind in _POSITIONAL and parameter.name not in kwargs:
            takes += 1
    return takes - len(args) >= 3


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
