"""A folder of images, or a .zip of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import FolderParams, fingerprint
from noisereg.datasets.decoding import (
    UNREADABLE,
    heard,
    is_animated,
    is_grey,
    open_picture,
    reading,
    upright_size,
)
from noisereg.datasets.images import Decoders, ImageDataset, ImageSplit
from noisereg.datasets.splits import holdout_by_name
from noisereg.datasets.tree import LABELS, File, Tree, natural, open_tree, with_checksums
from noisereg.errors import NoiseregError, nearest
from noisereg.paths import check_text
from noisereg.remote import fetched

TRAIN, HELD_OUT = ("train", "training"), ("val", "valid", "validation", "test", "testing")
"""Folders directly below the data's that are splits, in any case of letters."""
LISTED = 10
"""How many classes the first lines of a run list."""


class Arrangement:
    """What the names of files say of splits and classes, with a note of all that was inferred.

    Raises:
        NoiseregError: for classes that are not those asked for, and for a ``dataset.json`` that
        does not fit the images.
    """

    def __init__(self, tree: Tree, params: FolderParams) -> None:
        self.notes = tree.notes()
        self.files = tree.files
        self.labels: list[int | None]
        names = [file.name for file in self.files]
        labelled = tree.labels()
        if labelled is not None:
            self.train, self.heldout = holdout_by_name(names, params.heldout)
            self._from_json(tree, params)
            return
        self._split(names, params)
        below = [name[self._prefix(name) :] for name in names]
        self._classify(tree, below, params)

    # Splits

    def _split(self, names: list[str], params: FolderParams) -> None:
        self._splits: tuple[str, ...] = ()
        tops = {name.split("/")[0] for name in names if "/" in name}
        known = {top for top in tops if top.lower() in TRAIN + HELD_OUT}
        training = {top for top in known if top.lower() in TRAIN}
        if params.splits == "none" or not training or known != tops:
            if training and len(known) > 1 and params.splits != "none":
                others = ", ".join(sorted(tops - known, key=natural))
                self.notes.append(
                    f"{_list(known)} are not taken for splits, since {others} lies beside them"
                )
            self.train, self.heldout = holdout_by_name(names, params.heldout)
            return
        self._splits = tuple(known)
        stray = [name for name in names if "/" not in name]
        if stray:
            self.notes.append(
                f"{len(stray):,} image{'s' * (len(stray) > 1)} beside {_list(known)} left out: "
                f"{_some(stray)}"
            )
            kept = [k for k, name in enumerate(names) if "/" in name]
            self.files = [self.files[k] for k in kept]
            names[:] = [names[k] for k in kept]
        held = known - training
        if not held:
            self.train, self.heldout = holdout_by_name(names, params.heldout)
            self.notes.append(
                f"{_list(training)} is the training split; there is no val or test beside it, so "
                f"{params.heldout:.0%} of it is held out"
            )
            return
        inside = np.array([name.split("/")[0] in held for name in names])
        self.train, self.heldout = np.flatnonzero(~inside), np.flatnonzero(inside)
        self.notes.append(
            f"splits: trained on {_list(training)} ({len(self.train):,}), held out "
            f"{_list(held)} ({len(self.heldout):,})"
        )

    def _prefix(self, name: str) -> int:
        top = name.split("/")[0]
        return len(top) + 1 if top in self._splits else 0

    # Classes

    def _classify(self, tree: Tree, below: list[str], params: FolderParams) -> None:
        tops = [name.split("/")[0] if "/" in name else None for name in below]
        folders = sorted({top for top in tops if top is not None}, key=natural)
        stray = [file.name for file, top in zip(self.files, tops, strict=True) if top is None]
        asked = params.classes
        if asked == "auto":
            if len(folders) > 1 and stray:
                self.notes.append(
                    f"no classes: {_some(stray)} {'lies' if len(stray) == 1 else 'lie'} beside "
                    f"the folders {_list(folders)}; move {'it' if len(stray) == 1 else 'them'} "
                    "into one of them"
                )
            asked = tuple(folders) if len(folders) > 1 and not stray else ()
        elif asked and (stray or set(folders) != set(asked)):
            raise _other_classes(tree, asked, folders, stray)
        for name in asked:  # a run's config.yaml has them, and is in UTF-8
            check_text(name, f"{tree.path}: the class")
        if asked:
            self.notes.append(f"{len(asked)} classes, by folder: {_list(asked, LISTED)}")
        self.names = asked
        number = {name: k for k, name in enumerate(asked)}
        self.labels = [None if top is None else number.get(top) for top in tops]

    def _from_json(self, tree: Tree, params: FolderParams) -> None:
        """EDM's: ``{"labels": [["00000/img00000000.png", 6], …]}``, or null for no labels."""
        place = tree.place(LABELS)
        expected = 'expected {"labels": [["00000/img00000000.png", 6], …]}, or "labels": null'
        try:
            pairs = json.loads(tree.read(LABELS))["labels"]
        except (*UNREADABLE, KeyError, TypeError, RecursionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NoiseregError(f"{place} cannot be read ({reason}); {expected}") from None
        if pairs is None:
            if params.classes not in ("auto", ()):
                raise NoiseregError(
                    f"{place} says that there are no classes, and classes= names "
                    f"{len(params.classes)}; leave them out, or write the labels there"
                )
            self.names, self.labels = (), [None] * len(self.files)
            self.notes.append(f"{LABELS} says that there are no classes")
            return
        if isinstance(pairs, dict):
            pairs = list(pairs.items())
        if not isinstance(pairs, list):
            raise NoiseregError(f"{place}: its labels are no list; {expected}")
        by_name: dict[str, int] = {}
        for pair in pairs:
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and type(pair[1]) is int):
                raise NoiseregError(f"{place}: {_short(pair)} is no name with a label; {expected}")
            if not isinstance(pair[0], str) or not 0 <= pair[1] < 1_000_000:
                raise NoiseregError(f"{place}: {_short(pair)}: labels are whole numbers from 0")
            name = pair[0].replace("\\", "/")
            if by_name.setdefault(name, pair[1]) != pair[1]:
                raise NoiseregError(
                    f"{place}: {name} has the labels {by_name[name]} and {pair[1]}; expected one"
                )
        without = [file.name for file in self.files if file.name not in by_name]
        if without:
            raise NoiseregError(
                f"{place} has no label for {len(without):,} of {len(self.files):,} images "
                f"({_some(without)}); expected one for each"
            )
        unused = len(by_name) - len(self.files)
        if unused > 0:
            self.notes.append(f"{LABELS} has {unused:,} labels of images that are not there")
        self.labels = [by_name[file.name] for file in self.files]
        count = max(by_name.values()) + 1
        asked = params.classes
        if asked == "auto":
            asked = tuple(map(str, range(count)))
        elif asked and len(asked) < count:
            raise NoiseregError(
                f"{place} has labels up to {count - 1} and classes= names {len(asked)}; expected "
                "a name for each"
            )
        elif not asked:
            self.labels = [None] * len(self.files)
        if asked:
            self.notes.append(f"{len(asked)} classes, by {LABELS}")
        self.names = asked


