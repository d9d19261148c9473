"""Small U-Nets of ours and of diffusers."""

import pytest
import torch

from noisereg import python as noisereg

UNET = "unet:channels=8,16,attention=1"


@pytest.fixture
def train(tmp_path):
    """``train(name, …)``: a run of four steps with a small U-Net on digits."""

    def train(name, **sections):
        given = {
            "denoiser": UNET,
            "runtime": {"device": "cpu"},
            "sample": {"steps": 2},
            "train": {"steps": 4, "batch_size": 8},
            "optim": {
                "lr": 0.05
            },  # far from where it starts, which is the network that answers zero
        }
        return noisereg.train(out=tmp_path / name, **{**given, **sections})

    return train


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A pipeline of diffusers' own, as it saves itself: another architecture than ours, weights
    nowhere zero.
    """
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("pretrained") / "pipeline"
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder
