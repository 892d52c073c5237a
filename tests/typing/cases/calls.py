"""Calls as users write them; an `# error` comment marks a line that a type checker must refuse, and no other line."""

from collections.abc import Coroutine
from typing import Any, assert_type

import psycopg

from pgqueue import AsyncResult, EagerResult, GroupResult, PgQueue, Signature, Task, chain, chord, group

app = PgQueue("typed")


@app.task
def receipt(order: int) -> str:
    return str(order)


@app.task(queue="mail", max_retries=5, retry_backoff=True, autoretry_for=(OSError,), time_limit=30)
def send(order: int, *, copy: bool = False) -> str:
    return str(order)


@app.task
async def fetch(url: str) -> int:
    return len(url)


@app.task(bind=True)
def bound(self: Task[..., Any], order: int) -> bytes:
    return bytes(self.request.retries + order)


@app.task(bind=True, pool="threads")
async def bound_async(self: Task[..., Any], url: str) -> int:
    return len(url)


# `self, /`: else it could be one of the keyword arguments, as mypy sees it.
@app.task(bind=True)
def keywords(self: Any, /, **fields: int) -> str:
    return str(fields)


@app.task(bind=True)
async def keywords_async(self: Any, /, *orders: int, **fields: int) -> str:
    return str(fields)


assert_type(keywords.delay(a=1), AsyncResult[str])
assert_type(keywords_async.delay(1, a=1), AsyncResult[str])
keywords.delay(a="x")  # error
keywords.delay(1)  # error
assert_type(receipt.delay(1), AsyncResult[str])
assert_type(receipt.delay(1).get(), str)
assert_type(receipt(1), str)
assert_type(receipt.apply((1,)), EagerResult[str])
assert_type(receipt.apply_async((1,), countdown=5, queue="mail"), AsyncResult[str])
assert_type(receipt.s(1), Signature[str])
assert_type(receipt.s(1).set(priority=3).delay(), AsyncResult[str])
assert_type(app.enqueue_many([receipt.s(1), receipt.s(2)]), list[AsyncResult[str]])
assert_type(send.delay(1, copy=True), AsyncResult[str])
assert_type(fetch.delay("x"), AsyncResult[int])
assert_type(bound.delay(1), AsyncResult[bytes])
assert_type(bound(1), bytes)
assert_type(bound_async.delay("x"), AsyncResult[int])


async def main(connection: psycopg.Connection[Any]) -> None:
    assert_type(await fetch.adelay("x"), AsyncResult[int])
    coroutine: Coroutine[Any, Any, int] = fetch("x")
    assert_type(await coroutine, int)
    assert_type(await (await receipt.aapply_async((1,))).aget(timeout=1), str)
    with app.using(connection) as same:
        assert_type(same, psycopg.Connection[Any])


receipt.delay("1")  # error
receipt.delay()  # error
receipt.delay(1, 2)  # error
receipt.delay(order="1")  # error
receipt("1")  # error
send.delay(1, True)  # error
fetch.delay(1)  # error
bound.delay("1")  # error
bound.delay(object(), 1)  # error
receipt.apply_async((1,), countdwn=5)  # error
receipt.apply_async((1,), priority="high")  # error
receipt.s(1).set(prority=3)  # error
receipt.nmae  # noqa: B018  # error
wrong: AsyncResult[int] = receipt.delay(1)  # error


@app.task(que="mail")  # error
def misspelt(order: int) -> str:
    return str(order)


# canvases: the type of what is called last
assert_type(receipt.s(1) | bound.s(), chain[bytes])
assert_type((receipt.s(1) | bound.s())(), AsyncResult[bytes])
assert_type((receipt.s(1) | bound.s()).delay().get(), bytes)
assert_type(group(receipt.s(number) for number in range(3)), group[str])
assert_type(group([receipt.s(1)])(), GroupResult[str])
assert_type(group(receipt.s(1), receipt.s(2)) | bound.s(), chord[bytes])
assert_type(chord([receipt.s(1)], bound.s()).delay().get(), bytes)
assert_type(~receipt.s(1), str)
assert_type(receipt.map([1, 2]).delay().get(), list[str])
assert_type(receipt.s(1).on_error(bound.s()), Signature[str])
receipt.apply_async((1,), link=bound.s(), link_error=[send.s()])
receipt.s(1) | 5  # error
receipt.chunks([(1,)], "x")  # error
chain(receipt.s(1), qeue="mail")  # error
