"""Data sets of Hugging Face's library ``datasets`` (the extra ``noisereg[hf]``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import HuggingFaceParams
from noisereg.datasets.decoding import (
    Unfaithful,
    heard,
    is_grey,
    open_picture,
    reading,
    upright_size,
)
from noisereg.datasets.images import Decoders, ImageDataset, ImageSplit
from noisereg.datasets.splits import holdout_by_name
from noisereg.errors import NoiseregError, nearest
from noisereg.remote import fetched

HELD_OUT = ("test", "validation", "valid", "val")
EXTENDING = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What ``save_to_disk`` leaves in a folder."""


class HuggingFace(ImageDataset):
    """A column of images, encoded as their files were; decoded by us, as every other image. The
    library maps its Arrow files into memory, and any row can be read, so that the order of samples
    is ours.

    No code that comes with a data set is run: of builders only the library's own are taken.

    Raises:
        NoiseregError: if the library is not installed, the data are not there, or a column or a
        split is not in them.
    """

    params: HuggingFaceParams

    def __init__(self, params: HuggingFaceParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        splits = self._load(ctx)
        train = self._split(splits, params.split)
        held = self._held_out(splits)
        self._label = self._label_column(train)
        self._name_classes(train)
        rows = [train] if held is None else [train, splits[held]]
        self._rows = [self._images(part) for part in rows]
        self._starts = np.cumsum([0, *(len(part) for part in rows)])
        count = len(train)
        if held is None:
            training, heldout = holdout_by_name([str(k) for k in range(count)])
        else:
            training, heldout = np.arange(count), np.arange(count, len(self))
        # Where nothing has to be found out nothing is read: there may be more than fits anywhere.
        known = params.size is not None and params.channels is not None
        with Decoders() as readers, heard(self.warnings.append):
            seen = [] if known else list(readers.each(self._look, range(len(self))))
        sizes = {size for size, _ in seen}
        if params.size is None and len(sizes) > 1:
            first, second = sorted(sizes)[:2]
            raise NoiseregError(
                f"{params.path}: the images differ in size ({first[0]}×{first[1]}, "
                f"{second[0]}×{second[1]}, …); type size=64 or the like to bring them to one"
            )
        width, height = (params.size, params.size) if params.size else seen[0][0]
        channels = params.channels or (1 if all(grey for _, grey in seen) else 3)
        train_part, heldout_part = (
            ImageSplit(self, indices, params.size, channels, self._place_of)
            for indices in (training, heldout)
        )
        self.hold(train_part, heldout_part, height, width)

    def _load(self, ctx: Context) -> dict[str, Any]:
        try:
            import datasets
        except ImportError:
            raise NoiseregError(
                "hf: needs Hugging Face's package datasets: pip install noisereg[hf]"
            ) from None
        place = fetched(Path(self.params.path).expanduser())
        cache = None if ctx.cache_dir is None else str(ctx.cache_dir / "hf")
        progress = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            if place.is_file():
                if place.suffix.lower() != ".parquet":
                    raise NoiseregError(f"hf:path={place}: expected a folder or a .parquet")
                loaded = datasets.load_dataset("parquet", data_files=str(place), cache_dir=cache)
            elif place.suffix.lower() == ".parquet" and not place.is_dir():
                raise NoiseregError(f"hf:path={place} is not there; expected a .parquet")
            elif any((place / name).is_file() for name in EXTENDING):
                loaded = datasets.load_from_disk(str(place))
            elif place.is_dir() or not (self.params.path[:1] in "./~" or os.path.isabs(place)):
                name = str(place) if place.is_dir() else self.params.path
                loaded = datasets.load_dataset(name, cache_dir=cache)
            else:
                raise NoiseregError(
                    f"hf:path={place} is not there; expected a folder or a .parquet"
                )
        except NoiseregError:
            raise
        except Exception as error:  # the library's, pyarrow's and the network's, of many kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise NoiseregError(
                f"hf:path={self.params.path} cannot be loaded ({type(error).__name__}: {reason})"
            ) from None
        finally:
            if progress:
                datasets.enable_progress_bars()
        return dict(loaded) if isinstance(loaded, dict) else {self.params.split: loaded}

    def _split(self, splits: dict[str, Any], name: str) -> Any:
        if name not in splits:
            raise NoiseregError(
                f"{self.params.path} has no split {name!r}; there are: "
                f"{', '.join(splits)}{nearest(name, splits)}"
            )
        if not len(splits[name]):
            raise NoiseregError(f"{self.params.path}: its split {name} is empty")
        column = self.params.column
        names = splits[name].column_names
        if column not in names:
            raise NoiseregError(
                f"{self.params.path} has no column {column!r}; there are: "
                f"{', '.join(names)}{nearest(column, names)}; give column="
            )
        return splits[name]

    def _held_out(self, splits: dict[str, Any]) -> str | None:
        asked = self.params.heldout
        others = [name for name in splits if name != self.params.split and len(splits[name])]
        if asked == "auto":
            asked = next((name for name in HELD_OUT if name in others), "")
        if not asked:
            return None
        if asked == self.params.split:
            raise NoiseregError(
                f"hf:heldout={asked} is what is trained on; expected another split"
                f"{f', such as {others[0]}' if others else ', or heldout=auto for a tenth'}"
            )
        self._split(splits, asked)
        self.notes += (f"splits: trained on {self.params.split}, held out {asked}",)
        return asked

    def _label_column(self, rows: Any) -> str | None:
        import datasets

        asked = self.params.label
        if asked == "none":
            return None
        labels = [n for n, f in rows.features.items() if isinstance(f, datasets.ClassLabel)]
        if asked == "auto":
            if len(labels) > 1:
                self.notes += (f"no classes: labels are in {', '.join(labels)}; give label=",)
            return labels[0] if len(labels) == 1 else None
        if asked not in rows.column_names:
            raise NoiseregError(
                f"{self.params.path} has no column {asked!r}; there are: "
                f"{', '.join(rows.column_names)}{nearest(asked, rows.column_names)}"
            )
        return asked

    def _name_classes(self, rows: Any) -> None:
        if self._label is None:
            return
        feature = rows.features[self._label]
        names = getattr(feature, "names", None)
        if names is None:
            values = rows.unique(self._label)
            if not all(type(v) is int and 0 <= v < 1_000_000 for v in values):
                raise NoiseregError(
                    f"{self.params.path}: {self._label!r} holds {feature.dtype} values; expected "
                    "class labels, or whole numbers from 0"
                )
            names = map(str, range(max(values) + 1))
        self.class_names = tuple(names)
        self.classes = len(self.class_names)
        some = ", ".join(self.class_names[:10]) + ", …" * (self.classes > 10)
        self.notes += (f"{self.classes} classes, by the column {self._label}: {some}",)

    def _images(self, rows: Any) -> Any:
        """The rows with their images still encoded, which our own decoder reads."""
        import datasets

        column = self.params.column
        try:
            return rows.cast_column(column, datasets.Image(decode=False))
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise NoiseregError(
                f"{self.params.path}: the column {column!r} holds no images ({reason})"
            ) from None

    def _look(self, index: int) -> tuple[tuple[int, int], bool]:
        with reading(self._place_of(index)), self[index][0] as image:
            return upright_size(image), is_grey(image)

    def _place_of(self, index: int) -> str:
        return f"{self.params.path}, row {index}"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._rows[which][index - int(self._starts[which])]
        held = row[self.params.column]
        if held is None or (held["bytes"] is None and held["path"] is None):
            raise Unfaithful("there is no image in this row; take the row away")
        label = None if self._label is None else row[self._label]
        if self._label is not None and not (type(label) is int and 0 <= label < self.classes):
            raise Unfaithful(f"its label is {label!r}, and there are {self.classes} classes")
        return open_picture(held["bytes"] or Path(held["path"])), label
