"""What the index of WebDataset shards takes (docs/data.md): memory an image, and seconds.

    python docs/measure_shards.py [--images 100000]

Two shards of 8×8 grey PNGs with labels, keys of 15 characters; memory by tracemalloc, without
which the seconds are measured.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from PIL import Image


def write_shards(folder: Path, images: int) -> str:
    """The shards' names, as the data set takes them."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    for shard in range(2):
        with tarfile.open(folder / f"s-{shard}.tar", "w") as tar:
            for k in range(images // 2):
                for ending, content in (("png", buffer.getvalue()), ("cls", b"%d" % (k % 10))):
                    member = tarfile.TarInfo(f"{shard:02d}/image-{k:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"webdataset:path={folder}/s-{{0..1}}.tar,memory=stream"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as place:
        spec = write_shards(Path(place), images)
        import noisereg

        noisereg.build("dataset", "swiss-roll:n=10")  # what is imported is no part of it

        def opened(cache: str) -> tuple[object, float]:
            os.environ["NOISEREG_CACHE"] = str(Path(place) / cache)
            began = time.monotonic()
            return noisereg.build("dataset", spec), time.monotonic() - began

        _, first = opened("a")
        _, again = opened("a")
        tracemalloc.start()
        dataset, _ = opened("b")
        held, most = tracemalloc.get_traced_memory()
        print(
            f"{len(dataset):,} images: {held / images:.0f} bytes an image, {most / images:.0f} "  # type: ignore[arg-type]
            f"while it is opened; {first:.1f} s to index them, {again:.1f} s with the index there"
        )


if __name__ == "__main__":
    main()
