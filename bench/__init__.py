"""The bars, each measured beside its bare floor in the same run: `python -m bench`, or `make bench`."""
