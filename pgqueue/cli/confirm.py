"""Asking before something is lost."""

import sys

import click

__all__ = ["confirm"]


def confirm(question: str, *, force: bool) -> None:
    """Ask; without a terminal nobody can answer, so then --force is needed.

    Raises:
        click.UsageError: there is no terminal, and no --force.
        click.ClickException: the answer was no.
    """
    if force:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to answer on: give --force")
    if not click.confirm(question, default=False, err=True):
        raise click.ClickException("nothing was done")
