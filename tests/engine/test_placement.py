"""What models need, what the machine has, and which ways of running fit."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import UMT5Config, UMT5EncoderModel

from heliograph.autoencoder import FastAutoencoder
from heliograph.checkpoint import FP32_COMPONENTS, ModelFolder, load_transformer, read_folder
from heliograph.engine.machine import ContainerLimit, Device, Machine, container_limit, this_machine
from heliograph.engine.needs import (
    ModelNeeds,
    NetworkSizes,
    Weights,
    Workload,
    needs_of,
    part_needs,
    released_needs,
    workload_of,
)
from heliograph.engine.placement import plans_for
from heliograph.engine.plan import WAYS, Plan, choose, choose_rounded
from heliograph.errors import CheckpointError, UserError
from heliograph.model.memo import Memos
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.tiny import TinySizes, write_random_tiny
from tests.live_bytes import LiveBytes
from tests.small import SIZES, wave_tiers

BF16, FP32 = torch.bfloat16, torch.float32
GB = 10**9
GIB = 2**30
RELEASED = released_needs(Workload(384, 640))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model; nobody changes it."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_random_tiny(folder)
    return folder


def card(gib: float, *, has_bf16: bool = True) -> Device:
    """A GPU as its box names it, with nothing else running on it."""
    total = int(gib * GIB)
    return Device("cuda:0", "imaginary GPU", total, total - GIB // 2, has_bf16, (9, 0))


def machine(device: Device | None, host_gib: float) -> Machine:
    """A machine of which 1.5 GiB of host memory are in use."""
    total = int(host_gib * GIB)
    devices = () if device is None else (device,)
    return Machine(devices, total, total - 3 * GIB // 2, 500 * GB, 8, None)


def plan_of(plans: list[Plan], way: str, device: str = "cuda:0") -> Plan:
    """The one plan of this way and device."""
    (plan,) = [plan for plan in plans if plan.way == way and plan.device == device]
    return plan


# What a model needs: its weights


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a checkpoint stores them."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_released_transformer_needs_are_those_of_the_network() -> None:
    with torch.device("meta"):
        network = HeliosTransformer3DModel()
    assert RELEASED.transformer == part_needs(shapes_of(network), FP32_COMPONENTS)


def test_released_text_encoder_and_autoencoder_needs_are_those_of_the_networks() -> None:
    config = UMT5Config(
        d_model=4096,
        d_kv=64,
        num_heads=64,
        num_layers=24,
        d_ff=10240,
        vocab_size=256384,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder, vae = UMT5EncoderModel(config), AutoencoderKLWan()
    stored = shapes_of(encoder)
    del stored["encoder.embed_tokens.weight"]  # the released files hold the embedding once
    assert RELEASED.text_encoder == part_needs(stored)
    assert RELEASED.vae == part_needs(shapes_of(vae))


def test_released_numbers_are_the_references() -> None:
    assert round(RELEASED.transformer.weights.num_parameters * 2 / GB, 2) == 28.62
    assert round(RELEASED.text_encoder.weights.bytes_in(BF16) / GB, 2) == 11.36
    assert RELEASED.work.history_tokens == 2400
    assert RELEASED.work.num_tokens == 11040
    assert round(RELEASED.text_table_bytes(BF16) / 1e6) == 419
    reused = replace(RELEASED, work=Workload(384, 640, history_is_reused=True))
    assert round(reused.history_table_bytes(BF16) / GB, 2) == 1.97
    assert RELEASED.history_table_bytes(BF16) == 0


@pytest.mark.parametrize(
    ("height", "width", "history", "chunk"),
    [(640, 384, 2400, 8640), (512, 512, 2560, 9216), (448, 832, 3640, 13104), (704, 1280, 8800, 31680)],
)
def test_tokens_at_other_sizes_are_the_references(height: int, width: int, history: int, chunk: int) -> None:
    work = Workload(height, width)
    assert (work.history_tokens, work.num_tokens) == (history, history + chunk)


def test_weight_bytes_are_those_of_the_loaded_model(written: Path) -> None:
    folder = read_folder(written)
    needs = needs_of(folder, Workload(64, 64))
    for dtype in (FP32, BF16):
        loaded = load_transformer(folder, dtype, torch.device("cpu"))
        held = sum(parameter.numel() * parameter.element_size() for parameter in loaded.parameters())
        assert needs.transformer.weights.bytes_in(dtype) == held


def test_int8_takes_one_byte_for_a_matrix_element_and_a_scale_for_a_row() -> None:
    part = part_needs({"blocks.0.a.weight": (3, 5), "blocks.0.a.bias": (3,), "out.weight": (2, 2)})
    assert part.int8_bytes(BF16) == 15 + 3 * 2 + 3 * 2 + 4 * 2


def test_sizes_are_read_from_the_configurations(tmp_path: Path) -> None:
    sizes = TinySizes(num_layers=1, num_heads=3, ffn_dim=40, text_dim=16, vae_dim=6)
    write_random_tiny(tmp_path, sizes=sizes)
    assert needs_of(read_folder(tmp_path), Workload(64, 64)).sizes == NetworkSizes(
        num_heads=3,
        head_dim=24,
        ffn_dim=40,
        num_layers=1,
        text_dim=16,
        text_ffn_dim=32,
        text_heads=2,
        decode_bytes_per_pixel=6 * 203,
    )


def test_size_that_is_no_number_is_refused(written: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(written, tmp_path / "model"))
    config = model / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_dim": "wide"}))
    with pytest.raises(CheckpointError, match="base_dim='wide'"):
        needs_of(read_folder(model), Workload(64, 64))


@pytest.mark.parametrize(("variant", "prompts"), [("base", 2), ("mid", 2), ("distilled", 1)])
def test_guided_models_keep_two_prompts(variant: str, prompts: int, tmp_path: Path) -> None:
    write_random_tiny(tmp_path, variant=variant)
    assert workload_of(read_folder(tmp_path), 384, 640) == Workload(384, 640, num_prompts=prompts)


# What a model needs: activations, against what the networks really allocate


@contextmanager
def counting(build: Callable[[], nn.Module], dtype: torch.dtype) -> Iterator[tuple[nn.Module, LiveBytes]]:
    """A network without memory in `dtype`, and a counter that leaves its weights out."""
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        torch.set_default_dtype(dtype)
        try:
            network = build().eval()
        finally:
            torch.set_default_dtype(before)
        counter = LiveBytes()
        counter.alive = {p.untyped_storage()._cdata for p in network.parameters()}
        yield network, counter


WIDE = {**SIZES, "num_attention_heads": 40, "attention_head_dim": 128, "rope_dim": (44, 42, 42), "ffn_dim": 13824}
NARROW = {**SIZES, "num_attention_heads": 4, "attention_head_dim": 32, "rope_dim": (12, 10, 10), "ffn_dim": 512}


@pytest.mark.parametrize(
    ("config", "height", "width", "dtype"),
    [(WIDE, 384, 640, BF16), (WIDE, 384, 640, FP32), (WIDE, 128, 192, BF16), (NARROW, 192, 192, FP32)],
)
def test_forward_pass_takes_what_was_estimated(config: dict, height: int, width: int, dtype: torch.dtype) -> None:
    sizes = NetworkSizes(
        config["num_attention_heads"], config["attention_head_dim"], config["ffn_dim"], config["num_layers"]
    )
    needs = replace(RELEASED, sizes=sizes, work=Workload(height, width))
    estimate = needs.transformer_bytes(dtype) + needs.text_table_bytes(dtype)
    with counting(lambda: HeliosTransformer3DModel(**config), dtype) as (network, counter):
        tiers = wave_tiers(height // 8, width // 8)
        tiers = replace(
            tiers, **{n: replace(getattr(tiers, n), latents=getattr(tiers, n).latents.to(dtype)) for n in TIER_NAMES}
        )
        x = torch.empty(1, 16, 9, height // 8, width // 8, dtype=dtype)
        text = torch.empty(1, 512, config["text_dim"], dtype=dtype)
        with counter:
            network(x, 999.0, text, tiers, Memos())
    assert counter.peak <= estimate <= 1.4 * counter.peak


TIER_NAMES = ("long", "mid", "short")


def with_autoencoder(written: Path, folder: Path, entry: list[str], config: dict) -> ModelFolder:
    """The tiny model with the configuration of another autoencoder."""
    model = Path(shutil.copytree(written, folder))
    index = model / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": entry}))
    (model / "vae" / "config.json").write_text(json.dumps(config))
    return read_folder(model)


WAN, FAST = ["diffusers", "AutoencoderKLWan"], ["heliograph", "FastAutoencoder"]


@pytest.mark.parametrize(
    ("entry", "config", "height", "width"),
    [
        (WAN, {"base_dim": 96}, 384, 640),
        (WAN, {"base_dim": 2, "num_res_blocks": 1}, 256, 256),
        (FAST, {}, 384, 640),
        (FAST, {"decoder_dims": [24, 16, 16, 8]}, 128, 128),
        (FAST, {"decoder_dims": [24, 16, 8, 16]}, 128, 128),
    ],
)
def test_decoding_a_chunk_takes_what_was_estimated(
    entry: list[str], config: dict, height: int, width: int, written: Path, tmp_path: Path
) -> None:
    folder = with_autoencoder(written, tmp_path / "model", entry, config)
    estimate = needs_of(folder, Workload(height, width)).decode_bytes()
    arguments = {key: tuple(value) if entry is FAST else value for key, value in config.items()}
    make = AutoencoderKLWan if entry is WAN else FastAutoencoder
    with counting(lambda: make(**arguments), FP32) as (network, counter):
        latents = torch.empty(1, 16, 9, height // 8, width // 8)
        with counter:
            network.decode(latents)
    assert counter.peak <= estimate <= 1.4 * counter.peak


def test_decoder_widths_that_are_none_are_refused(written: Path, tmp_path: Path) -> None:
    folder = with_autoencoder(written, tmp_path / "model", FAST, {"decoder_dims": [1, 2]})
    with pytest.raises(CheckpointError, match=r"decoder_dims=\[1, 2\]"):
        needs_of(folder, Workload(64, 64))


def test_encoding_a_prompt_takes_no_more_than_was_estimated() -> None:
    config = UMT5Config(d_model=1024, d_kv=64, num_heads=16, num_layers=2, d_ff=2560, vocab_size=64)
    sizes = NetworkSizes(text_dim=1024, text_ffn_dim=2560, text_heads=16)
    with counting(lambda: UMT5EncoderModel(config), BF16) as (network, counter):
        tokens = torch.zeros(1, 512, dtype=torch.long)
        with counter:
            network(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    assert counter.peak <= replace(RELEASED, sizes=sizes).encode_bytes(BF16) <= 4 * counter.peak


# Machine


def test_this_machine_is_described() -> None:
    here = this_machine(Path.cwd())
    assert 0 < here.host_free_bytes <= here.host_total_bytes == psutil.virtual_memory().total
    assert here.num_cores >= 1
    assert here.disk_free_bytes > 0


def group_files(root: Path, cgroup: str, files: dict[str, object]) -> None:
    """The part of a system's files that describes control groups."""
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def test_limit_of_version_2_is_found_in_any_group_above(tmp_path: Path) -> None:
    group_files(
        tmp_path,
        "0::/outer/inner",
        {
            "sys/fs/cgroup/outer/inner/memory.max": "max",
            "sys/fs/cgroup/outer/memory.max": 4 * GIB,
            "sys/fs/cgroup/outer/memory.current": 3 * GIB,
            "sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {GIB}",
        },
    )
    assert container_limit(tmp_path) == ContainerLimit(4 * GIB, 2 * GIB)


