"""Celery has a module of this name, and pgqueue has not: importing it says where its names are."""

raise ImportError(
    "pgqueue.exceptions is not supported: from pgqueue import … has all exceptions,"
    " such as SoftTimeLimitExceeded, Retry, Ignore and Reject"
)
