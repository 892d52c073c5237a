"""Write what the commands say of themselves into docs/reference/cli.md; `--check` only compares (exit 1)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pgqueue.cli.main import cli

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
BEGIN, END = "<!-- commands: begin -->", "<!-- commands: end -->"


def sections() -> str:
    """Global options, then every command, as Markdown."""
    lines: list[str] = []
    for context in _contexts(click.Context(cli, info_name="pgqueue")):
        command = context.command
        parameters = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
        usage = " ".join(command.collect_usage_pieces(context))
        title = "Options of all commands" if command is cli else context.command_path
        lines += [f"### {title}", "", f"`{context.command_path} {usage}`", ""]
        if command is not cli and command.help:
            lines += [_cell(paragraph) + "\n" for paragraph in command.help.split("\n\n")]
        records = [record for parameter in parameters if (record := parameter.get_help_record(context))]
        rows = [(name, text) for name, text in records if "--help" not in name]
        if rows:
            lines += ["| option | |", "|---|---|", *(f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows), ""]
    return "\n".join(lines).rstrip()


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None:
                yield from _contexts(click.Context(command, parent=context, info_name=name))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def page(text: str) -> str:
    """The page's text with its commands as they should be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{sections()}\n\n{END}{tail}"


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if "--check" in sys.argv:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