def test_limit_of_version_1_is_found(tmp_path: Path) -> None:
    group_files(
        tmp_path,
        "5:cpu:/\n4:memory:/docker/abc\n0::/",
        {
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 2 * GIB,
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": GIB,
            "sys/fs/cgroup/memory/docker/abc/memory.stat": "total_inactive_file 1024",
        },
    )
    assert container_limit(tmp_path) == ContainerLimit(2 * GIB, GIB - 1024)


def test_limit_is_found_where_the_container_shows_its_own_group_at_the_top(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": GIB, "sys/fs/cgroup/memory/memory.usage_in_bytes": 5}
    group_files(tmp_path, "4:memory:/docker/of/the/host", files)
    assert container_limit(tmp_path) == ContainerLimit(GIB, 5)


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("", {}),
        ("0::/", {"sys/fs/cgroup/memory.max": "max"}),
        ("4:memory:/", {"sys/fs/cgroup/memory/memory.limit_in_bytes": 2**63 - 4096}),
        ("0::/", {"sys/fs/cgroup/memory.max": "damaged"}),
    ],
)
def test_no_limit_is_none(cgroup: str, files: dict[str, object], tmp_path: Path) -> None:
    group_files(tmp_path, cgroup, files)
    assert container_limit(tmp_path) is None


