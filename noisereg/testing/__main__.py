"""``python -m noisereg.testing KIND NAME [--plugin REFERENCE…] [--shape 3x32x32…]``: one
component's checks, a JSON line each.

``noisereg plugins check`` starts it, so that whatever a component does happens in a process of its
own. The first line tells how its plugin was imported, before torch was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, TextIO


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("name")
    parser.add_argument("--plugin", nargs="*", default=[])
    parser.add_argument("--shape", nargs="*", default=[])
    given = parser.parse_args(arguments)
    kind, name = given.kind, given.name
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what a component prints goes to stderr
    os.dup2(2, 1)
    from noisereg.errors import NoiseregError
    from noisereg.plugins.registry import KINDS, registry

    try:
        known = registry()
        for reference in given.plugin:
            known.load(reference)
        entry = known.find(KINDS[KINDS.index(kind)], name)
    except NoiseregError as error:
        _say(answers, {"error": str(error)})
        return 2
    plugin = known.plugin_of(entry)
    status, reason = known.status(entry)
    _say(answers, {"seconds": plugin.seconds, "status": status, "reason": reason})
    from noisereg.testing.kit import Subject, checks, run

    on = [tuple(map(int, text.split("x"))) for text in given.shape]
    for check in checks(entry.kind):
        outcome = run(check, Subject.find(entry.kind, entry.qualified, known, on))
        answer = {
            "check": check.name,
            "status": outcome.status,
            "message": outcome.message,
            "seconds": outcome.seconds,
        }
        _say(answers, {**answer, "confidence": check.confidence, "explanation": check.explanation})
    return 0


def _say(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
