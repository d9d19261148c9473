"""Whether the data of a resumed run are those it was started on, and what has changed if not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

NAMED = 2_000
"""Up to so many files are recorded by name, so that a change names them; of more, their number,
size and hash."""


def of_files(files: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """The part of a fingerprint that describes files.

    Args:
        files: by name (relative to the data's folder) the size in bytes and a hash of what is in
            it, which may be empty where reading it all would take long.
    """
    digest = hashlib.sha256()
    for name, (size, content) in sorted(files.items()):
        digest.update(f"{name}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
    record: dict[str, Any] = {
        "count": len(files),
        "bytes": sum(size for size, _ in files.values()),
        "sha256": digest.hexdigest()[:16],
    }
    if len(files) <= NAMED:
        record["named"] = {
            _text(name): f"{size} {content}".strip()
            for name, (size, content) in sorted(files.items())
        }
    return record


def _text(name: str) -> str:
    """A file's name as JSON can hold it: what is no UTF-8 in it is escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """What has changed from one fingerprint to another, in words; empty if nothing has, or if
    there is none to compare with.
    """
    if not old:
        return ""
    changes: list[str] = []
    if old.get("shape") != new.get("shape"):
        changes.append(f"a sample was {_sides(old)} and is now {_sides(new)}")
    if old.get("classes") != new.get("classes"):
        changes.append(_classes(old.get("classes"), new.get("classes")))
    was, now = old.get("files"), new.get("files")
    if was and now:
        if was.get("sha256") != now.get("sha256"):
            changes.append(_files(was, now))
    else:
        for split, what in (("train", "training"), ("heldout", "held-out")):
            a, b = old.get(split, {}), new.get(split, {})
            if a.get("count") != b.get("count"):
                changes.append(
                    f"there were {a.get('count', 0):,} {what} samples and are now "
                    f"{b.get('count', 0):,}"
                )
            elif a.get("sha256") != b.get("sha256"):
                changes.append(f"the {what} samples have other values")
    if not changes and old.get("content") != new.get("content"):
        changes.append("some samples have other values")
    known = {"shape", "classes", "files", "train", "heldout", "content", "accepted"}
    for key in sorted((old.keys() | new.keys()) - known):
        if old.get(key) != new.get(key):
            changes.append(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}")
    return "; ".join(changes)


def _sides(record: Mapping[str, Any]) -> str:
    return "×".join(map(str, record.get("shape", ()))) or "unknown"


def _classes(old: Any, new: Any) -> str:
    if not isinstance(old, list) or not isinstance(new, list):
        was, now = (len(c) if isinstance(c, list) else c or 0 for c in (old, new))
        if was == now:
            return f"the {now} classes had {'names' if isinstance(old, list) else 'no names'}"
        return f"there were {was} classes and are now {now}"
    if len(old) == len(new):
        renamed = [(i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        first = ", ".join(f"class {i} was {a!r} and is now {b!r}" for i, a, b in renamed[:3])
        return first + (f" and {len(renamed) - 3} more" if len(renamed) > 3 else "")
    gone = [name for name in old if name not in new]
    come = [name for name in new if name not in old]
    parts = [f"class {_some(gone)} is gone"] * bool(gone) + [f"class {_some(come)} is new"] * bool(
        come
    )
    return " and ".join(parts)


def _files(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    was, now = old.get("named"), new.get("named")
    if was is None or now is None:
        if old["count"] != new["count"]:
            return f"there were {old['count']:,} files and are now {new['count']:,}"
        if old["bytes"] != new["bytes"]:
            return f"the files had {old['bytes']:,} bytes and now have {new['bytes']:,}"
        return f"some of the {new['count']:,} files have another name or content"
    gone = [name for name in was if name not in now]
    come = [name for name in now if name not in was]
    other = [name for name in now if name in was and was[name] != now[name]]
    parts = [
        f"{len(names):,} file{'s' * (len(names) > 1)} {what} ({_some(names)})"
        for names, what in ((gone, "gone"), (come, "new"), (other, "changed"))
        if names
    ]
    return ", ".join(parts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