def test_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert container_limit(tmp_path) is None


def test_tighter_of_container_and_machine_counts() -> None:
    free = machine(None, 64)
    limited = replace(free, container=ContainerLimit(32 * GIB, 2 * GIB))
    assert limited.host_free_bytes == 30 * GIB
    assert limited.is_limited
    roomy = replace(free, container=ContainerLimit(640 * GIB, 0))
    assert roomy.host_free_bytes == free.host_available_bytes
    assert not roomy.is_limited
    assert replace(free, container=ContainerLimit(GIB, 2 * GIB)).host_free_bytes == 0


# Plans


def test_h100_holds_everything() -> None:
    plans = plans_for(RELEASED, machine(card(80), 64))
    chosen = choose(plans)
    assert (chosen.way, chosen.device, chosen.dtype) == ("whole", "cuda:0", BF16)
    weights = 28.68 + 11.36 + 0.51
    assert chosen.device_bytes / GB == pytest.approx(weights + 0.42 + 5.48 + 0.8, abs=0.02)
    assert chosen.host_bytes < 3 * GB
    assert not any("blocks" in plan.way for plan in plans)


def test_card_of_40_holds_all_but_the_text_encoder() -> None:
    chosen = choose(plans_for(RELEASED, machine(card(40), 64)))
    assert chosen.way == "text encoder offloaded"
    assert chosen.text_device == "cpu"
    assert chosen.host_bytes > 11.36 * GB


