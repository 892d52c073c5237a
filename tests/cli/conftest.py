"""Running commands in this process: a real one costs a third of a second."""

import io
from pathlib import Path

import pytest

from pgqueue.cli.main import main
from tests.cli.rows import Done, Invoke


@pytest.fixture
def invoke(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """invoke(*args, text=""): one command, on the database of `dsn`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.delenv("PGQUEUE_APP", raising=False)

    def run(*args: str, text: str = "") -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as caught:
            main(args)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(int(caught.value.code or 0), captured.out, captured.err)

    return run
