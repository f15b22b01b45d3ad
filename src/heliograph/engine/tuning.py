"""The transformer as this machine runs it fastest: loaded the way of the plan, and then what `SpeedConfig` says."""

import logging
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import torch

from heliograph.checkpoint import ModelFolder, load_transformer
from heliograph.config import Runner, SpeedConfig
from heliograph.engine.attention import ROUNDED_KERNELS, choose_attention, set_attention
from heliograph.engine.graphs import GraphedTransformer, capture_on_gpu, pays_on_gpu
from heliograph.engine.machine import count_cores
from heliograph.engine.offload import offload_blocks
from heliograph.engine.plan import Plan
from heliograph.engine.quantise import load_rounded_transformer, round_matrices
from heliograph.errors import UserError
from heliograph.model.attention import SelfAttention
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.model.float8 import spared_blocks, to_float8
from heliograph.model.lean import LeanBlocks
from heliograph.model.openvino import OpenVinoBlocks, has_openvino
from heliograph.model.packing import pack
from heliograph.model.transformer import HeliosTransformer3DModel

logger = logging.getLogger(__name__)

STREAMED = ("blocks offloaded", "blocks on disk")
"""Ways of running whose blocks come and go."""


def resolved(speed: SpeedConfig, plan: Plan) -> SpeedConfig:
    """The same with every switch that was left to the mode on or off.

    Fast mode takes what is faster where the plan runs: products in 8-bit floating point where tensor cores know the
    format (compute capability 8.9) and all weights stay, 8-bit attention where a kernel for the device is installed,
    and on a GPU the history's keys and values through a level's steps. On a CPU it takes nothing: what keeps rows
    cannot take the loop that is made for CPUs, and needs half as much time again (docs/log.md).
    """
    is_fast, device = speed.mode == "fast", torch.device(plan.device)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    chosen = {
        "fp8": is_fast and (capability or (0, 0)) >= (8, 9) and plan.way not in (*STREAMED, "int8 weights"),
        "history_reuse": "level" if is_fast and capability is not None else "off",
        "attention8": is_fast and speed.attention == "auto" and capability is not None and _has_rounded(capability),
    }
    return replace(speed, **{name: value for name, value in chosen.items() if getattr(speed, name) is None})


def _has_rounded(capability: tuple[int, int]) -> bool:
    """Whether a package is installed that has 8-bit attention for devices of this compute capability."""
    return any(kernel.least <= capability and find_spec(kernel.package or "torch") for kernel in ROUNDED_KERNELS)


def tried(speed: SpeedConfig, plan: Plan) -> SpeedConfig:
    """`resolved`, but without 8-bit attention that only the mode asks for and that does not work; a warning says why.

    What a user asks for by name is kept, and fails where it is set up.
    """
    chosen = resolved(speed, plan)
    if speed.attention8 is not None or not chosen.attention8:
        return chosen
    try:
        choose_attention("auto", torch.device(plan.device), plan.dtype, is_rounded=True)
    except UserError as error:
        logger.warning("attention stays exact in fast mode: %s", error)
        return replace(chosen, attention8=False)
    return chosen


def choose_runner(asked: Runner, plan: Plan, speed: SpeedConfig) -> Runner:
    """How the transformer's kernels are launched: "auto" records graphs on a GPU, and keeps those that are faster.

    Recordings need weights that stay where they are: none where blocks come and go. On a CPU "auto" never takes
    "openvino", which is faster and has to be prepared for seconds in every process: `heliograph doctor` measures from
    what length on it pays.

    Raises:
        UserError: a runner was asked for that cannot be used with this plan, or that is not installed.
    """
    is_gpu = torch.device(plan.device).type == "cuda"
    can_record = is_gpu and plan.way not in STREAMED
    if asked == "graph" and not can_record:
        raise UserError("--runner graph needs a CUDA device that holds the whole transformer; use eager")
    if asked == "compile" and plan.way in STREAMED:
        raise UserError(f"--runner compile is not possible with {plan.way!r}; use eager")
    if asked == "openvino":
        _check_openvino(plan, speed)
    return asked if asked != "auto" else "graph" if can_record else "eager"


def _check_openvino(plan: Plan, speed: SpeedConfig) -> None:
    if torch.device(plan.device).type != "cpu" or plan.way in (*STREAMED, "int8 weights"):
        raise UserError(f"--runner openvino runs a whole model on a CPU, not {plan.device!r}, {plan.way!r}; use auto")
    if speed.fp8 or (speed.history_reuse or "off") != "off":
        raise UserError("--runner openvino computes exactly; leave out --fp8, --history-reuse and --mode fast")
    if not has_openvino():
        raise UserError("--runner openvino needs the package openvino; pip install 'heliograph[openvino]'")