def test_card_of_40_without_host_memory_frees_the_text_encoder() -> None:
    chosen = choose(plans_for(RELEASED, machine(card(40), 8)))
    assert chosen.way == "text encoder released"
    assert chosen.text_device == "cuda:0"
    assert chosen.host_bytes < 3 * GB


def test_card_of_24_with_32_of_host_memory_streams_what_does_not_fit() -> None:
    chosen = choose(plans_for(RELEASED, machine(card(24), 32)))
    assert chosen.way == "blocks offloaded"
    block = RELEASED.transformer.largest_block.bytes_in(BF16)
    assert chosen.host_bytes == 2 * GB + (41 - chosen.resident_blocks) * block, "one is there twice while it is moved"
    assert card(24).free_bytes - block < chosen.device_bytes <= card(24).free_bytes  # one more would not fit


def test_card_of_24_with_8_of_host_memory_streams_from_disk() -> None:
    chosen = choose(plans_for(RELEASED, machine(card(24), 8)))
    assert chosen.way == "blocks on disk"
    assert 0 < chosen.resident_blocks < 40
    assert chosen.host_bytes < 6 * GB


def test_card_of_8_streams_every_block_and_encodes_on_the_cpu() -> None:
    plans = plans_for(RELEASED, machine(card(8), 32))
    chosen = choose(plans)
    assert (chosen.way, chosen.resident_blocks, chosen.text_device) == ("blocks offloaded", 0, "cpu")
    assert 28.1 * GB < chosen.host_bytes < 31 * GB
    shortfall = plan_of(plans, "whole").shortfalls[0]
    assert shortfall.resource == "memory on cuda:0"
    assert shortfall.missing_bytes == plan_of(plans, "whole").device_bytes - card(8).free_bytes


