"""A run that starts from a pretrained diffusers U-Net."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.exchange.to_diffusers import export
from noisereg.plugins.registry import registry
from noisereg.runs.build import build_parts
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.pretrained import PretrainedFolder, initialise
from noisereg.runs.runtime import Runtime


def parts_of(folder, **sections):
    config = noisereg.Config(init=str(folder), runtime={"device": "cpu"}, **sections)
    parts = build_parts(config, registry(), Runtime.start(RuntimeConfig(device="cpu")))
    return parts, initialise(parts)


def outputs(folder, x, index):
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    with torch.no_grad():
        return network(x, torch.full((len(x),), float(index))).sample


X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.full((3,), 0.25, dtype=torch.float64)
TOLD = 249  # 1000t − 1


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"noise": "blue-tv", "process": "iadb", "reg": ["isotropy"]},
        {"noise": "blue-tv", "process": "ddpm"},
        {"process": "ddpm:variance=learned"},
        {"task": "class"},
        {"task": "superres:factor=2", "noise": "blue-tv"},
    ],
    ids=str,
)
def test_it_starts_as_the_pretrained_network_and_what_is_new_starts_at_zero(pretrained, sections):
    parts, _ = parts_of(pretrained, **sections)
    cond = None
    if parts.task.classes:
        cond = torch.tensor([0, 4, 10])
    elif parts.task.channels:
        cond = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        out = parts.denoiser.eval()(X, T, cond)
    assert torch.allclose(out[:, :1], outputs(pretrained, X, TOLD), atol=1e-6)
    assert (out[:, 1:] == 0).all()
    assert out.shape[1] == 1 + parts.noise.extra_heads + parts.process.extra_heads


def test_it_learns_in_every_part_that_started_at_zero(pretrained, tmp_path):
    more = {
        "noise": "blue-tv",
        "task": "class",
        "train": {"steps": 3, "batch_size": 8},
        "sample": {"steps": 2},
    }
    run = noisereg.train(out=tmp_path / "run", init=pretrained, runtime={"device": "cpu"}, **more)
    weights = run.checkpoint().weights(ema=False)
    for name in ("conv_out.weight", "conv_out.bias"):
        assert (weights[f"denoiser.unet.{name}"][1] != 0).any()
    assert (weights["denoiser.unet.class_embedding.weight"] != 0).any()


def test_the_round_trip_through_diffusers_gives_back_the_weights(train, tmp_path):
    run = train("run")
    export(run, tmp_path / "out")
    parts, notes = parts_of(tmp_path / "out")
    assert notes == []  # the same process: nothing to learn anew
    expected = run.checkpoint().weights(ema=True)
    for name, value in parts.denoiser.unet.state_dict().items():
        assert torch.equal(value, expected[f"denoiser.unet.{name}"]), name
    model, again = (p.diffusion.predict(p.denoiser.eval(), X, T) for p in (run.load(), parts))
    assert torch.equal(model.x0_hat, again.x0_hat)


def first_outputs(parts, cond=None):
    """By block of C channels: the target, the process's heads, the noise's."""
    with torch.no_grad():
        return parts.denoiser.eval()(X, T, cond)


@pytest.mark.parametrize(
    ("trained", "started", "kept", "left"),
    [
        ({"noise": "blue-tv", "process": "iadb"}, {}, [0, 1], ""),
        ({"noise": "blue-tv:gamma.tau=0.5", "process": "iadb"}, {"noise": "blue-tv"}, [0, 1], ""),
        ({"process": "ddpm:variance=learned"}, {}, [0, 1], ""),
        (
            {"process": "ddpm:variance=learned", "sample": {"steps": 1000, "num": 1}},
            {},
            [0, 1],
            "",
        ),
        (
            {"noise": "blue-tv", "process": "ddpm:variance=learned"},
            {"process": "ddpm"},
            [0, 2],
            "the heads of its process",
        ),
        (
            {"noise": "blue-tv", "process": "ddpm:variance=learned"},
            {"noise": "red-tv"},
            [0, 1, None],
            "the heads of its noise blue-tv",
        ),
        ({"noise": "blue-tv", "process": "iadb"}, {"noise": "white"}, [0], "its noise blue-tv"),
        ({}, {"noise": "blue-tv"}, [0, None], ""),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["export", "run"])
def test_our_own_networks_keep_the_heads_that_mean_the_same(
    train, tmp_path, source, trained, started, kept, left
):
    run = train("run", **trained)
    folder = run.path
    if source == "export":
        folder = tmp_path / "out"
        export(run, folder)
    sections = {"noise": "white", "process": "ddpm", **trained, **started, "sample": {"steps": 2}}
    parts, notes = parts_of(folder, **sections)
    theirs, own = first_outputs(run.load()), first_outputs(parts)
    assert own.shape[1] == len(kept)
    for place, block in enumerate(kept):
        expected = torch.zeros(3, 8, 8) if block is None else theirs[:, block]
        assert torch.equal(own[:, place], expected), place
    said = [note for note in notes if "left out" in note]
    assert [left in note for note in said] == [True] * bool(left)
    known = source == "run" or run.config.noise.name != "white"  # a folder of diffusers' own
    another = parts.config.noise.name != run.config.noise.name
    assert any("was trained for" in note for note in notes) == (known and another)


def test_a_run_gives_its_condition_too(train):
    run = train("run", task="superres:factor=2")
    cond = torch.randn(3, 1, 8, 8)
    theirs = first_outputs(run.load(), cond)
    parts, notes = parts_of(run.path, task="superres:factor=2", noise="blue-tv")
    assert torch.equal(first_outputs(parts, cond)[:, :1], theirs)
    parts, notes = parts_of(run.path)
    assert "the input channels of its condition" in notes[0]
    none = first_outputs(run.load(), torch.zeros_like(cond))
    assert torch.allclose(first_outputs(parts), none, atol=1e-6)

    run = train("labelled", task="class")
    labels = torch.tensor([0, 4, 10])
    parts, _ = parts_of(run.path, task="class", process="iadb")
    assert torch.equal(first_outputs(parts, labels), first_outputs(run.load(), labels))
    with pytest.raises(NoiseregError, match="trained on 11 labels, and this run has none"):
        parts_of(run.path)


@pytest.mark.parametrize("classes", [9, 11])
def test_a_run_of_another_number_of_classes_is_refused(train, tmp_path, classes):
    """With one class more, the run's label of no class would be taken for that of the last."""
    run = train("labelled", task="class")
    images, labels = np.zeros((44, 8, 8), np.uint8), np.arange(44) % classes
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    said = f"was trained on 11 labels, and this run has {classes}"
    with pytest.raises(NoiseregError, match=said):
        parts_of(run.path, task="class", data=str(tmp_path / "data.npz"))


