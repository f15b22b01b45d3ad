"""Model folders: found by name, checked without reading a weight, loaded one tensor at a time.

A folder has the layout of the released checkpoints: `model_index.json` beside one folder for each component. Loading
is strict (every tensor must be there under its name in its shape) and bounded: the weights in the dtype they run in,
and the pages of one shard.
"""

from heliograph.checkpoint.addition import Addition, digest_additions, low_rank_product
from heliograph.checkpoint.components import (
    load_fast_vae,
    load_linear_vae,
    load_text_encoder,
    load_transformer,
    load_vae,
)
from heliograph.checkpoint.find import (
    PARTS,
    RELEASED,
    TINY,
    default_cache,
    find_local,
    find_model,
    open_model,
    write_once,
)
from heliograph.checkpoint.folder import (
    INDEX_FILE,
    PIPELINES,
    RANDOM_MARK,
    Component,
    ModelFolder,
    ModelIndex,
    read_folder,
    read_json,
    set_usual_permissions,
)
from heliograph.checkpoint.lora import adapted, adapted_table
from heliograph.checkpoint.native import (
    NATIVE_FILE,
    RELEASED_SIZE,
    STRIDE_KEY,
    latent_stride,
    native_memory,
    native_sampler,
    native_size,
    native_values,
)
from heliograph.checkpoint.tensors import DTYPES, WEIGHT_FILES, TensorInfo, check_tensors, tensor_table
from heliograph.checkpoint.weights import FP32_COMPONENTS, Place, fill_module, load_weights

__all__ = [
    "DTYPES",
    "FP32_COMPONENTS",
    "INDEX_FILE",
    "NATIVE_FILE",
    "PARTS",
    "PIPELINES",
    "RANDOM_MARK",
    "RELEASED",
    "RELEASED_SIZE",
    "STRIDE_KEY",
    "TINY",
    "WEIGHT_FILES",
    "Addition",
    "Component",
    "ModelFolder",
    "ModelIndex",
    "Place",
    "TensorInfo",
    "adapted",
    "adapted_table",
    "check_tensors",
    "default_cache",
    "digest_additions",
    "fill_module",
    "find_local",
    "find_model",
    "latent_stride",
    "load_fast_vae",
    "load_linear_vae",
    "load_text_encoder",
    "load_transformer",
    "load_vae",
    "load_weights",
    "low_rank_product",
    "native_memory",
    "native_sampler",
    "native_size",
    "native_values",
    "open_model",
    "read_folder",
    "read_json",
    "set_usual_permissions",
    "tensor_table",
    "write_once",
]
