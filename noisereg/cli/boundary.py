"""The one place where an error becomes a line and an exit code, and where output meets the system.

    2     what a user, a file or the system did wrong: one line that says what to do
    1     a fault of noisereg's own, said to be one; or a finished command's verdict (cells failed)
    130   interrupted (Ctrl-C); 128 + n: a run that signal n stopped, after it saved
    141   whoever read the output has gone, as after `noisereg … | head`

A traceback is shown under ``--debug`` or ``NOISEREG_DEBUG=1`` alone. Imports no torch.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import sys
import traceback

from noisereg.cli.flags import flagged
from noisereg.errors import NoiseregError
from noisereg.paths import clean
from noisereg.reading import reason
from noisereg.terminal import one_line

LONGEST = 2000
"""Characters of one line; of a longer one the middle is left out."""

STAND_INS = {
    "×": "x", "·": "*", "…": "...", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">=", "±": "+-",
    "→": "->", "↑": "^", "↓": "v", "ε": "eps", "η": "eta", "γ": "gamma", "σ": "sigma", "ρ": "rho",
    "τ": "tau", "Σ": "Sigma", "α": "alpha", "β": "beta", "²": "^2", "½": "1/2", "ö": "oe",
    "ä": "ae", "ü": "ue", "é": "e", "è": "e", "\u00a0": " ", "\u202f": " ", "’": "'",
}  # fmt: skip
"""For terminals and files whose encoding lacks them; any other is shown by its number."""


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        return codecs.backslashreplace_errors(error)
    shown = [
        STAND_INS.get(each) or each.encode("ascii", "backslashreplace").decode()
        for each in error.object[error.start : error.end]
    ]
    return "".join(shown), error.end


codecs.register_error("noisereg", _stand_in)


class Interrupted(BaseException):
    """Ctrl-C in a command that has nothing to save."""


def open_streams() -> None:
    """Make stdout and stderr fit to be written to, whatever they are.

    A closed one (``>&-``) becomes the null device: else the next file that is opened takes its
    number, and what is printed ends in that file. A character that the encoding lacks is shown by
    a stand-in.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):  # the lowest free number is this one
                os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="noisereg")


def say(text: str) -> None:
    """One line on stderr, if that can be written to."""
    text = one_line(text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def fail(message: str, code: int) -> int:
    say(f"noisereg: error: {flagged(message)}")
    return code


def flush() -> None:
    """Write what was printed, now: at the interpreter's end it would be too late to say why not.

    Raises:
        OSError: if it cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def drop_output() -> None:
    """What could not be written is given up, so that the interpreter's end does not try again."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.fileno() == number:
                try:
                    stream.flush()
                except OSError:
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, number)
                    os.close(null)


def failed(error: BaseException) -> int:
    """Say in one line what went wrong; the exit code."""
    if os.environ.get("NOISEREG_DEBUG", "") not in ("", "0"):
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error)
    if isinstance(error, NoiseregError):
        return fail(error.message, 2)
    if isinstance(error, KeyboardInterrupt | Interrupted) or type(error).__name__ == "Abort":
        return fail(f"interrupted {error}".strip(), 130)
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return 141
    if isinstance(error, SystemExit):
        return fail(
            f"{_where(error)} called sys.exit({error.code!r}); a plugin raises an exception "
            "instead",
            2,
        )
    if (text := system_fault(error)) is not None:
        return fail(text, 2)
    return fail(
        f"{type(error).__name__}: {_one_line(error)} ({_where(error)}). This is a fault of "
        "noisereg's own or of a plugin, not of yours; please report it with what the same command "
        "says with --debug",
        1,
    )


def system_fault(error: BaseException) -> str | None:
    """What a file or the system did wrong, in one line with what to do; None for what is a fault
    of ours.
    """
    if isinstance(error, ImportError):
        return (
            f"{_library(error)} cannot be loaded: {_one_line(error)}; expected a complete "
            "installation, and enough memory (ulimit -v)"
        )
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        asked = re.search(r"[Tt]ried to allocate (\d[\d.]* ?\w+)", str(error))
        return (
            f"not enough memory{f' (for {asked[1]} at once)' if asked else ''}; expected a "
            "smaller "
            "`batch_size`, network or image size, or fewer processes at once"
        )
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{clean(str(error.object)[:80])!r} cannot be written as {error.encoding}; expected "
            "text in UTF-8"
        )
    if isinstance(error, OSError):
        names = [
            clean(os.fsdecode(name))
            for name in (error.filename, error.filename2)
            if isinstance(name, str | bytes)
        ]
        where = " → ".join(names) or "the output, or a file"
        advice = _ADVICE.get(error.errno or 0, "")
        return ": ".join(part for part in (where, reason(error)) if part) + advice
    return None


_ADVICE = {
    errno.ENOSPC: "; make room, then type the same command again",
    errno.EDQUOT: "; your quota is used up: make room, then type the same command again",
    errno.EROFS: "; expected a place that can be written to",
    errno.EACCES: "; expected a place that you may use",
    errno.EMFILE: "; too many files are open at once (ulimit -n)",
}


def _is_out_of_memory(error: BaseException) -> bool:
    """torch's and NumPy's own kinds of it, recognised without importing torch."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", None)
    if kind is not None and isinstance(error, kind):
        return True
    said = (
        r"can't allocate memory|not enough memory|out of memory|array is too big|"
        r"dimension exceeded"
    )
    return isinstance(error, RuntimeError | ValueError) and bool(re.search(said, str(error)))


def _library(error: ImportError) -> str:
    """The package whose loading failed."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = re.findall(r"site-packages/(\w+)", frames[-1].filename if frames else "")
    return libraries[-1] if libraries else (error.name or "a library").partition(".")[0]


def _one_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return next(iter(str(error).strip().splitlines()), "") or "no reason was given"


def _where(error: BaseException) -> str:
    """``file.py:12`` of the innermost frame of noisereg's own, or of any if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown place"
    own = [f for f in frames if f"{os.sep}noisereg{os.sep}" in f.filename] or frames
    innermost = frames[-1] if isinstance(error, SystemExit) else own[-1]
    return f"{os.path.basename(innermost.filename)}:{innermost.lineno}"