def test_what_the_network_is_told_about_time_comes_with_it(train, tmp_path):
    run = train("run", process="iadb", denoiser="unet:channels=8,16,attention=1,time_input=unit")
    export(run, tmp_path / "out")
    for folder in (run.path, tmp_path / "out"):
        parts, _ = parts_of(folder, process="iadb")
        assert parts.denoiser.time_input == "unit"
        with pytest.raises(NoiseregError, match="has time_input unit and this run's"):
            parts_of(folder, process="iadb", denoiser="unet:channels=8,16,attention=1")


def test_a_run_of_another_network_or_without_a_checkpoint_is_no_start(train, tmp_path):
    run = train("run", denoiser="mlp:width=16,blocks=1")
    with pytest.raises(NoiseregError, match="denoiser is mlp, which cannot be given new parts"):
        parts_of(run.path)
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(NoiseregError, match="a run without a whole checkpoint"):
        parts_of(run.path)


def test_an_export_that_does_not_say_what_it_is_of_is_refused(train, tmp_path):
    export(train("run", process="iadb"), tmp_path / "out")
    file = tmp_path / "out/scheduler/scheduler_config.json"
    values = json.loads(file.read_text())
    for changed in ({"noise": 3}, {"process": "no-such"}, {"shape": None}):
        file.write_text(json.dumps(values | changed))
        with pytest.raises(NoiseregError) as error:
            parts_of(tmp_path / "out", process="iadb")
        assert "\n" not in str(error.value)


def test_another_process_than_it_was_trained_for_is_said(pretrained):
    assert parts_of(pretrained)[1] == []  # DDPM's linear schedule and ε: ours
    for process in ("iadb", "ddpm:target=v", "ddpm:schedule=cosine"):
        (note,) = parts_of(pretrained, process=process)[1]
        assert "was trained to predict epsilon under linear" in note


def same_line(out, folder, steps):
    return [
        "train", "--init", str(folder), "--noise", "blue-tv", "--resume", "--out", str(out), "--steps", str(steps),
        "--batch-size", "8", "--set", "sample.steps=2", "--set", "runtime.device=cpu",
    ]  # fmt: skip


def test_a_resumed_run_does_not_need_the_folder_again_and_is_the_uninterrupted_one(
    pretrained, tmp_path, capsys
):
    folder = tmp_path / "network"
    shutil.copytree(pretrained, folder)
    assert command(same_line(tmp_path / "whole", folder, 4)) == 0
    assert command(same_line(tmp_path / "run", folder, 2)) == 0
    shutil.rmtree(folder)
    assert command(same_line(tmp_path / "run", folder, 3)) == 0
    assert command(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "4"]) == 0
    whole, run = noisereg.load(tmp_path / "whole"), noisereg.load(tmp_path / "run")
    for name, value in whole.checkpoint().weights(ema=False).items():
        assert torch.equal(value, run.checkpoint().weights(ema=False)[name])
    assert run.config.init == whole.config.init
    assert len(run.config.init.sha256) == 64
    assert run.sample(2).shape == (2, 1, 8, 8)
    capsys.readouterr()


def test_from_python_a_run_resumes_without_the_folder_too(pretrained, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(pretrained, folder)

    def train(steps):
        return noisereg.train(
            out=tmp_path / "run",
            resume=True,
            init=folder,
            train={"steps": steps, "batch_size": 8},
            sample={"steps": 2},
        )

    train(1)
    shutil.rmtree(folder)
    assert train(2).status["step"] == 2


def test_a_folder_that_changed_is_not_taken_for_the_one_recorded(pretrained, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(pretrained, folder)
    recorded = parts_of(folder)[0].config
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"dropout": 0.5}))
    with pytest.raises(NoiseregError, match="has changed since this configuration recorded it"):
        noisereg.train(recorded, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def edited(pretrained, folder, **changes):
    shutil.copytree(pretrained, folder)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"denoiser": "mlp"}, "is a U-Net and this run's denoiser is mlp"),
        ({"denoiser": "unet"}, "leave denoiser on auto"),
        ({"data": "swiss-roll"}, "takes images, not points"),
        ({"data": "digits:channels=3"}, "trained on images of 1 channels and these have 3"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(pretrained, tmp_path, sections, said):
    with pytest.raises(NoiseregError, match=said) as error:
        noisereg.train(out=tmp_path / "run", init=pretrained, **sections)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "expected a UNet2DModel"),
        ({"time_embedding_type": "fourier"}, "is told σ"),
        ({"class_embed_type": "timestep"}, "takes no labels"),
        ({"num_class_embeds": 5}, "was trained on 5 labels"),
        ({"out_channels": 2}, "give process=ddpm:variance=learned"),
        ({"layers_per_block": 2}, "cannot be read"),
        ({"shape_of_things": 1}, "takes no 'shape_of_things'"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_line(pretrained, tmp_path, changes, said):
    with pytest.raises(NoiseregError, match=said) as error:
        parts_of(edited(pretrained, tmp_path / "network", **changes))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_network_or_with_pickled_weights_is_refused(pretrained, tmp_path):
    with pytest.raises(NoiseregError, match=r"holds no diffusers U-Net \(no config.json of one\)"):
        parts_of(tmp_path)
    shutil.copytree(pretrained, tmp_path / "network")
    weights = tmp_path / "network/unet/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(NoiseregError, match=r"expected diffusion_pytorch_model\.safetensors"):
        parts_of(tmp_path / "network")


def test_labels_of_a_pretrained_network_are_kept_where_there_are_as_many(tmp_path):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), num_class_embeds=10,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    network.save_pretrained(tmp_path / "network")
    parts, _ = parts_of(tmp_path / "network", task="class")
    embedding = parts.denoiser.unet.class_embedding.weight
    assert torch.equal(embedding[:10], network.class_embedding.weight)
    assert (embedding[10] == 0).all()


def test_a_network_without_all_its_weights_is_refused(pretrained, tmp_path):
    """diffusers fills what is missing with whatever is there."""
    folder = edited(pretrained, tmp_path / "cut")
    (weights,) = (folder / "unet").glob("*.safetensors")
    state = load_file(weights)
    name = next(name for name in state if "resnets.0.conv1.weight" in name)
    del state[name]
    save_file(state, weights)
    with pytest.raises(NoiseregError, match=f"its weights file has no {re.escape(name)}"):
        PretrainedFolder(folder / "unet").weights()
