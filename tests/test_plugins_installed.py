"""Plugins as users install them: a virtual environment over this one's packages, pip, the commands
as they are printed.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEAVY = {"torch", "numpy", "scipy", "sklearn", "diffusers", "matplotlib", "PIL", "jinja2"}

pytest.importorskip("pip")

PLUGINS = Path(__file__).parent.parent / "plugins"
PACKAGES = sorted(p.parent for p in PLUGINS.glob("*/pyproject.toml"))
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
PIP = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]


class Environment:
    """A fresh virtual environment that also sees the packages of the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        shared = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        (site,) = folder.glob("lib/python*/site-packages")
        # addsitedir and no plain path, so that an editable install's own .pth is followed
        (site / "shared.pth").write_text(
            "".join(f"import site; site.addsitedir({path!r})\n" for path in shared)
        )
        for name, module, function in (
            ("noisereg", "noisereg.__main__", "main"),
            ("pytest", "pytest", "console_main"),
            ("pip", "pip._internal.cli.main", "main"),
        ):
            script = self.bin / name
            script.write_text(
                SCRIPT.format(python=self.bin / "python", module=module, function=function)
            )
            script.chmod(0o755)

    def sh(self, line: str, folder: Path) -> subprocess.CompletedProcess:
        """A line as one types it, in an activated environment."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        env |= {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        }
        return subprocess.run(
            line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300
        )

    def ok(self, line: str, folder: Path) -> str:
        done = self.sh(line, folder)
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def pip(self, arguments: str, folder: Path) -> None:
        self.ok(f"pip {arguments}", folder)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("venv") / "env")


@pytest.fixture(scope="module")
def installed(environment, tmp_path_factory):
    """All of plugins/, installed from copies: setuptools builds inside a source folder."""
    folder = tmp_path_factory.mktemp("plugins")
    copies = [shutil.copytree(p, folder / p.name) for p in PACKAGES]
    environment.pip(f"install {' '.join(PIP)} {' '.join(f'./{c.name}' for c in copies)}", folder)
    return folder


FAST = "--set sample.steps=2 --set sample.num=4 --set runtime.device=cpu --batch-size 8"


def test_what_plugins_new_prints_installs_passes_its_tests_and_trains(environment, tmp_path):
    """noisereg plugins new my-noise --kind noise --out D && pip install ./D && pytest D &&
    noisereg train …
    """
    out = environment.ok("noisereg plugins new my-noise --kind noise --out D", tmp_path)
    install, test, train = (line.strip() for line in out.splitlines()[-3:])
    assert (install, test) == ("pip install ./D", "pytest D")
    assert train == "noisereg train --noise my-noise --steps 50 --out runs/my-noise"
    environment.ok(f"{install} {' '.join(PIP)}", tmp_path)
    report = environment.ok(f"{test} -q -p no:cacheprovider", tmp_path)
    assert "passed" in report
    assert "failed" not in report
    environment.ok(f"{train} {FAST}", tmp_path)
    assert json.loads((tmp_path / "runs/my-noise/status.json").read_text()) == {
        "status": "finished",
        "step": 50,
        "steps": 50,
    }
    assert "name: my-noise/my-noise" in (tmp_path / "runs/my-noise/config.yaml").read_text()
    environment.pip("uninstall -q -y my-noise", tmp_path)
    refused = environment.sh("noisereg sample runs/my-noise --num 2", tmp_path)
    assert "the package 'my-noise' is not installed; pip install it" in refused.stderr


def test_every_package_of_plugins_is_listed_and_in_order(environment, installed):
    listed = json.loads(environment.ok("noisereg --strict-plugins plugins list --json", installed))
    found = {
        (r["distribution"], r["kind"], r["name"]): r["status"]
        for r in listed
        if r["distribution"] != "noisereg"
    }
    assert found == {
        ("noisereg-equal-snr", "noise", "equal-snr"): "ok",
        ("noisereg-flow", "process", "edm"): "ok",
        ("noisereg-flow", "process", "rectified-flow"): "ok",
        ("noisereg-heavy-tail", "noise", "student-t"): "ok",
        ("noisereg-mlflow", "logger", "mlflow"): "ok",
        ("noisereg-offset", "noise", "offset"): "ok",
        ("noisereg-offset", "noise", "pyramid"): "ok",
        ("noisereg-ray", "launcher", "ray"): "ok",
        ("noisereg-spectral", "regularizer", "spectral"): "ok",
        ("noisereg-submitit", "launcher", "submitit"): "ok",
        ("noisereg-wandb", "logger", "wandb"): "ok",
    }
    assert {d for d, _, _ in found} == {p.name for p in PACKAGES}


def test_with_all_of_them_help_and_the_list_import_nothing_heavy(environment, installed):
    """What they cost is measured in benchmarks/; here: what they must not import."""
    code = (
        "import sys; from noisereg.cli.main import run; code = run(sys.argv[1:]); "
        f"heavy = sorted({HEAVY!r} & sys.modules.keys()); assert not heavy, heavy; sys.exit(code)"
    )
    for command in ("--help", "plugins list"):
        done = environment.sh(f'python -c "{code}" {command}', installed)
        assert done.returncode == 0, done.stderr


def test_their_own_tests_pass(environment, installed):
    """Each with noisereg's conformance kit."""
    shutil.copytree(PLUGINS / "single-file", installed / "single-file")
    folders = " ".join(f"{p.name}/tests" for p in PACKAGES)
    report = environment.ok(f"pytest -q -p no:cacheprovider {folders} single-file", installed)
    assert " passed" in report


def test_all_of_them_train_on_digits(environment, installed):
    """One process, so that torch is imported once."""
    code = (
        "import json, sys; from noisereg.cli.main import run\n"
        "for k, line in enumerate(json.load(sys.stdin)): assert run(line) == 0, line\n"
    )
    kurtosis, edges = (str(PLUGINS / f"single-file/{n}.py") for n in ("kurtosis", "edges"))
    lines = [
        f"train --data digits --steps 3 {FAST} --out run{k} {given}".split()
        for k, given in enumerate(
            [
                "--noise offset --process iadb",
                "--noise pyramid",
                "--noise student-t --reg isotropy",
                "--noise equal-snr",
                "--noise blue-tv --reg spectral",
                f"--reg kurtosis --plugin {kurtosis}",
                f"--noise edges --task superres:factor=2 --plugin {edges}",
                "--process rectified-flow --noise blue",
                "--process edm --set sample.solver=heun",
                *(["--log wandb:mode=offline"] if _has_wandb() else []),
            ]
        )
    ]
    done = environment.sh(f"python -c '{code}' <<'E'\n{json.dumps(lines)}\nE\n", installed)
    assert done.returncode == 0, done.stderr
    assert "equal-snr: the data's spectrum" in done.stderr
    for k in range(len(lines)):
        assert json.loads((installed / f"run{k}/status.json").read_text())["status"] == "finished"
    again = environment.ok("noisereg sample run3 --num 4 --out again.npz", installed)
    assert again.strip() == "again.npz"


def test_after_uninstalling_one_its_names_are_unknown_and_the_others_work(environment, installed):
    environment.pip("uninstall -q -y noisereg-offset", installed)
    refused = environment.sh("noisereg config show --noise offset", installed)
    assert refused.returncode == 2
    assert "no noise is called 'offset'" in refused.stderr
    assert "pip install" in refused.stderr
    assert "student-t" in environment.ok("noisereg plugins list --kind noise", installed)


def _has_wandb() -> bool:
    import importlib.util

    return importlib.util.find_spec("wandb") is not None