def tuned_denoiser(transformer: HeliosTransformer3DModel, plan: Plan, speed: SpeedConfig) -> TransformerDenoiser:
    """The denoiser over a tuned transformer, with the runner that was chosen."""
    denoiser = TransformerDenoiser(transformer, torch.device(plan.device), speed.history_reuse or "off")
    runner = choose_runner(speed.runner, plan, speed)
    if runner == "graph":
        denoiser.run = GraphedTransformer(transformer, capture_on_gpu(), pays_on_gpu)
    elif runner == "compile":
        transformer.compile_repeated_blocks()
    elif runner == "openvino":
        transformer.lean = OpenVinoBlocks(transformer.blocks)
    return denoiser


def tuned_transformer(folder: ModelFolder, plan: Plan, speed: SpeedConfig) -> HeliosTransformer3DModel:
    """Load the transformer and make it fast.

    Raises:
        CheckpointError: the weights are missing, damaged or not the model's.
        UserError: what `speed` asks for is not possible here; says why.
    """
    if speed.fp8 and (plan.way in STREAMED or plan.way == "int8 weights"):
        raise UserError(f"fp8 is not possible with {plan.way!r}; leave out --fp8, or use a smaller model")
    if speed.fp8:
        spared = spared_blocks(int(folder.transformer_config.get("num_layers", 40)))
        transformer = load_rounded_transformer(
            folder, plan, lambda index, block: None if index in spared else to_float8(block)
        )
    elif plan.way == "int8 weights":
        transformer = load_rounded_transformer(folder, plan, lambda _, block: round_matrices(block))
    else:
        transformer = load_transformer(folder, plan.dtype, plan.place)
    if plan.way in STREAMED:
        offload_blocks(transformer, folder, plan)
    tune(transformer, plan, speed)
    return transformer


def tune(transformer: HeliosTransformer3DModel, plan: Plan, speed: SpeedConfig) -> None:
    """Make a loaded transformer fast on the device of the plan, without changing what it computes.

    Raises:
        UserError: the attention kernel that is asked for cannot be used here.
    """
    device = torch.device(plan.device)
    if plan.way not in STREAMED and packs(device):
        pack_products(transformer)
    elif plan.way not in STREAMED and device.type == "cpu" and not speed.fp8:
        transformer.run_lean()
    set_attention(transformer, choose_attention(speed.attention, device, plan.dtype, is_rounded=bool(speed.attention8)))


def approximate(transformer: HeliosTransformer3DModel, plan: Plan, speed: SpeedConfig) -> None:
    """Bring a loaded transformer to 8 bits where `speed` says so.

    Raises:
        CheckpointError: a layer has an adapter.
        UserError: there is no 8-bit attention here.
    """
    if speed.fp8:
        transformer.lean = None
        spared = spared_blocks(len(transformer.blocks))
        for index, block in enumerate(transformer.blocks):
            if index not in spared:
                to_float8(block)
    if speed.attention8:
        name = choose_attention("auto", torch.device(plan.device), plan.dtype, is_rounded=True)
        set_attention(transformer, name)


def packs(device: torch.device) -> bool:
    """Whether one product for queries, keys and values pays: on a GPU, whose units a single one leaves idle.

    On a CPU it changes the last bit and gains nothing.
    """
    return device.type == "cuda"


def pack_products(transformer: HeliosTransformer3DModel) -> None:
    """Lay the weights for queries, keys and values of every block side by side."""
    for module in transformer.modules():
        if isinstance(module, SelfAttention) and module.to_qkv is None:
            pack([module.to_q, module.to_k, module.to_v])


def device_for_vae(name: str | None, device: torch.device) -> torch.device:
    """Where the autoencoder goes: the device of this name, or the model's.

    Raises:
        UserError: there is no such device.
    """
    if name is None:
        return device
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here for the autoencoder; use for example cuda:1") from error
    return chosen


def guidance_thread(transformer: HeliosTransformer3DModel) -> Executor | None:
    """Makes one branch of guidance beside the other, with the same bits, on a core that would have nothing to do.

    None where there is no other core, where a pass has several threads by itself, and where the blocks are not ours
    (a graph of the library has memory for one pass at a time). For small models on a CPU, tuned before.
    """
    if not (isinstance(transformer.lean, LeanBlocks) and count_cores() > 1 and torch.get_num_threads() == 1):
        return None
    # Asking a thread for its number of threads is what gives it the one that is set.
    return ThreadPoolExecutor(1, "heliograph-guidance", initializer=torch.get_num_threads)
