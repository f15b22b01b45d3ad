"""Blocks that do not fit on the device wait in host memory or stay on disk, and come when their turn is.

The moving is accelerate's: hooks around each block's `forward`. A block on disk is read from the checkpoint's own
safetensors files, so nothing is copied there first.
"""

from typing import Any

import torch
from accelerate import dispatch_model

from heliograph.checkpoint import FP32_COMPONENTS, ModelFolder, tensor_table
from heliograph.engine.placement import Plan
from heliograph.model.transformer import HeliosTransformer3DModel


def offload_blocks(transformer: HeliosTransformer3DModel, folder: ModelFolder, plan: Plan) -> None:
    """Hook the blocks after the first `plan.resident_blocks` so that each is on the device only while it runs."""
    on_disk = plan.way == "blocks on disk"
    waiting = "disk" if on_disk else "cpu"
    places: dict[str, str | int | torch.device] = {
        name: plan.device for name, _ in transformer.named_children() if name != "blocks"
    }
    for index in range(len(transformer.blocks)):
        places[f"blocks.{index}"] = plan.device if index < plan.resident_blocks else waiting
    dispatch_model(
        transformer,
        places,
        main_device=plan.device,  # pyright: ignore[reportArgumentType] - safetensors needs a name, the hint is too narrow
        # A block reads norms and modulation tables outside its layers' own calls, so it comes whole.
        preload_module_classes=["TransformerBlock"],
        offload_index=_disk_index(folder, plan.dtype) if on_disk else None,
        force_hooks=True,
    )


def _disk_index(folder: ModelFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Where each tensor is stored, and the dtype it is used in, as accelerate wants it."""

    def used(name: str) -> torch.dtype:
        return torch.float32 if FP32_COMPONENTS & set(name.split(".")) else dtype

    return {
        name: {
            "safetensors_file": str(info.file),
            "weight_name": name,
            "dtype": str(used(name)).removeprefix("torch."),
        }
        for name, info in tensor_table(folder.part("transformer")).items()
    }
