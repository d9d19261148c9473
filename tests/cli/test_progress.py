"""The progress bar of a terminal that cannot be written to any more."""

import errno
import io
import sys
import threading

import pytest

from noisereg.cli.progress import ConsoleReporter


class Terminal(io.StringIO):
    """A terminal whose writes fail from some moment on."""

    error: OSError | None = None

    def isatty(self):
        return True

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)


def begun(monkeypatch):
    """A reporter that has begun, and its terminal; not a fixture, between which and its test
    pytest puts its own stderr.
    """
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    reporter = ConsoleReporter()
    reporter.BAR_SECONDS = 0.0
    reporter.begin("train", 10)
    return reporter, terminal


def test_the_bar_is_drawn_by_no_thread_whose_errors_nobody_hears(monkeypatch):
    before = threading.active_count()
    reporter, terminal = begun(monkeypatch)
    assert threading.active_count() == before
    reporter.advance(3, {"loss": 0.5})
    assert "3/10" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
    reporter.end()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_terminal_that_is_full_or_gone_ends_no_run(monkeypatch, number):
    reporter, terminal = begun(monkeypatch)
    terminal.error = OSError(number, "cannot be written")
    reporter.advance(5)
    reporter.note("said to nobody")
    reporter.end()
    assert not reporter.gone


def test_a_reader_that_has_gone_is_noticed(monkeypatch):
    reporter, terminal = begun(monkeypatch)
    monkeypatch.setattr("os.dup2", lambda a, b: None)
    monkeypatch.setattr(terminal, "fileno", lambda: 2, raising=False)
    terminal.error = BrokenPipeError()
    reporter.advance(5)
    assert reporter.gone
    terminal.error = None
    reporter.end()
