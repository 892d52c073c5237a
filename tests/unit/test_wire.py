"""Frames between a worker and its children, and the shared memory that survives a child."""

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from pgqueue.worker.wire import Channel, RunBoard

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The worker's end, which never blocks, and the child's, which does."""
    ours, theirs = socket.socketpair()
    worker, child = Channel(ours, blocking=False), Channel(theirs, blocking=True)
    yield worker, child
    worker.close()
    child.close()


def receive(channel: Channel, count: int) -> list[tuple[object, ...]]:
    """Messages until there are `count`."""
    messages: list[tuple[object, ...]] = []
    while len(messages) < count:
        select.select([channel], [], [], 30)
        found = channel.receive()
        assert found is not None
        messages += found
    return messages


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    worker, child = pair
    sent = [("jobs", [(n, "ä\0\ud800", None, 1.5, b"\xff", True)]) for n in range(50)]
    for message in sent:
        worker.send(message)
    assert receive(child, 50) == sent
    child.send(("done", 0.25, []))
    assert receive(worker, 1) == [("done", 0.25, [])]


def test_a_message_that_the_socket_does_not_take_waits_until_it_is_flushed(pair: Pair) -> None:
    worker, child = pair
    large = ("jobs", "x" * (4 << 20))
    worker.send(large)
    assert worker.unsent, "the worker must not block, whatever the child does"
    worker.send(("stop",))
    received: list[tuple[object, ...]] = []
    while len(received) < 2:
        worker.flush()
        received += child.receive() or []
    assert received == [large, ("stop",)]
    assert not worker.unsent


def test_a_large_message_of_the_child_blocks_it_until_it_is_read(pair: Pair) -> None:
    worker, child = pair
    large = ("done", "y" * (4 << 20))
    sender = threading.Thread(target=child.send, args=(large,))
    sender.start()
    assert receive(worker, 1) == [large]
    sender.join(30)
    assert not sender.is_alive()


def test_frames_of_many_threads_do_not_mix(pair: Pair) -> None:
    worker, child = pair

    def send_fifty(n: int) -> None:
        for k in range(50):
            child.send((n, k, "z" * 5_000))

    threads = [threading.Thread(target=send_fifty, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    received = receive(worker, 400)
    for thread in threads:
        thread.join(30)
    for n in range(8):
        assert [message[1] for message in received if message[0] == n] == list(range(50))


def test_the_end_of_the_stream_is_none_and_sending_to_it_is_no_error(pair: Pair) -> None:
    worker, child = pair
    assert worker.receive() == []
    child.close()
    assert worker.receive() is None
    worker.send(("jobs", ["x" * (1 << 20)]))
    worker.flush()
    assert not worker.unsent


def test_a_frame_cut_short_is_kept_until_its_rest_arrives() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        recorder, copy = socket.socketpair()
        with copy:
            sender = Channel(recorder, blocking=True)
            sender.send(("a", 1))
            sender.send(("b", 2))
            raw = copy.recv(1 << 16)
            sender.close()
        channel = Channel(ours, blocking=False)
        got: list[tuple[object, ...]] = []
        for byte in raw:
            theirs.send(bytes([byte]))
            got += receive_now(channel)
        channel.close()
    assert got == [("a", 1), ("b", 2)]


def receive_now(channel: Channel) -> list[tuple[object, ...]]:
    found = channel.receive()
    assert found is not None
    return list(found)


def test_the_board_shows_what_runs_to_whoever_shares_its_descriptor() -> None:
    board = RunBoard(3)
    shared = RunBoard(3, os.dup(board.descriptor))
    assert (board.started, board.running()) == (0, [])
    shared.start(0, 7, 1.5)
    shared.start(2, 8, 2.5)
    assert board.started == 8
    assert board.running() == [(7, 1.5), (8, 2.5)]
    shared.clear(0)
    shared.note_started(12)
    shared.start_slot(1, 11, 3.5)
    shared.close()
    assert (board.started, board.running()) == (12, [(11, 3.5), (8, 2.5)])
    board.close()
