"""The result of a phase as a model folder: adapters folded in, everything beside the transformer as it was.

The folder has the layout of the released checkpoints; heliograph and diffusers load it, and the next phase starts from
it. What was trained is stored once more by itself in `trained/`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor, nn

from heliograph.checkpoint import INDEX_FILE, NATIVE_FILE, RANDOM_MARK, read_json, set_usual_permissions
from heliograph.config import MemoryConfig, ScheduleConfig
from heliograph.errors import OutputError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import SAMPLERS
from heliograph.train.lora import merged_tensors, partial_tensors
from heliograph.train.parallel import Parallel

Kind = Literal["base", "mid", "distilled"]
"""Which of the released models a result is like: one level; a pyramid with guidance; a pyramid in few steps."""

WEIGHTS = "diffusion_pytorch_model"
MAX_SHARD_BYTES = 5 * 10**9
ADAPTER_FILE, PARTIAL_FILE = "pytorch_lora_weights.safetensors", "transformer_partial.safetensors"
TRAINED_FOLDER = "trained"


@dataclass(frozen=True)
class Result:
    """What a phase made: the student, the name of its adapter, and the text encoder if that was trained too.

    `kind` decides pipeline class and scheduler; `size` is the height and width it was trained at, `memory` what it was
    trained to remember.
    """

    network: HeliosTransformer3DModel
    adapter: str | None
    kind: Kind
    size: tuple[int, int]
    memory: MemoryConfig
    text_encoder: nn.Module | None = None


def export_model(folder: Path, result: Result, base: Path, parallel: Parallel) -> None:
    """Write the result as the model `folder`, whole or not at all; every process calls this.

    Args:
        base: the model folder that autoencoder, text encoder and tokenizer come from (linked where possible).

    Raises:
        OutputError: the disk is full or fails.
    """
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) if parallel.is_first else None
    try:
        _write_network(draft, result)
        if draft is not None:
            _write_rest(draft, result, base)
            _put_in_place(draft, folder)
    except OSError as error:
        raise OutputError(f"the model {folder} could not be written ({error}); free space and resume") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    parallel.wait()


def scheduler_config(kind: Kind) -> dict[str, Any]:
    """`scheduler_config.json` of a released model of this kind."""
    schedule = SAMPLERS[kind].schedule
    is_few_step = schedule.solver == "few_step"
    return {
        "_class_name": "HeliosDMDScheduler" if is_few_step else "HeliosScheduler",
        "_diffusers_version": metadata.version("diffusers"),
        "scheduler_type": "dmd" if is_few_step else schedule.solver,
        "stages": schedule.num_levels,
        "stage_range": list(schedule.borders),
        "use_dynamic_shifting": schedule.time_shift != "constant",
        "time_shift_type": schedule.time_shift,
        **_common(schedule),
    }


def pipeline_index(kind: Kind, base: Mapping[str, Any]) -> dict[str, Any]:
    """`model_index.json` of a released model of this kind; components as in `base`, ours in their place."""
    components = {key: value for key, value in base.items() if isinstance(value, list)}
    wanted = {key: components[key] for key in ("text_encoder", "tokenizer", "vae") if key in components}
    switches: dict[Kind, dict[str, Any]] = {
        "base": {"_class_name": "HeliosPipeline"},
        "mid": {"_class_name": "HeliosPyramidPipeline", "is_cfg_zero_star": True, "is_distilled": False},
        "distilled": {"_class_name": "HeliosPyramidPipeline", "is_cfg_zero_star": False, "is_distilled": True},
    }
    return {
        **switches[kind],
        "_diffusers_version": metadata.version("diffusers"),
        **wanted,
        "scheduler": ["diffusers", scheduler_config(kind)["_class_name"]],
        "transformer": ["diffusers", "HeliosTransformer3DModel"],
    }


def _common(schedule: ScheduleConfig) -> dict[str, Any]:
    """Keys that all released schedulers share."""
    return {
        "gamma": schedule.gamma,
        "num_train_timesteps": schedule.num_train_timesteps,
        "shift": schedule.shift,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        "thresholding": False,
    }


def _write_network(draft: Path | None, result: Result) -> None:
    """Weights in files of at most 5 GB, gathered tensor by tensor; only the process with a `draft` writes."""
    names: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = held = 0
    for name, tensor in merged_tensors(result.network, result.adapter):
        if draft is None:
            continue  # it took part in gathering
        if shard and held + tensor.nbytes > MAX_SHARD_BYTES:
            names |= _write_shard(draft, shard, len(set(names.values())) + 1)
            shard, held = {}, 0
        shard[name] = tensor.cpu().contiguous()
        held += tensor.nbytes
        total += tensor.nbytes
    adapter, others = partial_tensors(result.network, result.adapter)
    if draft is None:
        return
    names |= _write_shard(draft, shard, len(set(names.values())) + 1)
    _name_shards(draft / "transformer", names, total)
    result.network.save_config(draft / "transformer")
    if not adapter:
        return  # all of it was trained, and is in the transformer
    (draft / TRAINED_FOLDER).mkdir()
    save_file(adapter, draft / TRAINED_FOLDER / ADAPTER_FILE, metadata={"format": "pt"})
    if others:
        save_file(others, draft / TRAINED_FOLDER / PARTIAL_FILE, metadata={"format": "pt"})


def _write_shard(draft: Path, shard: dict[str, Tensor], number: int) -> dict[str, str]:
    """Store one file; returns which tensor is in which file."""
    file = draft / "transformer" / f"{WEIGHTS}-{number:05}.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file(shard, file, metadata={"format": "pt"})
    return dict.fromkeys(shard, file.name)


def _name_shards(folder: Path, names: Mapping[str, str], total: int) -> None:
    """Give the files the names that the libraries look for, and write the index where there are several."""
    files = sorted(set(names.values()))
    if len(files) == 1:
        (folder / files[0]).rename(folder / f"{WEIGHTS}.safetensors")
        return
    final = {file: f"{WEIGHTS}-{number:05}-of-{len(files):05}.safetensors" for number, file in enumerate(files, 1)}
    for file, name in final.items():
        (folder / file).rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {key: final[file] for key, file in names.items()}}
    _write_json(folder / f"{WEIGHTS}.safetensors.index.json", index)


def _write_rest(draft: Path, result: Result, base: Path) -> None:
    """Everything beside the transformer."""
    index = pipeline_index(result.kind, read_json(base / INDEX_FILE))
    for part in ("text_encoder", "tokenizer", "vae"):
        if part in index:
            shutil.copytree(base / part, draft / part, copy_function=_link_or_copy)
    if result.text_encoder is not None:
        shutil.rmtree(draft / "text_encoder")
        _write_text_encoder(draft / "text_encoder", base / "text_encoder", result.text_encoder)
    _write_json(draft / "scheduler" / "scheduler_config.json", scheduler_config(result.kind))
    native: dict[str, Any] = {"height": result.size[0], "width": result.size[1]}
    if result.memory != MemoryConfig():
        native["memory"] = asdict(result.memory)
    _write_json(draft / NATIVE_FILE, native)
    _write_json(draft / INDEX_FILE, index)
    (draft / RANDOM_MARK).unlink(missing_ok=True)


def _write_text_encoder(folder: Path, base: Path, encoder: nn.Module) -> None:
    """The trained text encoder under the configuration it had; its embedding is stored once, as `shared`."""
    folder.mkdir()
    shutil.copy(base / "config.json", folder / "config.json")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    state.pop("encoder.embed_tokens.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the same file where the disk allows it: an encoder can have many gigabytes."""
    try:
        os.link(Path(source).resolve(), target)  # hub folders hold links themselves
    except OSError:
        shutil.copy2(source, target)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Give the finished folder its name; what was there before goes."""
    set_usual_permissions(draft)
    old = draft.with_name(f"{draft.name}-old")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
