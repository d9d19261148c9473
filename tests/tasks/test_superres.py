"""Super-resolution: large images from small ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from noisereg import python as noisereg
from noisereg.api import Batch, Context
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.runs.output import names_of_inputs
from noisereg.tasks import SuperresParams
from noisereg.tasks.superres import SuperResolution

SHAPE = (2, 8, 12)


def task(factor=2, shape=SHAPE):
    return SuperResolution(SuperresParams(factor=factor), Context(shape=shape))


def resized(image, side):
    """Bilinear with corner pixels on corner pixels, by SciPy."""
    axes = [np.linspace(0, n - 1, m) for n, m in zip(image.shape, side, strict=True)]
    return map_coordinates(image, np.meshgrid(*axes, indexing="ij"), order=1)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_condition_is_bilinear_down_and_up_with_aligned_corners(factor):
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cond = task(factor).cond(Batch(x))
    for image, made in zip(x.flatten(0, 1).numpy(), cond.flatten(0, 1).numpy(), strict=True):
        small = resized(image, (8 // factor, 12 // factor))
        assert np.allclose(made, resized(small, (8, 12)), atol=1e-12)
        assert made[0, 0] == pytest.approx(image[0, 0])


def test_a_small_image_from_the_user_gives_the_condition_of_training():
    made, x = task(), torch.randn(3, *SHAPE)
    small = torch.nn.functional.interpolate(
        x, size=made.input_shape[1:], mode="bilinear", align_corners=True
    )
    assert torch.equal(made.from_input(small), made.cond(Batch(x)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return noisereg.train(
        out=tmp_path_factory.mktemp("superres") / "run",
        process="iadb",
        noise="blue-tv",
        task="superres:factor=2",
        denoiser="mlp:width=96,blocks=2",
        train={"steps": 250, "batch_size": 128},
        optim={"lr": 2e-3},
        sample={"steps": 10},
        runtime={"device": "cpu"},
    )


@pytest.fixture(scope="module")
def small_images(tmp_path_factory):
    """Held-out digits at half their size, and them whole."""
    folder = tmp_path_factory.mktemp("small")
    whole = noisereg.build("dataset", "digits").split("heldout").batch(torch.arange(30)).x
    small = torch.nn.functional.interpolate(
        whole, size=(4, 4), mode="bilinear", align_corners=True
    )
    for k, image in enumerate(small):
        pixels = ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{k:02d}.png")
    return folder, whole


def test_sampling_from_a_folder_of_small_images_enlarges_each(
    trained, small_images, tmp_path, capsys
):
    folder, whole = small_images
    out = tmp_path / "large.npz"
    assert command(["sample", str(trained.path), "--input", str(folder), "--out", str(out)]) == 0
    capsys.readouterr()
    large = np.load(out)["samples"].astype(float)[..., 0]
    truth = (whole[:, 0].numpy() + 1) * 127.5
    assert large.shape == truth.shape
    error = ((large - truth) ** 2).mean()
    swapped = ((large - np.roll(truth, 1, axis=0)) ** 2).mean()
    assert error < 0.5 * swapped  # each is made of its own image, not merely a digit


def test_a_zip_of_small_images_is_read_as_the_folder_is(trained, small_images, tmp_path):
    folder, _ = small_images
    packed = shutil.make_archive(str(tmp_path / "small"), "zip", folder)
    assert torch.equal(trained.sample(2, inputs=packed), trained.sample(2, inputs=folder))
    assert names_of_inputs(Path(packed), 40) == names_of_inputs(folder, 40)


def test_psnr_and_ssim_through_eval_compare_each_with_its_own_image(trained):
    (row,) = noisereg.evaluate([trained.path], ["psnr", "ssim"], reference="heldout", num=60)
    numbers = row["metrics"]
    flat = 10 * np.log10(255**2 / heldout_variance())
    assert numbers["psnr"]["mean"] > flat
    assert 0.5 < numbers["ssim"]["mean"] < 1


def heldout_variance():
    """Mean squared error of the held-out images' mean, in grey levels: the best an answer blind to
    its input can do.
    """
    x = noisereg.build("dataset", "digits").split("heldout").batch(torch.arange(60)).x
    return float(((x - x.mean(0)) * 127.5).square().mean())


def test_more_samples_than_images_wrap_around_with_new_noise(trained, small_images):
    folder, _ = small_images
    two = trained.sample(31, inputs=folder)
    assert two.shape == (31, 1, 8, 8)
    assert not torch.equal(two[0], two[30])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"task": "superres", "data": "swiss-roll"},
            "superres needs images and this data set has points",
        ),
        ({"task": "superres:factor=3"}, "factor=3 does not divide 8×8"),
        ({"task": "superres:factor=2", "sample": {"guidance": 2}}, "no unconditional network"),
        (
            {"task": "superres:factor=2", "pairing": "optimal"},
            "pairing optimal with task superres",
        ),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(sections, said, tmp_path):
    with pytest.raises(NoiseregError, match=said):
        noisereg.train(out=tmp_path / "run", train={"steps": 1}, **sections)
    assert not (tmp_path / "run").exists()


def test_inputs_are_checked_before_anything_is_drawn(trained, tmp_path):
    with pytest.raises(NoiseregError, match="give input=FOLDER, of 4×4 images"):
        trained.sample(2)
    with pytest.raises(NoiseregError, match="expected a folder of images of 4×4"):
        trained.sample(2, inputs=tmp_path / "none")
    Image.new("L", (5, 4)).save(tmp_path / "odd.png")
    with pytest.raises(NoiseregError, match=r"odd\.png is 5×4; this run takes images of 4×4"):
        trained.sample(2, inputs=tmp_path)
    (tmp_path / "odd.png").write_bytes(b"no image")
    with pytest.raises(NoiseregError, match=r"odd\.png cannot be read as an image"):
        trained.sample(2, inputs=tmp_path)
    with pytest.raises(NoiseregError, match="not trained on labels"):
        trained.sample(2, labels=[1])
