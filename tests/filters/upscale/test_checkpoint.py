from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.kernels.upscaling import small_rrdb, small_srvgg
from torch import Tensor

from upframe.filters.errors import CheckpointRejected
from upframe.filters.upscale.checkpoint import load_upscaler, name_architecture
from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact
from upframe.filters.weights import load_state_dict

State = dict[str, Tensor]


@pytest.mark.parametrize(("num_feat", "num_conv", "scale"), [(8, 0, 1), (6, 2, 2), (4, 5, 3)])
def test_any_srvgg_is_recognised_by_its_shapes(num_feat: int, num_conv: int, scale: int) -> None:
    original = small_srvgg(num_feat, num_conv, scale)
    network = load_upscaler(original.state_dict())
    assert isinstance(network, SRVGGNetCompact)
    assert (network.scale, network.margin) == (scale, num_conv + 2)
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(network(x), original(x))


@pytest.mark.parametrize(("num_feat", "num_block", "scale"), [(8, 1, 4), (6, 2, 2), (4, 3, 1)])
def test_any_rrdb_is_recognised_by_its_shapes(num_feat: int, num_block: int, scale: int) -> None:
    original = small_rrdb(num_feat, num_block, scale)
    network = load_upscaler(original.state_dict())
    assert isinstance(network, RRDBNet)
    assert (network.scale, len(network.body)) == (scale, num_block)
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(network(x), original(x))


def test_a_network_is_frozen_float32_whatever_the_file_held() -> None:
    state = {key: value.half() for key, value in small_srvgg().state_dict().items()}
    parameters = list(load_upscaler(state).parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)


def test_keys_of_a_network_trained_on_several_devices_are_known() -> None:
    state = {f"module.{key}": value for key, value in small_srvgg().state_dict().items()}
    assert load_upscaler(state).scale == 2


def _bare(state: State, path: Path) -> None:
    torch.save(state, path)


def _params(state: State, path: Path) -> None:
    torch.save({"params": state}, path)


def _params_ema(state: State, path: Path) -> None:
    """The averaged weights are the better ones: they win over what stands beside them."""
    worse = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"params": worse, "params_ema": state}, path)


def _safetensors(state: State, path: Path) -> None:
    safetensors.torch.save_file(state, path)


@pytest.mark.parametrize("save", [_bare, _params, _params_ema, _safetensors])
def test_every_way_to_store_a_state_dict_is_read(
    tmp_path: Path, save: Callable[[State, Path], None]
) -> None:
    original = small_srvgg()
    save(original.state_dict(), tmp_path / "weights")
    network = load_upscaler(load_state_dict(tmp_path / "weights"))
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(network(x), original(x))


