"""Celery has a module of this name, and pgqueue has not: importing it says where its names are."""

raise ImportError(
    "pgqueue.signals is not supported: not in this release; wrap the function of the task,"
    " or use try/except/finally in it"
)
