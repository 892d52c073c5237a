"""The floor of latency, as a program: LISTEN, claim, note the time, finish. Arguments: DSN, queue."""

import select
import sys
import time

from bench.floor import Bare
from bench.server import open_bare
from pgqueue.store.statement import Queries

__all__ = ["main"]


def main(dsn: str, queue: str) -> None:
    """Serve the queue until standard input ends."""
    queries = Queries("pgqueue")
    bare = Bare(dsn, queries, queue)
    listener = open_bare(dsn)
    listener.execute(queries["listen"])
    # Held for good: every enqueue sees that somebody sleeps, and notifies.
    listener.execute(queries["fall_asleep"], {"queues": [queue]})
    print("is ready", flush=True)
    while True:
        ready, _, _ = select.select([listener.fileno(), sys.stdin], [], [])
        if sys.stdin in ready:
            break
        listener.pgconn.consume_input()
        while listener.pgconn.notifies() is not None:
            pass
        token, rows = bare.claim(10)
        if rows:
            bare.finish([(row[4], token, str(time.monotonic_ns())) for row in rows])
    bare.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
