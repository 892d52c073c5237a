"""Readings of weather stations: each file goes through a chain of its own, and a table is loaded when all are done."""
