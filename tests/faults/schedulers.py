"""A scheduler on a clock that the test moves: `python -m tests.faults.schedulers DSN`. It fires until it is killed."""

import sys
import time

import psycopg

from pgqueue.store.statement import Queries
from pgqueue.worker.scheduler import fire_batch


def main(dsn: str) -> None:
    """Fire what is due on the simulated clock, again and again; a session that the server ended is replaced."""
    queries = Queries("pgqueue")
    print("is ready", flush=True)
    while True:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while True:
                    (now,) = connection.execute("select now from simulated").fetchone() or (None,)
                    if not fire_batch(connection, queries, now)[0]:
                        time.sleep(0.001)
        except psycopg.Error as error:
            print(f"again: {error}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
