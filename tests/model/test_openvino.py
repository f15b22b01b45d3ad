"""The blocks as one compiled graph: the same velocity as the plain blocks, no less exact, for every configuration."""

import copy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heliograph.kernels.onednn import has_fast_bfloat16
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.openvino import OpenVinoBlocks
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import random_history, relative_error, small_transformer, wave

pytest.importorskip("openvino", reason="an optional extra")

ROOT = Path(__file__).parents[2]

TEXT, OTHER_TEXT = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
X = wave((1, 16, 9, 4, 4), 0.3)


class Asking:
    """A transformer, and what it is asked: with memos that are kept, as in sampling."""

    def __init__(self, transformer: HeliosTransformer3DModel) -> None:
        self.denoiser = TransformerDenoiser(transformer)
        self.context = self.denoiser.context(random_history(seed=0).tiers(9))

    def __call__(self, x: Tensor = X, text: Tensor = TEXT, timestep: float = 500.0) -> Tensor:
        """Velocity after a history."""
        with torch.no_grad():
            return self.denoiser(x, timestep, Condition(self.denoiser.prompt(text), self.context))


def compiled(transformer: HeliosTransformer3DModel) -> HeliosTransformer3DModel:
    """A copy that runs as compiled graphs."""
    other = copy.deepcopy(transformer)
    other.lean = OpenVinoBlocks(other.blocks)
    return other


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_cross_attn": False},
        {"cross_attn_norm": False},
        {"is_amplify_history": True},
        {"is_amplify_history": True, "history_scale_mode": "scalar"},
        {"zero_history_timestep": False},
    ],
    ids=["released", "history-reads-text", "no-text-norm", "amplified", "amplified-at-once", "history-as-noisy"],
)
def test_compiled_graphs_give_the_velocity_of_the_plain_blocks(options: dict[str, object]) -> None:
    plain = small_transformer(**options)
    ours, theirs = Asking(compiled(plain)), Asking(plain)
    for x, text, timestep in ((X, TEXT, 500.0), (X, OTHER_TEXT, 30.0), (X[..., :2, :2], TEXT, 990.0)):
        assert relative_error(ours(x, text, timestep), theirs(x, text, timestep)) < 2e-6


def test_a_batch_of_two_prompts_over_one_history_is_what_each_gives_alone() -> None:
    plain = small_transformer()
    ours = Asking(compiled(plain))
    both = ours(X.expand(2, -1, -1, -1, -1), torch.cat([TEXT, OTHER_TEXT]))
    assert relative_error(both, torch.cat([Asking(plain)(X, TEXT), Asking(plain)(X, OTHER_TEXT)])) < 2e-6


def test_a_model_without_memory_is_compiled_too() -> None:
    plain = small_transformer()
    with torch.no_grad():
        assert relative_error(compiled(plain)(X, 500.0, TEXT), plain(X, 500.0, TEXT)) < 2e-6


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor does not multiply bfloat16")
def test_in_bfloat16_graphs_are_no_further_from_float32_than_plain_blocks() -> None:
    exact = small_transformer()
    low = copy.deepcopy(exact)
    for name, parameter in low.named_parameters():
        if not {"time_embedder", "scale_shift_table", "norm2"} & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    ours, theirs, wanted = Asking(compiled(low)), Asking(low), Asking(exact)
    for timestep in (950.0, 500.0, 50.0):
        want = wanted(timestep=timestep)
        assert relative_error(ours(timestep=timestep), want) < relative_error(theirs(timestep=timestep), want)


def test_a_graph_is_compiled_once_for_each_size_and_no_more() -> None:
    asking = Asking(compiled(small_transformer()))
    for _ in range(2):
        for x in (X, X[..., :2, :2]):
            asking(x, OTHER_TEXT)
    assert isinstance(asking.denoiser.transformer.lean, OpenVinoBlocks)
    assert len(asking.denoiser.transformer.lean._compiled) == 2


def test_threads_that_ask_at_once_get_their_own_answers() -> None:
    ours = Asking(compiled(small_transformer()))
    wanted = {timestep: ours(timestep=timestep) for timestep in (100.0, 400.0, 700.0)}
    wrong: list[float] = []

    def ask(timestep: float) -> None:
        # PyTorch tells a new thread how many it may compute with when it is first asked; until then sums of its first
        # product may be added in another order. A session asks long before it comes to the network.
        torch.get_num_threads()
        for _ in range(20):
            if not torch.equal(ours(timestep=timestep), wanted[timestep]):
                wrong.append(timestep)

    threads = [threading.Thread(target=ask, args=(timestep,)) for timestep in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_signal_after_a_graph_has_run_is_handled_and_kills_nobody() -> None:
    # In a process of its own: the library's stack for handlers is too small, and what dies of it is the whole process.
    script = """
import signal, torch
from tests.model.test_openvino import Asking, compiled
from tests.small import small_transformer
asking, heard = Asking(compiled(small_transformer())), []
asking()
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGTERM)
asking()
signal.raise_signal(signal.SIGTERM)
print("heard", len(heard))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "heard 2"), done.stderr
