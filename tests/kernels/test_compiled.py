"""Fused kernels compile for a Hopper GPU, and read and write 16 bytes a thread; no GPU is needed for that."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, re
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from heliograph.kernels import decoder, fused, fused_eight_bit

HALF, WIDE, SMALL = "*bf16", "*fp32", "*fp8e4nv"
LENGTHS = "num_tokens dim row_stride rows_of_sample rows_of_stretch channels stride width count".split()
SLICES = {"SLICES": 5, "BLOCK": 1024}
TILES = {"CELLS": 32, "BLOCK": 128}
EIGHT = fused_eight_bit
KERNELS = (
    (fused._modulate_kernel, [HALF, WIDE, WIDE, HALF, *["i32"] * 5, "fp32", "fp32"], SLICES, 4),
    (fused._add_gated_kernel, [HALF, HALF, WIDE, HALF, *["i32"] * 5], {"BLOCK": 8192}, 8),
    (fused._norm_rotate_kernel, [HALF, HALF, WIDE, WIDE, HALF, *["i32"] * 3, "fp32"], {"HALF": 64, **SLICES}, 4),
    (EIGHT._quantise_kernel, [HALF, SMALL, WIDE, "i32", "fp32", "fp32"], {"HAS_GELU": True, "BLOCK": 16384}, 16),
    (EIGHT._modulate_quantise_kernel, [HALF, WIDE, WIDE, SMALL, WIDE, *["i32"] * 5, *["fp32"] * 3], SLICES, 4),
    (EIGHT._largest_kernel, [HALF, WIDE, "i32", "i32"], {"BLOCK": 8192}, 8),
    (EIGHT._quantise_heads_kernel, [HALF, WIDE, SMALL, *["i32"] * 5, "fp32"], {"BLOCK": 1024}, 4),
    (EIGHT._widen_heads_kernel, [SMALL, WIDE, HALF, "i32"], {"BLOCK": 1024}, 4),
    (decoder._norm_silu_kernel, [*["*fp16"] * 4, *["i32"] * 4, "fp32"], {"HAS_BIAS": True, **TILES}, 4),
    (decoder._add_bias_kernel, [*["*fp16"] * 4, "i32", "i32"], {"HAS_OTHER": True, **TILES}, 4),
    (decoder._enlarge_kernel, [*["*fp16"] * 2, *["i32"] * 4], TILES, 4),
)
for kernel, kinds, fixed, warps in KERNELS:
    given = dict(zip((name for name in kernel.arg_names if name not in fixed), kinds, strict=True))
    signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
    # What the launcher says of pointers and of sizes that are multiples of 16, as those of the models are.
    known = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names)
             if name in given and (given[name].startswith("*") or name in LENGTHS)}
    values = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(kernel, signature, values, known)
    code = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm["ptx"]
    moves = re.findall(r"(?:ld|st)[.]global[.](?:v(\\d)[.])?b(\\d+)", code)
    print(json.dumps([kernel.fn.__name__, sorted({int(count or 1) * int(bits) // 8 for count, bits in moves})]))
"""


@pytest.fixture(scope="module")
def bytes_moved() -> dict[str, list[int]]:
    """How many bytes a thread of each kernel reads or writes at once."""
    if sys.platform != "linux":
        pytest.skip("Triton is there for Linux only")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_every_kernel_reads_16_bytes_at_once(bytes_moved: dict[str, list[int]]) -> None:
    assert len(bytes_moved) == 11
    widest = {name: max(sizes) for name, sizes in bytes_moved.items()}
    assert widest == dict.fromkeys(bytes_moved, 16)


def test_rows_of_half_precision_are_never_read_number_by_number(bytes_moved: dict[str, list[int]]) -> None:
    # Of the decoder's kernels the 96 numbers of a bias are, once for many cells.
    by_number = {name for name, sizes in bytes_moved.items() if 2 in sizes}
    assert by_number <= {"_norm_silu_kernel", "_add_bias_kernel"}
