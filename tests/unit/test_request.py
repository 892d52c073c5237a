"""Request: what `self.request` shows of a job."""

from datetime import UTC, datetime

import pytest

from pgqueue.errors import PgQueueError
from pgqueue.request import Request, current_connection, current_request


def test_outside_of_a_job_the_request_is_empty_and_says_so() -> None:
    request = Request()
    assert request.called_directly
    assert (request.id, request.args, request.kwargs, request.headers) == (None, [], {}, {})
    assert (request.retries, request.eta, request.expires, request.timelimit) == (0, None, None, (None, None))


def test_attempts_lost_with_their_worker_are_no_retries() -> None:
    request = Request(attempt=5, lost=3)
    assert request.retries == 1
    assert request.delivery_info["redelivered"]
    assert not Request(attempt=2).delivery_info["redelivered"]


def test_columns_become_python_values_when_they_are_asked_for() -> None:
    request = Request(
        headers='{"tenant":"a"}',
        eta="2026-01-31 12:00:00+01",
        expires="2026-01-31 12:00:00.5+00",
        queue="q",
        priority=7,
    )
    assert request.headers == {"tenant": "a"}
    assert request.eta == datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert request.expires == datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
    assert request.delivery_info == {"routing_key": "q", "priority": 7, "redelivered": False}


def test_the_tick_of_a_schedule_is_told() -> None:
    assert Request(headers='{"scheduled_for": "2026-01-31T12:00:00.000000+00:00"}').scheduled_for == datetime(
        2026, 1, 31, 12, tzinfo=UTC
    )
    assert Request(headers='{"x": 1}').scheduled_for is None
    assert Request().scheduled_for is None


def test_celerys_names_and_get() -> None:
    request = Request("17", "shop.pay")
    assert request.correlation_id == request.id == "17"
    assert request.get("task") == "shop.pay"
    assert request.get("chord", "none") == "none"
    assert repr(request) == "<Request: shop.pay[17] attempt 1>"


def test_no_request_and_no_connection_outside_of_a_task() -> None:
    assert current_request.get() is None
    with pytest.raises(PgQueueError, match=r"transactional=True"):
        current_connection()
