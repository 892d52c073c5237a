"""Job ids and the states' names."""

import os
import threading
import time
import uuid

import pytest

from pgqueue.job import JobState, as_job_id, new_job_id


def test_ids_are_uuids_of_version_7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    found = uuid.UUID(new_job_id())
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert before <= found.int >> 80 <= time.time_ns() // 1_000_000 + 10


def test_ids_of_one_process_ascend_within_a_millisecond_and_faster_than_the_clock() -> None:
    made = [new_job_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: own.extend(new_job_id() for _ in range(2_000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len({job_id for own in made for job_id in own}) == 16_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_makes_ids_of_its_own() -> None:
    new_job_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # only what is safe after a fork
        os.write(write, new_job_id().encode())
        os._exit(0)
    theirs = os.read(read, 36).decode()
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert uuid.UUID(theirs).version == 7
    assert theirs not in {new_job_id() for _ in range(100)}


def test_uuids_stay_and_other_texts_are_mapped_the_same_way_everywhere() -> None:
    plain = "0190b5a0-7c1e-7abc-8def-0123456789ab"
    for spelling in (plain, plain.upper(), plain.replace("-", "")):
        assert as_job_id(spelling) == (plain, False)
    job_id, mapped = as_job_id("order-17")
    assert mapped
    assert job_id == str(uuid.uuid5(uuid.NAMESPACE_OID, "order-17"))
    assert as_job_id("x" * 36)[1], "36 characters that are no UUID"


def test_every_state_has_its_name_in_celery() -> None:
    names = {state.value: (state.celery_name, state.finished) for state in JobState}
    assert names == {
        "waiting": ("PENDING", False),
        "scheduled": ("PENDING", False),
        "available": ("PENDING", False),
        "running": ("STARTED", False),
        "succeeded": ("SUCCESS", True),
        "failed": ("FAILURE", True),
        "cancelled": ("REVOKED", True),
        "expired": ("REVOKED", True),
        "skipped": ("IGNORED", True),
    }