def test_what_does_not_fit_anywhere_is_refused_with_what_is_short() -> None:
    plans = plans_for(RELEASED, machine(card(8), 8))
    with pytest.raises(UserError) as raised:
        choose(plans)
    message = str(raised.value)
    best = plan_of(plans, "blocks on disk")
    assert (
        f"on cuda:0, 'blocks on disk' comes closest and is short of {best.shortfalls[0].missing_bytes / GB:.2f}"
        in message
    )
    assert "on cpu, 'text encoder released' comes closest" in message
    assert "\n" not in message


def test_container_limit_is_named_when_it_is_what_is_short() -> None:
    limited = replace(machine(card(8), 64), container=ContainerLimit(8 * GIB, GIB))
    with pytest.raises(UserError, match="of host memory within the container's limit"):
        choose(plans_for(RELEASED, limited))


def test_rounded_weights_are_never_chosen_by_themselves() -> None:
    plans = plans_for(RELEASED, machine(card(24), 16))
    plans = [plan for plan in plans if "blocks" not in plan.way]
    assert plan_of(plans, "int8 weights").fits
    with pytest.raises(UserError, match="with --dtype int8, 'int8 weights' would fit on cuda:0"):
        choose(plans)


def test_rounded_weights_are_chosen_where_they_are_asked_for() -> None:
    plan = choose_rounded(plans_for(RELEASED, machine(card(24), 16)))
    assert (plan.way, plan.device, plan.is_exact) == ("int8 weights", "cuda:0", False)
    assert choose_rounded(plans_for(RELEASED, machine(None, 64)), "cpu").device == "cpu"


def test_rounded_weights_that_do_not_fit_are_refused_with_what_is_short() -> None:
    with pytest.raises(UserError, match=r"'int8 weights' on cuda:0 is short of .* of memory on cuda:0"):
        choose_rounded(plans_for(RELEASED, machine(card(8), 64)), "cuda")
    with pytest.raises(UserError, match="no device 'mps'"):
        choose_rounded(plans_for(RELEASED, machine(card(8), 64)), "mps")


def test_cpu_runs_small_models_exactly_and_large_ones_in_half_the_memory(written: Path) -> None:
    tiny = needs_of(read_folder(written), Workload(128, 128))
    laptop = machine(None, 64)
    assert choose(plans_for(tiny, laptop)).dtype == FP32
    large = choose(plans_for(RELEASED, laptop))
    assert (large.way, large.device, large.dtype) == ("whole", "cpu", BF16)
    assert large.host_bytes > (28.68 + 11.36 + 0.51) * GB


def test_cpu_only_laptop_of_16_cannot_hold_the_14b_model() -> None:
    with pytest.raises(UserError, match=r"on cpu, 'text encoder released' comes closest .* of host memory"):
        choose(plans_for(RELEASED, machine(None, 16)))


def test_apple_gpu_counts_host_and_device_memory_once() -> None:
    free = 60 * GIB
    apple = Device("mps", "Apple GPU", free, free, has_bf16=True, shares_host_memory=True)
    plans = plans_for(RELEASED, machine(apple, 96))
    assert [plan.way for plan in plans if plan.device == "mps"] == ["whole", "text encoder released", "int8 weights"]
    chosen = choose(plans)
    assert (chosen.device, chosen.dtype) == ("mps", BF16)
    assert chosen.host_bytes > chosen.device_bytes > RELEASED.score_bytes(BF16)
    small = plans_for(RELEASED, machine(apple, 32))
    assert [plan.way for plan in small if plan.fits] == ["int8 weights"]


