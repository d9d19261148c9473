"""diffusers' U-Net as the papers configure it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from noisereg.api import Context
from noisereg.denoisers import PRESETS, UNetParams, auto_network
from noisereg.denoisers.unet import UNet, padding
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Policy, Registry


def build(shape: tuple[int, ...], device: str = "meta", **params) -> UNet:
    with torch.device(device):  # "meta": structure without the cost of weights
        return UNet(UNetParams(**params), Context(shape=shape))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def attention_levels(model: UNet) -> list[int]:
    return [i for i, block in enumerate(model.unet.down_blocks) if hasattr(block, "attentions")]


def heads(model: UNet) -> set[int]:
    return {module.heads for module in model.modules() if isinstance(module, Attention)}


def test_ddpm_cifar10_is_the_papers_network():
    model = build((3, 32, 32), preset="ddpm-cifar10")
    assert count(model) == 35_746_307  # 35.7 M
    assert heads(model) == {1}
    assert attention_levels(model) == [1]  # 32 → 16
    config = model.unet.config
    assert config.block_out_channels == (128, 256, 256, 256)
    assert config.layers_per_block == 2
    assert (config.freq_shift, config.flip_sin_to_cos, config.downsample_padding) == (1, False, 0)
    assert model.time_input == "index"


def test_ddpms_dropout_is_in_every_residual_block():
    blocks = [
        m
        for m in build((3, 32, 32), preset="ddpm-cifar10").modules()
        if isinstance(m, ResnetBlock2D)
    ]
    assert len(blocks) == 8 + 2 + 12
    assert {block.dropout.p for block in blocks} == {0.1}


@pytest.mark.parametrize(
    ("size", "preset", "channels"),
    [
        (64, "bndm-64", (128, 128, 256, 256, 512, 512)),
        (128, "bndm-128", (128, 128, 128, 256, 256, 512, 512)),
    ],
)
def test_bndms_networks(size, preset, channels):
    model = build((3, size, size), preset=preset)
    assert model.unet.config.block_out_channels == channels
    assert model.unet.config.layers_per_block == 2
    assert attention_levels(model) == [len(channels) - 2]
    assert model.time_input == "unit"
    assert model.unet.config.dropout == 0


def test_bndms_embedding_is_told_t_itself_and_ddpms_1000t_minus_1():
    t = torch.tensor([0.25], dtype=torch.float64)
    for preset, expected in (("bndm-64", 0.25), ("small", 249.0)):
        seen = []
        model = build(
            (1, 32, 32),
            "cpu",
            preset=preset,
            channels="8,16",
            layers=1,
            attention="[]",
            head_dim=0,
        )
        model.unet.time_proj.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0].item())
        )
        model(torch.zeros(1, 1, 32, 32), t)
        assert seen == [expected]


@pytest.mark.parametrize("side", [28, 32])
def test_small_is_about_a_million_parameters(side):
    assert 0.6e6 < count(build((1, side, side))) < 1.5e6


def test_the_output_starts_at_zero_and_residual_branches_closed():
    torch.manual_seed(0)
    model = build((1, 28, 28), "cpu")
    assert not model(torch.randn(2, 1, 28, 28), torch.rand(2).double()).any()
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            assert not module.conv2.weight.any()
            assert module.conv1.weight.any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 33), (1, 1, 5), (3, 32, 32)])
def test_any_height_and_width_come_back_as_they_went_in(shape):
    torch.manual_seed(0)
    model = build(shape, "cpu", channels="8,8,16", layers=1, attention="[]")
    nn.init.normal_(model.unet.conv_out.weight)
    out = model(torch.randn(2, *shape), torch.rand(2).double())
    assert out.shape == (2, *shape)
    assert out.flatten(1).std(1).min() > 0


def test_padding_is_even_and_only_where_needed():
    assert padding(32, 64, 8) == (0, 0, 0, 0)
    assert padding(28, 27, 8) == (2, 3, 2, 2)  # left, right, top, bottom


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((28, 28), (16, 32, 64, 64)),
        ((64, 64), (16, 32, 64, 64)),
        ((128, 32), (16, 32, 64, 64)),  # as 64×64, whatever the sides
        ((80, 80), (24, 48, 96, 96)),
        ((128, 128), (64, 128, 256, 256, 256)),
    ],
)
def test_auto_goes_by_the_area_and_the_parameters_say_what_it_became(shape, channels):
    model = build((3, *shape))
    assert model.params.preset == "small"
    assert model.params.channels == channels
    dumped = model.params.model_dump(mode="json")
    assert None not in dumped.values()
    assert UNetParams(**dumped) == model.params
    again = build((3, *shape), **dumped)
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_auto_grows_smoothly_with_the_area():
    """64×64 had 1.1 M parameters and 80×48, which is smaller, 116 M."""

    def size(height, width):
        return count(build((3, height, width)))

    assert size(80, 48) == size(48, 80) == size(64, 60) == size(64, 64)
    sides = [64, 68, 72, 78, 84, 90, 91, 98, 106, 116, 128]
    sizes = [size(side, side) for side in sides]
    ratios = [b / a for a, b in pairwise(sizes)]
    assert min(ratios) >= 1
    assert max(ratios) < 1.75
    assert size(512, 512) < 150e6
    assert auto_network(64, 64) == PRESETS["small"]


def test_the_learning_rate_of_auto_falls_as_it_grows():
    rates = [build((3, side, side)).default_lr for side in (64, 80, 128, 256)]
    assert rates[0] == 1e-3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= 1e-4


@pytest.mark.parametrize("width", ["0", "-16", "1000000000000", "4097"])
def test_widths_that_cannot_be_are_refused_in_words(width):
    registry = Registry(Policy(entry_points=False))
    with pytest.raises(NoiseregError, match=rf"unet: channels\.1.*{width}"):
        registry.params(registry.find("denoiser", "unet"), {"channels": f"16,{width}"})


def test_what_is_given_overrides_the_preset():
    model = build(
        (3, 32, 32),
        preset="ddpm-cifar10",
        channels="32,64",
        layers="1",
        attention="0,1",
        head_dim="16",
        dropout="0.3",
    )
    assert model.unet.config.block_out_channels == (32, 64)
    assert attention_levels(model) == [0, 1]
    assert heads(model) == {2, 4}
    assert {m.dropout.p for m in model.modules() if isinstance(m, ResnetBlock2D)} == {0.3}
    assert build((3, 32, 32), channels="32,64", attention="[]").params.attention == ()


def test_widths_that_32_groups_do_not_divide_take_fewer_groups():
    model = build((3, 16, 16), channels="24,40", attention="[]")
    assert {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)} == {8}


def test_attention_on_a_level_that_is_not_there():
    with pytest.raises(
        NoiseregError,
        match=r"attention on level 4, but channels=32,64 makes levels 0 to 1; type att",
    ):
        build((3, 32, 32), preset="bndm-64", channels="32,64")


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(
        NoiseregError,
        match=r"head_dim=7 does not divide the 64 channels of level 1; type head_dim=0",
    ):
        build((3, 32, 32), channels="32,64", attention="[]", head_dim=7)


def test_the_diffusers_model_alone_gives_the_same_output():
    """What an export to diffusers rests on, for sizes that need no padding."""
    torch.manual_seed(0)
    model = build((1, 16, 16), "cpu", channels="8,16", layers=1, attention="1").eval()
    nn.init.normal_(model.unet.conv_out.weight)
    x, k = torch.randn(3, 1, 16, 16), torch.tensor([1, 500, 1000])
    with torch.no_grad():
        torch.testing.assert_close(model(x, k.double() / 1000), model.unet(x, k - 1).sample)
