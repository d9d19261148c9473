"""What a user types and sees: the command line, in process."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from noisereg.cli.main import run

FAST = [
    "--set",
    "sample.steps=2",
    "--set",
    "runtime.device=cpu",
    "--batch-size",
    "8",
    "--steps",
    "2",
]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--noise", "white", "--noise=blue"], "--noise is given more than once (white and blue)"),
        (["--data", "digits", "--data", "moons"], "--data is given more than once"),
        (["--steps", "3", "--steps", "4"], "--steps is given more than once (3 and 4)"),
        (["--noise", "white+blue"], "noise white+blue: a run has one noise"),
    ],
)
def test_what_would_be_dropped_in_silence_is_refused(arguments, said, capsys, tmp_path):
    assert run(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert ("noisereg sweep --noise … --noise …" in error) == ("--noise=blue" in arguments)
    assert not (tmp_path / "run").exists()


def call(capsys, *arguments):
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def mistake(capsys, *arguments):
    """The one line of an error: exit code 2, no traceback, nothing on stdout."""
    code, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("note:")]
    assert code == 2
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("noisereg: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", "--noise", "blue-tv", "--reg", "isotropy", *FAST, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out="],
        ["train", "--out", ""],
        ["sweep", "--out", ""],
        ["sample", "{run}", "--out", ""],
        ["eval", "{run}", "--out", ""],
        ["eval", ""],
        ["sample", ""],
        ["eval", "{run}", "--inception-weights", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments, trained, capsys, tmp_path, monkeypatch
):
    """What a shell makes of an unset variable."""
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, *[a.format(run=trained) for a in arguments])
    assert line.endswith("is empty; expected a path")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["sample", "{run}"], ["eval", "{run}"]])
def test_a_seed_is_not_negative(arguments, trained, capsys):
    line = mistake(capsys, *[a.format(run=trained) for a in arguments], "--seed", "-1")
    assert "--seed -1: expected a whole number, at least 0" in line


def test_a_file_or_a_sweep_is_no_folder_for_a_run(capsys, tmp_path):
    (tmp_path / "s.png").touch()
    assert "s.png is a file; expected a new folder for --out" in mistake(
        capsys, "train", *FAST, "--out", tmp_path / "s.png"
    )
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / "sweep.yaml").touch()
    for more in ([], ["--resume"]):
        line = mistake(capsys, "train", *FAST, *more, "--out", tmp_path / "S")
        assert "is a sweep, whose own command goes on with it (noisereg sweep …" in line


def test_train_says_what_it_does_and_what_one_would_do_next(capsys, tmp_path):
    code, out, err = call(
        capsys, "train", "--noise", "blue-tv", "--reg", "isotropy", *FAST, "--out", tmp_path / "r"
    )
    assert code == 0
    for said in (
        "1,617 images of 1×8×8",
        "blue-tv",
        "isotropy × 0.1",
        "mlp (auto: 8×8)",
        "2 steps of 8",
    ):
        assert said in err
    assert f"noisereg sample {tmp_path / 'r'}" in out
    assert f"noisereg eval   {tmp_path / 'r'}" in out


def test_points_give_a_scatter_plot_and_floats(capsys, tmp_path):
    assert (
        call(
            capsys,
            "train",
            "--data",
            "swiss-roll",
            "--reg",
            "isotropy:weight=0.3",
            *FAST,
            "--out",
            tmp_path / "r",
        )[0]
        == 0
    )
    assert (tmp_path / "r/samples/000002.png").is_file()
    assert call(capsys, "sample", tmp_path / "r", "--num", 30, "--out", tmp_path / "s.npz")[0] == 0
    points = np.load(tmp_path / "s.npz")["samples"]
    assert points.shape == (30, 2)
    assert points.dtype == np.float32


def test_a_folder_of_images_trains_with_the_unet(capsys, tmp_path, images):
    spec = f"folder:path={images},size=16"
    code, _, err = call(
        capsys, "train", "--data", spec, "--denoiser", "unet", "--noise", "blue-tv", "--steps", 2, "--batch-size", 4,
        "--set", "sample.steps=2", "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0, err
    assert Image.open(tmp_path / "r/samples/000002.png").mode == "RGB"


def test_sample_writes_a_grid_an_npz_or_single_pictures(capsys, trained, tmp_path):
    assert (
        call(
            capsys,
            "sample",
            trained,
            "--num",
            9,
            "--steps",
            3,
            "--eta",
            0,
            "--out",
            tmp_path / "g.png",
        )[0]
        == 0
    )
    assert Image.open(tmp_path / "g.png").size[0] > 3 * 32
    assert call(capsys, "sample", trained, "--num", 5, "--out", tmp_path / "s.npz")[0] == 0
    samples = np.load(tmp_path / "s.npz")["samples"]
    assert samples.shape == (5, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert call(capsys, "sample", trained, "--num", 5, "--out", tmp_path / "folder")[0] == 0
    for k in range(5):
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / f"folder/{k}.png")), samples[k, ..., 0]
        )


def test_config_show_prints_a_file_that_repeats_the_run(capsys, trained, tmp_path):
    code, out, _ = call(capsys, "config", "show", "--config", trained / "config.yaml")
    assert code == 0
    assert out == (trained / "config.yaml").read_text()
    (tmp_path / "c.yaml").write_text(out)
    again = call(capsys, "train", "--config", tmp_path / "c.yaml", "--out", tmp_path / "r")
    assert again[0] == 0
    assert (tmp_path / "r/config.yaml").read_text() == out


def test_config_show_says_what_auto_became(capsys):
    _, out, _ = call(capsys, "config", "show", "--noise", "blue", "--json")
    config = json.loads(out)
    assert (
        config["denoiser"]["name"],
        config["process"]["target"],
        config["sample"]["grid"]["name"],
    ) == (
        "mlp",
        "v",
        "logsnr",
    )


def test_config_schema_is_json_schema(capsys):
    _, out, _ = call(capsys, "config", "schema")
    assert json.loads(out)["$schema"].startswith("https://json-schema.org")


@pytest.mark.parametrize(
    "order", [["--noise", "blue-tv", "--help"], ["--help", "--noise", "blue-tv"]]
)
def test_help_adds_the_named_components_parameters_in_either_order(capsys, order):
    code, out, _ = call(capsys, "train", *order)
    assert code == 0
    assert "--batch-size" in out
    assert "gamma.tau=" in out


def test_resume_alone_takes_the_configuration_from_the_run(capsys, trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "r")
    assert call(capsys, "train", "--resume", "--out", tmp_path / "r", "--steps", 4)[0] == 0
    assert json.loads((tmp_path / "r/status.json").read_text()) == {
        "status": "finished",
        "step": 4,
        "steps": 4,
    }
    line = mistake(capsys, "train", "--resume", "--out", tmp_path / "r", "--noise", "white")
    assert "noise" in line


def test_a_requeued_job_runs_the_same_line(capsys, tmp_path):
    line = [
        "train",
        "--resume",
        "--noise",
        "blue",
        "--reg",
        "isotropy",
        *FAST,
        "--out",
        tmp_path / "r",
    ]
    assert call(capsys, *line)[0] == 0
    assert call(capsys, *line)[0] == 0


def test_a_dry_run_builds_what_is_measured_while_training(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--set", "train.eval_every=10", "--set", "train.keep_best=fd-pxels"]
    for more in ([], ["--dry-run"]):
        code, _, err = call(capsys, "train", "--denoiser", "mlp:width=8", *given, *more)
        assert code == 2
        assert "did you mean 'fd-pixels'" in err
    assert not list(tmp_path.iterdir())


def test_dry_run_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "train", "--dry-run", "--noise", "blue-tv")
    assert code == 0
    assert "nothing written" in err
    assert "blue-tv" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--noise", "bleu-tv"],
            "no noise is called 'bleu-tv'; did you mean 'blue-tv'? (noisereg plugins list --kind "
            "noise)",
        ),
        (
            ["--noise", "blue-tv:gama.tau=0.1"],
            "blue-tv has no parameter 'gama.tau'; did you mean 'gamma.tau'? (noisereg plugins "
            "show blue-tv)",
        ),
        (["--data", "swiss-roll", "--noise", "blue"], "points of 2 numbers"),
        (["--reg", "isotropi"], "did you mean 'isotropy'"),
        (["--reg", "isotropy,weight=0.3"], "did you mean 'isotropy:weight=0.3'"),
        (["--set", "train.lr=1e-3"], "did you mean 'optim.lr'"),
        (["--reg", "isotropy:weight=-1"], "weight"),
        (["--set", "train.stepz=4"], "did you mean 'train.steps'"),
        (["--config", "no-such-file.yaml"], "no such file"),
        (["--data", "folder:path=no-such-folder"], "no-such-folder"),
        (["--data", "fashion-mnist:root=no-such-root"], "download"),
        (["--batch-size", "10", "--set", "train.accumulate=3"], "multiple"),
        (["--stepz", "3"], "--stepz"),
        (["--steps", "three"], "--steps three: expected a whole number"),
        (["--steps", "1e3"], "--steps 1e3: expected a whole number"),
        (["--batch-size", "10.5"], "--batch-size 10.5: expected a whole number"),
        (["--set", "lr=1e-3"], "did you mean 'optim.lr'?"),
        (["--set", "batch_size=8"], "did you mean 'train.batch_size' or 'sample.batch_size'?"),
        (["--steps", "0"], "train.steps"),
        (["--resume"], "--out"),
        (["--plugin", "no-such.py"], "no-such.py"),
        (["--set", "runtime.device=quantum"], "quantum"),
        (
            ["--process", "ddpm:schedule=linear,zero_terminal_snr=false", "--noise", "blue"],
            "zero_terminal_snr=true",
        ),
        (["--process", "ddpm:target=eps", "--noise", "blue"], "target=v"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_and_writes_nothing(
    capsys, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    assert said in mistake(
        capsys, "train", *arguments, *(["--out", "r"] if arguments != ["--resume"] else [])
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"], ["config", "show"]])
def test_a_file_with_a_sweep_is_no_run_and_the_right_command_is_named(
    capsys, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    said = mistake(capsys, *command, "--config", "iso-diffusion/table1")
    assert (
        "is a sweep, not one run; type noisereg sweep --config iso-diffusion/table1 --out SWEEP"
        in said
    )
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_data_are_named(capsys, tmp_path, images):
    (tmp_path / "empty").mkdir()
    assert "empty" in mistake(
        capsys, "train", "--data", tmp_path / "empty", "--out", tmp_path / "r"
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "good.png").write_bytes((images / "0.png").read_bytes())
    (broken / "bad.png").write_bytes(b"not a picture")
    assert "bad.png" in mistake(
        capsys, "train", "--data", f"folder:path={broken},size=8", "--out", tmp_path / "r"
    )


def test_a_folder_that_holds_a_run_is_not_overwritten(capsys, trained):
    assert "already holds a run" in mistake(capsys, "train", "--out", trained)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--eta", "2"], "eta"),
        (["--solver", "rk4"], "solver"),
        (["--steps", "0"], "steps"),
        (["--num", "0"], "--num"),
        (["--out", "x.jpg"], ".png"),
        (["--checkpoint", "99"], "there are: 2"),
        (["--solver", "heun", "--eta", "1"], "eta 0"),
    ],
)
def test_sampling_mistakes(capsys, trained, arguments, said):
    assert said in mistake(capsys, "sample", trained, *arguments)


def test_what_is_no_run_is_said_to_be_none(capsys, tmp_path):
    assert "holds no run" in mistake(capsys, "sample", tmp_path)
    assert "is not there" in mistake(capsys, "sample", tmp_path / "nowhere")


def test_help_imports_no_torch_and_loads_no_plugin():
    code = (
        "import sys; from noisereg.cli.main import run; code = run(sys.argv[1:]); "
        "bad = [m for m in ('torch', 'numpy', 'noisereg.noises') if m in sys.modules]; "
        "sys.exit(bad or code)"
    )
    for arguments in (["--help"], ["train", "--help"], ["sample", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_training_imports_nothing_that_takes_as_long_as_torch(tmp_path):
    code = (
        "import sys; from noisereg.cli.main import run; code = run(sys.argv[1:]); "
        "heavy = {'torch._dynamo', 'sklearn', 'scipy', 'diffusers', 'torchvision'}; "
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else code)"
    )
    typed = ["train", "--steps", "1", "--set", "runtime.device=cpu", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
