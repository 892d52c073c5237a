"""An application without tasks: what a worker weighs by itself."""

from pgqueue import PgQueue

app = PgQueue("empty")
