"""``python -m noisereg`` and the console script."""

import os
import sys


def main() -> None:
    try:
        from noisereg.cli.boundary import open_streams

        open_streams()
        from noisereg.cli.main import run
    except (ImportError, MemoryError, OSError) as error:  # a memory limit, half an installation
        print(
            f"noisereg: error: it cannot be loaded: {error or 'not enough memory'}",
            file=sys.stderr,
        )
        sys.exit(2)
    code = run(sys.argv[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Under torchrun the interpreter's own end now and then aborts a rank whose work is done
        # ("terminate called without an active exception", torch 2.15 with gloo), and torchrun then
        # takes the run for a failed one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
