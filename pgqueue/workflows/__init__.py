"""Graphs of named steps: how they are built, what becomes of them, and looking after them by their ids."""
