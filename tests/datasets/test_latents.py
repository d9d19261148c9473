"""Precomputed latents: scale, labels, decoder."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.runs.run import Run

FAST = {
    "train": {"steps": 2, "batch_size": 8},
    "sample": {"steps": 2},
    "denoiser": "mlp:width=16,blocks=1",
}


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).normal(scale=5, size=(40, 4, 8, 8)).astype(np.float16)


@pytest.fixture(scope="module")
def files(tmp_path_factory, values):
    """A file of latents with labels and a scale, and the autoencoder that decodes them, by
    diffusers itself.
    """
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("latents")
    np.savez(folder / "latents.npz", latents=values, labels=np.arange(40) % 3, scale=0.18215)
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    autoencoder.save_pretrained(folder / "vae")
    return folder


def build(path, **params):
    given = "".join(f",{key}={value}" for key, value in params.items())
    return noisereg.build("dataset", f"latents:path={path}{given}")


def all_of(dataset, name):
    split = dataset.split(name)
    return split.batch(torch.arange(len(split)))


def test_latents_are_scaled_and_split_and_keep_their_labels(files, values):
    data = build(files / "latents.npz")
    assert (data.shape, data.classes) == ((4, 8, 8), 3)
    train, heldout = all_of(data, "train"), all_of(data, "heldout")
    assert (len(train.x), len(heldout.x)) == (36, 4)
    assert train.x.dtype == torch.float32
    together = {
        tuple(x.flatten().tolist()): int(y)
        for b in (train, heldout)
        for x, y in zip(b.x, b.labels, strict=True)
    }
    expected = {
        tuple((torch.from_numpy(v).float() * 0.18215).flatten().tolist()): k % 3
        for k, v in enumerate(values)
    }
    assert together == expected


def test_without_a_scale_the_latents_are_brought_to_unit_deviation(tmp_path, values):
    np.savez(tmp_path / "x.npz", latents=values)
    data = build(tmp_path / "x.npz")
    assert torch.cat([all_of(data, "train").x, all_of(data, "heldout").x]).std(
        correction=0
    ) == pytest.approx(1, abs=1e-3)
    assert data.classes == 0
    assert build(tmp_path / "x.npz", scale=2).params.scale == 2


def test_samples_are_decoded_by_the_autoencoder_and_only_the_folder_is_needed_then(
    files, tmp_path
):
    from diffusers import AutoencoderKL

    copy = tmp_path / "copy.npz"
    copy.write_bytes((files / "latents.npz").read_bytes())
    spec = f"latents:path={copy},decoder={files / 'vae'}"
    run = noisereg.train(out=tmp_path / "run", data=spec, noise="blue-tv", task="class", **FAST)
    copy.unlink()
    assert run.config.data.params["scale"] == 0.18215
    images = run.sample(3)
    assert (images.shape, images.dtype) == ((3, 3, 16, 16), torch.uint8)

    from noisereg.runs.run import draw

    latents = draw(run.model(), range(3), torch.tensor([0, 1, 2]))
    autoencoder = AutoencoderKL.from_pretrained(files / "vae", low_cpu_mem_usage=False)
    with torch.inference_mode():
        expected = (
            ((autoencoder.decode(latents / 0.18215).sample + 1) * 127.5).round().clamp(0, 255)
        )
    assert (images.float() - expected).abs().max() <= 1  # rounding


def test_without_a_decoder_samples_are_latents_on_the_files_own_scale(
    files, tmp_path, capsys, monkeypatch
):
    run = noisereg.train(
        out=tmp_path / "run", data=f"latents:path={files / 'latents.npz'}", **FAST
    )
    from noisereg.runs.run import draw

    assert command(["sample", str(run.path), "--num", "2", "--out", str(tmp_path / "x.npz")]) == 0
    drawn = draw(run.model(), range(2))
    assert np.allclose(
        np.load(tmp_path / "x.npz")["samples"], (drawn / 0.18215).numpy(), rtol=1e-4, atol=1e-4
    )
    assert (run.path / "samples/000002.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(Run, "sample", None)  # it is told before anything is drawn
    assert command(["sample", str(run.path), "--num", "2", "--out", str(tmp_path / "folder")]) == 2
    assert "latents without a decoder have no single pictures" in capsys.readouterr().err


def test_eval_decodes_samples_and_reference_alike(files, tmp_path):
    spec = f"latents:path={files / 'latents.npz'},decoder={files / 'vae'}"
    run = noisereg.train(out=tmp_path / "run", data=spec, **FAST)
    (row,) = noisereg.evaluate([run.path], ["prdc:k=2"], num=8)
    assert 0 <= row["metrics"]["precision"]["mean"] <= 1


def broken(folder, values):
    np.savez(folder / "none.npz", other=values)
    np.savez(folder / "flat.npz", latents=values[:, 0, 0])
    np.savez(folder / "nan.npz", latents=np.full((2, 1, 2, 2), np.nan, np.float32))
    np.savez(folder / "labels.npz", latents=values, labels=np.arange(3))
    np.savez(folder / "scale.npz", latents=values, scale=-1.0)
    np.savez(folder / "huge.npz", latents=1e39 * values.astype(np.float64))
    np.savez(folder / "tiny-scale.npz", latents=values, scale=1e-320)
    np.savez(folder / "huge-scale.npz", latents=values, scale=1e300)
    np.savez(folder / "no-side.npz", latents=np.zeros((4, 0, 8, 8), np.float32))
    np.savez(folder / "labels-2-63.npz", latents=values, labels=np.full(40, 2**63, np.uint64))
    np.savez(folder / "same.npz", latents=np.ones((4, 1, 2, 2), np.float32))
    (folder / "cut.npz").write_bytes((folder / "none.npz").read_bytes()[:50])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.npz", "there is no file"),
        ("none.npz", "holds no latents"),
        ("flat.npz", r"expected floats \(N, C, H, W\)"),
        ("nan.npz", "not finite"),
        ("labels.npz", "expected 40 whole numbers"),
        ("scale.npz", "scale is -1"),
        ("huge.npz", "not finite, as float32"),
        ("tiny-scale.npz", "expected about 1"),
        ("huge-scale.npz", "expected about 1"),
        ("no-side.npz", r"expected floats \(N, C, H, W\)"),
        ("labels-2-63.npz", "expected below a million"),
        ("same.npz", "all latents are equal"),
        ("cut.npz", "cannot be read"),
    ],
)
def test_a_file_that_is_not_of_this_form_is_refused_with_what_was_expected(
    tmp_path, values, name, said
):
    broken(tmp_path, values)
    with pytest.raises(NoiseregError, match=said) as error:
        build(tmp_path / name)
    assert name in str(error.value)


def test_a_decoder_that_does_not_fit_is_refused_before_training(files, tmp_path):
    path = files / "latents.npz"
    with pytest.raises(NoiseregError, match="no folder of a diffusers autoencoder"):
        build(path, decoder=tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(NoiseregError, match="is a UNet2DModel; expected one of AutoencoderKL"):
        build(path, decoder=tmp_path)
    np.savez(tmp_path / "three.npz", latents=np.random.default_rng(0).normal(size=(4, 3, 4, 4)))
    with pytest.raises(NoiseregError, match="decodes latents of 4 channels, and these have 3"):
        build(tmp_path / "three.npz", decoder=files / "vae")
    (tmp_path / "config.json").write_text((files / "vae/config.json").read_text())
    with pytest.raises(NoiseregError, match="cannot be read"):
        build(path, decoder=tmp_path)


def test_the_pages_recipe_makes_a_file_that_trains(files, tmp_path, monkeypatch):
    """The code of docs/latents.md as it stands, on a folder of images."""
    import re
    import shutil
    from pathlib import Path

    from PIL import Image

    page = (Path(__file__).parents[2] / "docs/latents.md").read_text(encoding="utf-8")
    shutil.copytree(files / "vae", tmp_path / "vae")
    (tmp_path / "photos").mkdir()
    for k in range(10):
        pixels = np.random.default_rng(k).integers(0, 256, (70, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{k}.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(code, {})
    data = build("latents.npz")
    assert (data.shape, len(data.split("train"))) == ((4, 32, 32), 6)
    assert data.params.scale == pytest.approx(0.18215)


def test_latents_of_another_byte_order_are_read(files, tmp_path, values):
    np.savez(tmp_path / "big.npz", latents=values.astype(">f8"), scale=1.0)
    big = noisereg.build("dataset", f"latents:path={tmp_path / 'big.npz'}")
    assert big.split("train").batch(torch.arange(3)).x.dtype == torch.float32


def test_a_decoder_without_all_its_weights_is_refused(files, tmp_path):
    """diffusers fills what is missing with whatever is there."""
    shutil.copytree(files / "vae", tmp_path / "vae")
    (weights,) = (tmp_path / "vae").glob("*.safetensors")
    state = load_file(weights)
    del state["decoder.conv_out.weight"]
    save_file(state, weights)
    spec = f"latents:path={files / 'latents.npz'},decoder={tmp_path / 'vae'}"
    with pytest.raises(NoiseregError, match=r"has no weights decoder\.conv_out\.weight"):
        noisereg.build("dataset", spec)