FOREIGN = {
    "SwinIR": ["conv_first.weight", "layers.0.residual_group.blocks.0.attn.qkv.weight"],
    "HAT": [
        "layers.0.residual_group.blocks.0.attn.qkv.weight",
        "layers.0.residual_group.overlap_attn.qkv.weight",
    ],
    "DAT": ["before_RG.1.weight", "layers.0.blocks.0.attn.attns.0.rpe_biases"],
    "DRCT": ["conv_first.weight", "layers.0.swin1.norm1.weight"],
    "SPAN": ["conv_1.sk.weight", "block_1.c1_r.eval_conv.weight"],
    "OmniSR": ["input.weight", "residual_layer.0.residual_layer.0.layer.0.fn.0.weight"],
    "RealCUGAN": ["unet1.conv1.conv.0.weight", "unet2.conv1.conv.0.weight"],
    "waifu2x": ["net.0.weight", "net.0.bias"],
    "RIFE": ["module.block0.conv0.0.0.weight", "module.encode.cnn0.weight"],
    "PLKSR": ["feats.0.weight", "feats.1.channe_mixer.0.weight"],
    "SCUNet": ["m_head.0.weight", "m_tail.0.weight"],
    "EDSR": ["head.0.weight", "body.0.body.0.weight", "tail.0.weight"],
    "RCAN": ["body.0.body.0.body.0.weight"],
    "GFPGAN": ["stylegan_decoder.constant_input.weight"],
    "discriminator": ["conv0.weight", "conv1.weight_orig", "conv1.weight_u"],
    "ESRGAN in its old layout": ["conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight"],
    "diffusion": ["model.diffusion_model.input_blocks.0.0.weight"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_architectures_are_refused_by_name(name: str) -> None:
    state = {key: torch.zeros(1) for key in FOREIGN[name]}
    with pytest.raises(CheckpointRejected, match=f"not a Real-ESRGAN checkpoint.*it is .*{name}"):
        load_upscaler(state)


def test_a_real_rife_checkpoint_is_refused_by_name(data: Path) -> None:
    with pytest.raises(CheckpointRejected, match="it is RIFE"):
        load_upscaler(load_state_dict(data / "weights" / "flownet.pkl"))


def test_an_unknown_architecture_is_refused_with_some_of_its_keys() -> None:
    state = {f"layer{n}.kernel": torch.zeros(1) for n in range(9)}
    with pytest.raises(
        CheckpointRejected, match=r"unknown architecture with 9 tensors: layer0\.kernel, .*, …"
    ):
        load_upscaler(state)


def test_nothing_is_refused_as_nothing() -> None:
    with pytest.raises(CheckpointRejected, match="it holds no tensors"):
        load_upscaler({})


@pytest.mark.parametrize("make", [small_srvgg, small_rrdb])
def test_our_own_architectures_are_no_foreign_ones(make: Callable[[], torch.nn.Module]) -> None:
    assert name_architecture(list(make().state_dict())).startswith("unknown")


def test_srvgg_with_an_activation_without_parameters_is_refused() -> None:
    state = {k: v for k, v in small_srvgg().state_dict().items() if int(k.split(".")[1]) % 2 == 0}
    with pytest.raises(CheckpointRejected, match="ReLU or LeakyReLU; only PReLU"):
        load_upscaler(state)


def _without(key: str) -> Callable[[State], object]:
    return lambda state: state.pop(key)


def _with(key: str, *shape: int) -> Callable[[State], object]:
    return lambda state: state.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("body.0.weight"), r"missing: body\.0\.weight"),
        (_without("body.2.bias"), r"missing: body\.2\.bias"),
        (_without("body.1.weight"), r"missing: body\.1"),
        (_without("body.6.weight"), r"missing: body\.6\.weight"),
        (_with("body.3.weight", 1), r"body\.3\.weight must be \(8,\), got \(1,\)"),
        (_with("body.2.weight", 8, 8, 1, 1), r"must be \(8, 8, 3, 3\), got \(8, 8, 1, 1\)"),
        (_with("body.0.weight", 8, 1, 3, 3), r"must be \(8, 3, 3, 3\), got \(8, 1, 3, 3\)"),
        (_with("body.0.weight", 8), r"must be a convolution \(out, in, 3, 3\), got \(8,\)"),
        (_with("body.6.weight", 13, 8, 3, 3), r"3 \* n² output channels, got 13"),
        (_with("body.7.weight", 12), "odd number of layers, 3 or more, got 8"),
        (_with("body.900000000.weight", 8), r"missing: body\.7"),
    ],
)
def test_a_damaged_srvgg_is_refused_with_what_is_wrong(
    damage: Callable[[State], object], message: str
) -> None:
    state: State = dict(small_srvgg().state_dict())
    damage(state)
    with pytest.raises(CheckpointRejected, match=message):
        load_upscaler(state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("conv_first.weight"), r"missing: conv_first\.weight"),
        (_without("conv_up2.bias"), r"as RRDBNet, missing: conv_up2\.bias"),
        (_without("body.0.rdb1.conv1.weight"), r"missing: body\.0\.rdb1\.conv1\.weight"),
        (_without("body.0.rdb3.conv5.weight"), r"missing: body\.0\.rdb3\.conv5\.weight"),
        (_with("conv_up3.weight", 8, 8, 3, 3), r"unknown: conv_up3\.weight"),
        (_with("conv_first.weight", 8, 4, 3, 3), "must have 3, 12 or 48 input channels, got 4"),
        (_with("conv_last.weight", 1, 8, 3, 3), r"conv_last\.weight must be \(3, 8, 3, 3\)"),
        (_with("body.900000000.rdb1.conv1.bias", 4), r"missing: body\.1"),
    ],
)
def test_a_damaged_rrdb_is_refused_with_what_is_wrong(
    damage: Callable[[State], object], message: str
) -> None:
    state: State = dict(small_rrdb().state_dict())
    damage(state)
    with pytest.raises(CheckpointRejected, match=message):
        load_upscaler(state)


def test_a_message_names_only_a_few_of_many_keys() -> None:
    state = {k: v for k, v in small_rrdb().state_dict().items() if "rdb2" not in k}
    with pytest.raises(CheckpointRejected, match="and 6 more"):
        load_upscaler(state)
