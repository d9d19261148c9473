"""torchrun's variables, whole, half there and wrong."""

import pytest

from noisereg.cli.main import run
from noisereg.errors import NoiseregError
from noisereg.ranks import NAMES, Place, place

WHOLE = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_what_torchrun_sets():
    assert place(WHOLE) == Place(rank=3, world=4, local_rank=1, local_world=2)


def test_one_process_without_it():
    assert place({}) == Place() == place({"RANK": "0", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "x"}, "RANK is 'x', which should be a whole number from 0 to 3"),
        ({"RANK": "4"}, "RANK is '4', which should be a whole number from 0 to 3"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "1.0"}, "RANK is '1.0'"),
        ({"RANK": "9" * 5000}, "RANK is '9999"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is '2', which should be a whole number from 0 to 1"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE is '9'"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE is '2', which should be 1"),
    ],
)
def test_a_variable_that_is_wrong_is_named(changed, said):
    with pytest.raises(NoiseregError) as caught:
        place({**WHOLE, **changed})
    assert said in str(caught.value)
    assert "expected all that torchrun sets" in str(caught.value)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "WORLD_SIZE"])
def test_a_variable_that_is_missing_is_named(name):
    with pytest.raises(NoiseregError, match=f"WORLD_SIZE is 4 and {name} is not set"):
        place({k: v for k, v in WHOLE.items() if k != name and not (
            name == "LOCAL_WORLD_SIZE" and k == "LOCAL_RANK")} | (
                {"LOCAL_RANK": "0"} if name == "LOCAL_WORLD_SIZE" else {}))  # fmt: skip


def test_a_rank_without_a_world_is_half_of_it():
    with pytest.raises(NoiseregError, match="RANK is '1', which should be 0"):
        place({"RANK": "1"})


def test_a_command_says_it_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["train", "--steps", "2", "--out", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "RANK is 'x'" in err
    assert not any(tmp_path.iterdir())


def test_ranks_that_do_not_meet_are_one_line(monkeypatch, tmp_path, capsys):
    """The port is taken by somebody who is no store of torch's."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("RANK", "0")
        for name, value in {**WHOLE, "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2,
                            "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": taken.getsockname()[1]}.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        assert run(["train", "--steps", "2", "--out", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert "the 2 ranks do not meet at 127.0.0.1:" in err
    assert "Traceback" not in err