def test_gpu_without_bfloat16_runs_float16_and_says_why() -> None:
    chosen = choose(plans_for(RELEASED, machine(card(80, has_bf16=False), 64)))
    assert chosen.dtype == torch.float16
    assert "no bfloat16" in chosen.reasons[1]


def test_asked_dtype_is_used_everywhere() -> None:
    plans = plans_for(RELEASED, machine(card(80), 64), FP32)
    assert {plan.dtype for plan in plans} == {FP32}
    weights = RELEASED.transformer.weights.num_parameters * 4
    assert plan_of(plans, "text encoder released").device_bytes > weights


def test_whole_on_the_second_gpu_is_better_than_parts_on_the_first() -> None:
    busy = replace(card(80), free_bytes=20 * GIB)
    free = replace(card(80), name="cuda:1")
    both = replace(machine(None, 64), devices=(free, busy))
    chosen = choose(plans_for(RELEASED, both))
    assert (chosen.device, chosen.way) == ("cuda:1", "whole")
    assert choose(plans_for(RELEASED, both), "cuda:0").way == "blocks offloaded"


def test_asked_device_is_kept_or_refused() -> None:
    plans = plans_for(RELEASED, machine(card(80), 64))
    assert choose(plans, "cpu").device == "cpu"
    assert choose(plans, "cuda").device == "cuda:0"
    with pytest.raises(UserError, match="no device 'cuda:7' here; use auto or one of: cuda:0, cpu"):
        choose(plans, "cuda:7")


@pytest.mark.parametrize(("host_gib", "waiting"), [(32, "cpu"), (8, "meta")])
def test_offloaded_blocks_wait_where_the_plan_says(host_gib: float, waiting: str) -> None:
    plan = replace(choose(plans_for(RELEASED, machine(card(24), host_gib))), resident_blocks=3)
    names = ("blocks.2.attn1.to_q.weight", "blocks.3.norm2.bias", "proj_out.bias")
    assert [plan.place(name).type for name in names] == ["cuda", waiting, "cuda"]


def test_larger_pictures_never_need_less(written: Path) -> None:
    needs = [replace(RELEASED, work=Workload(side, side)) for side in (192, 384, 768)]
    taken = [[plan.device_bytes + plan.host_bytes for plan in plans_for(n, machine(card(80), 500))] for n in needs]
    assert all(a <= b for small, big in pairwise(taken) for a, b in zip(small, big, strict=True))


def test_every_plan_says_what_it_means() -> None:
    plans = plans_for(RELEASED, machine(card(24), 32))
    assert {plan.way for plan in plans} == set(WAYS)
    assert all(plan.reasons[0] == WAYS[plan.way] and plan.reasons[1] for plan in plans)
    assert all(bool(plan.obstacle) != plan.fits for plan in plans)


def test_driver_is_asked_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        device_count=lambda: 2,
        mem_get_info=lambda index: ((10 + index) * GIB, 24 * GIB),
        get_device_capability=lambda index: (7 + index, 5),
        get_device_name=lambda index: f"card {index}",
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    devices = this_machine(Path.cwd()).devices
    assert [(d.name, d.label, d.free_bytes, d.has_bf16) for d in devices] == [
        ("cuda:1", "card 1", 11 * GIB, True),
        ("cuda:0", "card 0", 10 * GIB, False),
    ]


def test_parts_without_blocks_are_never_streamed() -> None:
    part = replace(RELEASED.transformer, blocks=Weights(0), largest_block=Weights(0), num_blocks=0)
    needs: ModelNeeds = replace(RELEASED, transformer=part)
    assert not any("blocks" in plan.way for plan in plans_for(needs, machine(card(8), 64)))