def _other_classes(
    tree: Tree, asked: tuple[str, ...], folders: list[str], stray: list[str]
) -> NoiseregError:
    expected = f"expected every image in one of the folders {_list(asked, LISTED)}"
    if stray:
        return NoiseregError(f"{tree.path}: {_some(stray)} is in no class; {expected}")
    new = [name for name in folders if name not in asked]
    gone = [name for name in asked if name not in folders]
    what = [f"there is no folder {_some(gone)}"] * bool(gone)
    what += [f"{_some(new)} is none of the classes"] * bool(new)
    hint = nearest(gone[0], new) if gone else ""
    if gone and len(gone) == len(new):
        renamed = dict(zip(gone, new, strict=True))
        names = ",".join(renamed.get(name, name) for name in asked)
        hint = f"; if {gone[0]} is called {new[0]} now, name them anew: data.classes=[{names}]"
        hint += " (with `accept_data`, for a run that goes on)"
    return NoiseregError(f"{tree.path}: {' and '.join(what)}; {expected}{hint}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _list(names: Iterable[str], most: int = 6) -> str:
    ordered = list(names) if isinstance(names, tuple | list) else sorted(names, key=natural)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def _some(names: list[str]) -> str:
    return _list(tuple(names), 3)


class Folder(ImageDataset):
    """Images of any size and kind, in a folder or a .zip.

    Held out is what ``val`` and ``test`` hold where there is a ``train`` beside them, else a share
    ``heldout`` of the images, by a hash of their names.

    Raises:
        NoiseregError: names an image that cannot be read; images of different sizes and no
        ``size``.
    """

    params: FolderParams

    def __init__(self, params: FolderParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        self.tree = open_tree(fetched(params.path))
        arranged = Arrangement(self.tree, params)
        self.files: list[File] = arranged.files
        self._labels = arranged.labels
        self.class_names = tuple(arranged.names)
        self.classes = len(self.class_names)
        # The order of the classes is the run's from now on, whatever else the folder will hold.
        self.params = params.model_copy(update={"classes": self.class_names})
        self.notes = tuple(arranged.notes)
        with Decoders() as readers, heard(self.warnings.append):
            # What is no image is named before training starts.
            seen = list(readers.each(self._look, range(len(self.files))))
        if params.size is None:
            width, height = self._common_size([size for size, _, _ in seen if size is not None])
        else:
            width = height = params.size
        channels = params.channels or (1 if all(grey for _, grey, _ in seen) else 3)
        if several := sum(animated for _, _, animated in seen):
            self.notes += (f"{several:,} images are animated: the first frame is taken",)
        train, heldout = (
            ImageSplit(self, indices, params.size, channels, self._place_of)
            for indices in (arranged.train, arranged.heldout)
        )
        self.hold(train, heldout, height, width)

    def fingerprint(self) -> dict[str, Any]:
        """The files by name, size and, up to 64 MiB in all, checksum."""
        files = list(self.files)
        if (labels := self.tree.labels()) is not None:
            files.append(labels)
        record: dict[str, Any] = {"shape": list(self.shape)}
        if self.classes:
            record["classes"] = list(self.class_names)
        record["files"] = fingerprint.of_files(
            {file.name: (file.size, file.checksum) for file in with_checksums(self.tree, files)}
        )
        return record | {
            "train": {"count": len(self.train)},
            "heldout": {"count": len(self.heldout)},
        }

    def _place_of(self, index: int) -> str:
        return self.tree.place(self.files[index].name)

    def _look(self, index: int) -> tuple[tuple[int, int] | None, bool, bool]:
        """Of one image: (width, height) if that matters, which may be to read all of it; whether
        it is grey; whether it is animated.
        """
        with reading(self._place_of(index)), self._open(index) as image:
            size = upright_size(image) if self.params.size is None else None
            return size, is_grey(image), is_animated(image)

    def _open(self, index: int) -> Image.Image:
        return open_picture(self.tree.source(self.files[index].name))

    def _common_size(self, sizes: list[tuple[int, int]]) -> tuple[int, int]:
        counts = Counter(sizes)
        if len(counts) > 1:
            (width, height), _ = counts.most_common(1)[0]
            other = next(i for i, size in enumerate(sizes) if size != (width, height))
            raise NoiseregError(
                f"the images differ in size (most are {width}×{height}, {self._place_of(other)} "
                f"is {sizes[other][0]}×{sizes[other][1]}); type size=64 or the like to bring them "
                "to one"
            )
        return sizes[0]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        return self._open(index), self._labels[index]
