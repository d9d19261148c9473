"""Data loading: batches of small images from a folder of PNGs.

    python benchmarks/loading.py [--threads 2] [--images 4000] [--rounds 4]

Shuffled batches of 128 images of 3×32×32, without a network:

- noisereg: the folder held in memory, as it does by default where there is room;
- noisereg, streamed: ``memory=stream``, decoded for each batch, small ones by one thread;
- torchvision: ImageFolder in a DataLoader with as many workers as threads;
- WebDataset: the same PNGs in a tar file, shuffled in a buffer, with as many workers.
"""

from __future__ import annotations

import io
import statistics
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Gate, Goal, Result, arguments, interleaved, packages, scratch

BATCH, BATCHES = 128, 10
CONTENDERS = ("noisereg", "noisereg, streamed", "torchvision", "WebDataset")


def write_images(folder: Path, count: int) -> None:
    """A folder ``images/a`` of PNGs, and the same in ``images.tar``."""
    import numpy as np
    from PIL import Image

    (folder / "images" / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number, small in enumerate(coarse):
            buffer = io.BytesIO()
            Image.fromarray(small).resize((32, 32)).save(buffer, "PNG")
            (folder / "images" / "a" / f"{number:06d}.png").write_bytes(buffer.getvalue())
            member = tarfile.TarInfo(f"{number:06d}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)


def batches(name: str, folder: Path, threads: int) -> Any:
    """Endless batches, (128, 3, 32, 32) float32."""
    import torch
    from torchvision import transforms

    if name.startswith("noisereg"):
        import noisereg
        from noisereg import draws

        spec = f"folder:path={folder / 'images'},memory="
        dataset = noisereg.build("dataset", spec + ("stream" if "," in name else "resident"))
        split = dataset.split("train")
        order = draws.Order(0, len(split))
        step = 0
        while True:
            yield split.batch(order(step * BATCH, (step + 1) * BATCH)).x
            step += 1
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    if name == "torchvision":
        from torchvision.datasets import ImageFolder

        data: Any = ImageFolder(str(folder / "images"), to_tensor)
        loader: Any = torch.utils.data.DataLoader(
            data, BATCH, shuffle=True, num_workers=threads, drop_last=True
        )
        while True:
            for x, _ in loader:
                yield x
    import webdataset

    data = (
        webdataset.WebDataset(
            str(folder / "images.tar"), shardshuffle=False, empty_check=False, resampled=True
        )
        .shuffle(1000)
        .decode("pil")
        .to_tuple("png")
        .map_tuple(to_tensor)
        .batched(BATCH)
    )
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=threads)
    while True:
        for (x,) in loader:
            yield x


def main() -> None:
    given = arguments(__doc__, images=4000, folder="")
    if given.contender:
        import torch

        gate = Gate()
        torch.set_num_threads(given.threads)
        began = time.perf_counter()
        source = batches(given.contender, Path(given.folder), given.threads)
        next(source)
        gate.extra = {"first": time.perf_counter() - began}
        gate.repeat(lambda: [next(source) for _ in range(BATCHES)])
    result = Result(
        "loading",
        "Data loading",
        f"Shuffled batches of {BATCH} from a folder of {given.images:,} PNGs of 3×32×32, without "
        f"a network, beside {packages('torchvision', 'webdataset')}. noisereg decodes such a "
        "folder once and holds it as uint8 where there is room.",
    )
    with scratch() as folder:
        write_images(folder, given.images)
        found = interleaved(
            __file__, CONTENDERS, given.rounds, given.threads, "--folder", str(folder)
        )
    result.add("3×32×32", found, given.threads, "images", BATCH * BATCHES)
    wall = {n: statistics.median(s.wall for s in found[n]) for n in CONTENDERS}
    for ours, aim in (("noisereg", "in memory"), ("noisereg, streamed", "streamed")):
        best = min(wall["torchvision"], wall["WebDataset"])
        result.goals.append(
            Goal(
                f"{aim}: at least as fast as torchvision's folder and WebDataset",
                f"{best / wall[ours]:.1f} × the faster of them in wall-clock",
                wall[ours] <= best,
                "of images this small most is opening files, which WebDataset does not, and "
                "Python, for which the others have processes; what streams are images too large "
                "to hold, where decoding outweighs it",
            )
        )
    result.write()


if __name__ == "__main__":
    main()
