"""The drop-in for the Helios pipelines of diffusers: loading, calling, and what is broken there but not here.

That runs give the same latents as diffusers is in `parity/test_run_parity.py`.
"""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import jaxtyping
import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

import heliograph.diffusers
import heliograph.sample
from heliograph.config import Guidance, MemoryConfig, SamplerConfig
from heliograph.diffusers.codec import make_codec
from heliograph.diffusers.conditioning import StartInput, StartReader
from heliograph.errors import CheckpointError, UserError
from heliograph.memory import History
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import BASE
from heliograph.rollout import next_turn
from heliograph.sample import Branches
from heliograph.seeds import GeneratorSeeds
from heliograph.tiny import TinySizes, write_random_tiny
from tests.pipelines import TEXT_LENGTH, Pair, clip, picture, small_call, small_parts
from tests.small import relative_error

SIZES = TinySizes(head_dim=12, rope_dim=(4, 4, 4), ffn_dim=32, max_text_tokens=TEXT_LENGTH)
CLASSES = ("HeliosPipeline", "HeliosPyramidPipeline")
CLASS_OF = {"base": "HeliosPipeline", "mid": "HeliosPyramidPipeline", "distilled": "HeliosPyramidPipeline"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each variant on disk; do not write into them."""
    root = tmp_path_factory.mktemp("variants")
    for variant in CLASS_OF:
        write_random_tiny(root / variant, sizes=SIZES, variant=variant)
    return {variant: root / variant for variant in CLASS_OF}


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    """A pair of each variant, which no test changes."""
    return {variant: Pair(variant) for variant in CLASS_OF}


@pytest.fixture(scope="module")
def base(pairs: dict[str, Pair]) -> Any:
    return pairs["base"].ours


@pytest.fixture(scope="module")
def distilled(pairs: dict[str, Pair]) -> Any:
    return pairs["distilled"].ours


def latents(pipeline: Any, variant: str, seed: int = 0, **call: Any) -> Tensor:
    """Latents of a call of one chunk."""
    options = {**small_call(variant), "num_frames": 33, "generator": torch.Generator().manual_seed(seed), **call}
    return pipeline(**options, output_type="latent").frames


def quiet(pipeline: Any) -> Any:
    """The pipeline without progress bars."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load(library: Any, variant: str, folder: Path, **options: Any) -> Any:
    """A folder in the class of its variant, of either library."""
    return quiet(getattr(library, CLASS_OF[variant]).from_pretrained(folder, **options))


# Names


@pytest.mark.parametrize("method", ["__init__", "__call__"])
@pytest.mark.parametrize("name", CLASSES)
def test_keywords_and_defaults_are_those_of_diffusers(name: str, method: str) -> None:
    def words(library: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(getattr(getattr(library, name), method)).parameters
        return [(word, p.default) for word, p in parameters.items()]

    assert words(heliograph.diffusers) == words(diffusers)


# Loading and saving


@pytest.mark.parametrize("variant", CLASS_OF)
def test_a_folder_loads_with_our_transformer(folders: dict[str, Path], variant: str) -> None:
    ours, theirs = (load(library, variant, folders[variant]) for library in (heliograph.diffusers, diffusers))
    assert type(ours.transformer) is HeliosTransformer3DModel
    want = theirs.transformer.state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in ours.transformer.state_dict().items())
    assert dict(ours.config) == dict(theirs.config)
    assert ours.components.keys() == theirs.components.keys()


def test_a_low_precision_load_keeps_float32_where_diffusers_does(folders: dict[str, Path]) -> None:
    vae = diffusers.AutoModel.from_pretrained(str(folders["mid"]), subfolder="vae", torch_dtype=torch.float32)
    ours, theirs = (
        load(library, "mid", folders["mid"], vae=vae, torch_dtype=torch.bfloat16)
        for library in (heliograph.diffusers, diffusers)
    )
    want = {name: tensor.dtype for name, tensor in theirs.transformer.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in ours.transformer.state_dict().items()} == want
    assert {torch.bfloat16, torch.float32} == set(want.values())
    assert ours.transformer.dtype == theirs.transformer.dtype == torch.bfloat16
    assert ours.vae is vae
    assert ours.vae.dtype == torch.float32


@pytest.mark.parametrize("variant", CLASS_OF)
def test_what_one_library_saves_the_other_loads(folders: dict[str, Path], tmp_path: Path, variant: str) -> None:
    libraries = {"ours": heliograph.diffusers, "theirs": diffusers}
    for name, library in libraries.items():
        load(library, variant, folders[variant]).save_pretrained(tmp_path / name)
    indices = [json.loads((tmp_path / name / "model_index.json").read_text()) for name in libraries]
    for index in indices:
        index.pop("_name_or_path", None)
    assert indices[0] == indices[1]
    assert indices[0]["transformer"] == ["diffusers", "HeliosTransformer3DModel"]
    want = load(diffusers, variant, folders[variant]).transformer.state_dict()
    crossed = [load(diffusers, variant, tmp_path / "ours"), load(heliograph.diffusers, variant, tmp_path / "theirs")]
    for pipeline in crossed:
        got = pipeline.transformer.state_dict()
        assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_the_package_s_own_autoencoder_loads_runs_and_is_saved_under_its_name(
    fast_folder: Path, tmp_path: Path
) -> None:
    pipeline = load(heliograph.diffusers, "distilled", fast_folder)
    pipeline.save_pretrained(tmp_path)
    again = load(heliograph.diffusers, "distilled", tmp_path)
    call = {**small_call("distilled"), "num_frames": 34}
    frames = [p(**call, generator=torch.Generator().manual_seed(0)).frames for p in (pipeline, again)]
    assert frames[0].shape == (1, 65, 64, 64, 3)
    assert np.array_equal(*frames)
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == ["heliograph", "FastAutoencoder"]


def test_a_transformer_of_diffusers_is_taken_over_without_a_copy() -> None:
    parts = small_parts("distilled")
    theirs = parts["transformer"]
    passed = heliograph.diffusers.HeliosPyramidPipeline(**parts)
    assigned = heliograph.diffusers.HeliosPyramidPipeline(**small_parts("distilled"))
    assigned.transformer = theirs
    for pipeline in (passed, assigned):
        assert type(pipeline.transformer) is HeliosTransformer3DModel
        assert not pipeline.transformer.training
        places = {name: tensor.data_ptr() for name, tensor in pipeline.transformer.state_dict().items()}
        assert places == {name: tensor.data_ptr() for name, tensor in theirs.state_dict().items()}
        assert pipeline.config.transformer == ("diffusers", "HeliosTransformer3DModel")


def test_from_pretrained_takes_a_transformer_of_diffusers(folders: dict[str, Path]) -> None:
    theirs = diffusers.HeliosTransformer3DModel.from_pretrained(folders["mid"], subfolder="transformer")
    pipeline = load(heliograph.diffusers, "mid", folders["mid"], transformer=theirs)
    assert type(pipeline.transformer) is HeliosTransformer3DModel
    assert pipeline.transformer.proj_out.weight.data_ptr() == theirs.proj_out.weight.data_ptr()


def test_a_transformer_with_other_tensors_is_refused() -> None:
    parts = small_parts("base")
    parts["transformer"].extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"extra\.bias"):
        heliograph.diffusers.HeliosPipeline(**parts)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_from_pipe_shares_the_parts_of_a_pipeline_of_either_library(pairs: dict[str, Pair], side: str) -> None:
    pipeline = heliograph.diffusers.HeliosPyramidPipeline.from_pipe(getattr(pairs["distilled"], side))
    weights = pairs["distilled"].theirs.transformer.state_dict()
    assert pipeline.vae is pairs["distilled"].theirs.vae
    assert pipeline.config.is_distilled
    assert all(tensor.data_ptr() == weights[n].data_ptr() for n, tensor in pipeline.transformer.state_dict().items())


def test_a_pipeline_without_transformer_encodes_prompts_and_says_what_it_lacks(pairs: dict[str, Pair]) -> None:
    parts = {**pairs["base"].ours.components, "transformer": None}
    ours, theirs = heliograph.diffusers.HeliosPipeline(**parts), diffusers.HeliosPipeline(**parts)
    call = {"prompt": ["a red fish", "blue"], "negative_prompt": "static", "num_videos_per_prompt": 2}
    with torch.no_grad():
        want = theirs.encode_prompt(**call)
    assert all(torch.equal(a, b) for a, b in zip(ours.encode_prompt(**call), want, strict=True))
    with pytest.raises(UserError, match="no transformer"):
        latents(ours, "base")


# The frames that are returned


def both_frames(pair: Pair, **call: Any) -> list[Any]:
    """Frames of a call of ours and of theirs."""
    options = {**small_call(pair.variant), "num_frames": 33, **call}
    return [p(**options, generator=torch.Generator().manual_seed(0)).frames for p in (pair.ours, pair.theirs)]


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_frames_have_the_type_shape_and_values_of_diffusers(pairs: dict[str, Pair], kind: str) -> None:
    ours, theirs = both_frames(pairs["distilled"], output_type=kind, height=128)
    assert type(ours) is type(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    error = abs(ours - theirs)
    assert error.mean() < 1e-5
    assert error.max() < 5e-3  # the random decoder enlarges differences of latents


def test_pictures_of_a_batch_are_those_of_diffusers(pairs: dict[str, Pair]) -> None:
    ours, theirs = both_frames(pairs["distilled"], output_type="pil", prompt=["a red fish", "blue"])
    assert [len(video) for video in ours] == [len(video) for video in theirs] == [33, 33]
    got, want = (np.stack([np.asarray(frame) for video in x for frame in video]) for x in (ours, theirs))
    assert abs(got.astype(int) - want).max() <= 1


def test_frames_of_a_low_precision_autoencoder_are_those_of_diffusers() -> None:
    pair = Pair("distilled")
    pair.ours.vae.to(torch.bfloat16)
    ours, theirs = both_frames(pair, output_type="pt")
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours.float() - theirs.float()).abs().mean() < 1e-2


@pytest.mark.parametrize(
    ("asked", "returned"), [(0, 33), (1, 33), (33, 33), (34, 65), (66, 65), (99, 97), (132, 129), (165, 165)]
)
def test_frame_counts_are_those_of_diffusers(fast_pipeline: Any, asked: int, returned: int) -> None:
    call = {**small_call("distilled"), "num_frames": asked, "pyramid_num_inference_steps_list": [1, 1, 1]}
    assert fast_pipeline(**call).frames.shape[1] == returned


@pytest.fixture(scope="module")
def fast_pipeline(fast_folder: Path) -> Any:
    return load(heliograph.diffusers, "distilled", fast_folder)


def test_without_return_dict_a_tuple_is_returned(base: Any) -> None:
    options = {**small_call("base"), "num_frames": 33, "output_type": "latent"}
    frames = base(**options, return_dict=False, generator=torch.Generator().manual_seed(0))
    assert isinstance(frames, tuple)
    assert torch.equal(frames[0], latents(base, "base"))


# The examples of the diffusers page, with the import line changed


EXAMPLE = """
import torch
from diffusers import AutoModel
from heliograph.diffusers import {name}
from diffusers.utils import load_image

vae = AutoModel.from_pretrained(MODEL, subfolder="vae", torch_dtype=torch.float32)
pipeline = {name}.from_pretrained(
    MODEL,
    vae=vae,
    torch_dtype=torch.bfloat16
)
pipeline.to("cpu")
pipeline.transformer.set_attention_backend("native")
negative_prompt = \"\"\"
static, blurred
\"\"\"
for start in (
    {{}},
    {{"image": load_image(IMAGE).resize((64, 64))}},
    {{"video": load_video(VIDEO)}},
):
    output = pipeline(
        prompt=\"\"\"
A red fish swims
to the left.
\"\"\",
        negative_prompt=negative_prompt,
        height=64,
        width=64,
        num_frames=33,
        generator=torch.Generator("cpu").manual_seed(42),
        **start,
        **CALL,
    ).frames[0]
    export_to_video(output, "output.mp4", fps=24)
"""

CALLS: dict[str, dict[str, Any]] = {
    "base": {"num_inference_steps": 2, "guidance_scale": 5.0},
    "mid": {
        "pyramid_num_inference_steps_list": [3, 1, 1],
        "guidance_scale": 5.0,
        "use_zero_init": True,
        "zero_steps": 1,
    },
    "distilled": {
        "pyramid_num_inference_steps_list": [1, 1, 1],
        "guidance_scale": 1.0,
        "is_amplify_first_chunk": True,
    },
}


@pytest.mark.parametrize("variant", CLASS_OF)
def test_the_examples_of_the_diffusers_page_run(folders: dict[str, Path], tmp_path: Path, variant: str) -> None:
    frames = [PIL.Image.fromarray((f.permute(1, 2, 0).numpy() * 255).astype(np.uint8)) for f in clip(33)[0]]
    frames[0].save(tmp_path / "image.png")
    exported = []
    names = {
        "MODEL": str(folders[variant]),
        "IMAGE": str(tmp_path / "image.png"),
        "VIDEO": "video.mp4",
        # What the library returns; reading and writing files takes packages that are not needed otherwise.
        "load_video": lambda path: frames,
        "CALL": CALLS[variant],
        "export_to_video": lambda frames, path, fps: exported.append(frames),
    }
    exec(EXAMPLE.format(name=CLASS_OF[variant]), names)
    assert len(exported) == 3
    for video in exported:
        assert video.shape == (33, 64, 64, 3)
        assert video.dtype == np.float32
        assert 0 <= video.min() < video.max() <= 1


# Batches, which crash there


def test_several_videos_of_each_prompt_stand_next_to_one_another(base: Any) -> None:
    prompts = ["a red fish", "blue bird flies up"]
    got = latents(base, "base", prompt=prompts, num_videos_per_prompt=2, guidance_scale=3.0)
    repeated = [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert torch.equal(got, latents(base, "base", prompt=repeated, guidance_scale=3.0))
    assert not torch.equal(got[0], got[1])


@pytest.mark.parametrize("start", ["image", "video"])
def test_a_row_of_a_batch_is_the_video_of_its_own_prompt_start_and_generator(base: Any, start: str) -> None:
    given = picture(batch=2) if start == "image" else torch.cat([clip(33), clip(33, seed=5)])
    exact = {"add_noise_to_image_latents": False, "add_noise_to_video_latents": False}
    prompts = ["a red fish", "blue bird flies up"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = latents(base, "base", prompt=prompts, generator=generators, **{start: given}, **exact)
    for row, seed in enumerate((3, 4)):
        single = latents(base, "base", seed, prompt=prompts[row], **{start: given[row : row + 1]}, **exact)
        assert relative_error(both[row : row + 1], single) < 1e-3


@pytest.mark.parametrize("start", ["image", "video"])
def test_one_start_serves_a_whole_batch(distilled: Any, start: str) -> None:
    given = {"image": picture()} if start == "image" else {"video": clip(33)}
    got = latents(distilled, "distilled", prompt=["a red fish", "a red fish"], **given)
    assert got.shape[0] == 2
    assert not torch.equal(got[0], got[1])


# Starts from latents, which crash there


def reader(pipeline: Any, seed: int = 0) -> StartReader:
    """Reads starts for one video of 64×64 pixels."""
    seeds = GeneratorSeeds(torch.Generator().manual_seed(seed), "cpu")
    codec = make_codec(pipeline.vae, torch.device("cpu"), 9)
    return StartReader(codec, pipeline.video_processor, seeds, 1, 64, 64, 9)


def test_latents_of_an_image_start_the_video_as_the_decoded_image_would(distilled: Any) -> None:
    anchor = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    start = reader(distilled).read(StartInput(image_latents=anchor))
    codec, generator = reader(distilled).codec, torch.Generator().manual_seed(0)
    assert start is not None
    assert torch.equal(start.anchor, anchor)
    assert torch.equal(start.latents, codec.encode_still(codec.decode_chunk(anchor)[:, :, 0], generator))


def test_an_image_stands_still_beside_its_given_latents(distilled: Any) -> None:
    anchor = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    start = reader(distilled).read(StartInput(image=picture(), image_latents=anchor))
    codec, generator = reader(distilled).codec, torch.Generator().manual_seed(0)
    assert start is not None
    assert torch.equal(start.anchor, anchor)
    assert torch.equal(start.latents, codec.encode_still(picture() * 2 - 1, generator))


def test_latents_of_a_clip_bring_their_own_anchor(distilled: Any) -> None:
    frames = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(1))
    start = reader(distilled).read(StartInput(video_latents=frames))
    assert start is not None
    assert torch.equal(start.anchor, frames[:, :, :1])
    assert torch.equal(start.latents, frames)


def test_the_first_latent_of_a_clip_is_that_of_its_first_frame_alone(distilled: Any) -> None:
    frames = clip(33).movedim(1, 2) * 2 - 1
    with torch.no_grad():
        whole, first = (distilled.vae.encode(x).latent_dist.mean for x in (frames, frames[:, :, :1]))
    assert relative_error(whole[:, :, :1], first) < 1e-5


def test_a_clip_beside_its_latents_gives_the_anchor(distilled: Any) -> None:
    frames = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(1))
    start = reader(distilled).read(StartInput(video=clip(35), video_latents=frames))
    codec, generator = reader(distilled).codec, torch.Generator().manual_seed(0)
    assert start is not None
    assert torch.equal(start.anchor, codec.encode_image(clip(35)[:, 0] * 2 - 1, generator))
    assert torch.equal(start.latents, frames)


def test_an_anchor_may_be_given_beside_the_latents_of_a_clip(distilled: Any) -> None:
    frames = torch.randn(1, 16, 10, 8, 8, generator=torch.Generator().manual_seed(1))
    start = reader(distilled).read(StartInput(image_latents=frames[:, :, 9:], video_latents=frames[:, :, :9]))
    assert start is not None
    assert torch.equal(start.anchor, frames[:, :, 9:])


@pytest.mark.parametrize(
    "given",
    [
        {"image_latents": torch.ones(1, 16, 1, 8, 8)},
        {"image": picture(), "image_latents": torch.ones(1, 16, 1, 8, 8)},
        {"video_latents": torch.ones(1, 16, 9, 8, 8)},
        {"video": clip(33), "video_latents": torch.ones(1, 16, 9, 8, 8)},
    ],
    ids="+".join,
)
def test_starts_from_latents_run_with_noise_and_count_in_the_latents_returned(
    distilled: Any, given: dict[str, Any]
) -> None:
    seeds = 9 if "video_latents" in given else 1
    got = latents(distilled, "distilled", **given)
    assert got.shape == (1, 16, seeds + 9, 8, 8)
    assert got.isfinite().all()


# Memory without an anchor, which crashes there


@torch.no_grad()
def test_without_an_anchor_the_short_tier_remembers_one_frame_more(base: Any) -> None:
    got = latents(base, "base", num_frames=66, keep_first_frame=False)
    denoiser = TransformerDenoiser(base.transformer)
    embedding = base.encode_prompt("a red fish", None, False, max_sequence_length=TEXT_LENGTH)[0]  # noqa: FBT003
    prompt = denoiser.prompt(embedding)
    history = History.empty((1, 16, 8, 8), MemoryConfig(16, 2, 2, keeps_anchor=False))
    seeds = GeneratorSeeds(torch.Generator().manual_seed(0), "cpu")
    config = SamplerConfig(BASE.schedule, (3,), None, Guidance(1.0))
    want = []
    for _ in range(2):
        turn = next_turn(
            denoiser, history, lambda tiers, _: Branches(Condition(prompt, denoiser.context(tiers))), config, seeds
        )
        history = turn.history
        want.append(turn.latents)
    assert relative_error(got, torch.cat(want, dim=2)) < 1e-5
    assert not torch.equal(got, latents(base, "base", num_frames=66))


# Noise of one's own, which is ignored there


def test_given_latents_are_the_noise_of_the_first_chunk(base: Any) -> None:
    noise = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents(base, "base", 7, latents=noise), latents(base, "base", 0))
    assert torch.equal(latents(base, "base", 7, latents=noise.double()), latents(base, "base", 8, latents=noise))


# Refusals


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a size that is no multiple of the pyramid's": ("distilled", {"height": 96}, "for example 64 or 128"),
    "the odd width 832": ("distilled", {"height": 448, "width": 810}, "for example 768 or 832"),
    "a size that is no multiple of the patch": ("base", {"width": 72}, "for example 64 or 80"),
    "too few numbers of steps": ("distilled", {"pyramid_num_inference_steps_list": [2, 2]}, "this model has 3"),
    "too many numbers of steps": ("mid", {"pyramid_num_inference_steps_list": [2] * 4}, "this model has 3"),
    "no steps": ("base", {"num_inference_steps": 0}, "out of range"),
    "noise of another shape": ("base", {"latents": torch.zeros(1, 16, 9, 4, 4)}, r"\(1, 16, 9, 8, 8\)"),
    "noise levels for the pyramid": ("distilled", {"sigmas": [0.9]}, "pyramid_num_inference_steps_list"),
    "noise levels that rise": ("base", {"sigmas": [0.5, 0.9]}, "fall"),
    "pure noise as a noise level": ("base", {"sigmas": [1.0, 0.5]}, "below 1"),
    "an image and a video": ("base", {"image": picture(), "video": clip(33)}, "one of them"),
    "latents of an image and a video": (
        "base",
        {"image_latents": torch.zeros(1, 16, 1, 8, 8), "video": clip(33)},
        "one of them",
    ),
    "latents of another size": ("base", {"image_latents": torch.zeros(1, 16, 1, 4, 4)}, "image_latents has shape"),
    "a clip that is too short": ("base", {"video": clip(32)}, "32 frames"),
    "three images for two videos": ("base", {"prompt": ["a", "b"], "image": picture(batch=3)}, "3 rows for 2 videos"),
    "three generators for one video": ("base", {"generator": [torch.Generator()] * 3}, "3 generators"),
    "a noise range from high to low": ("base", {"image_noise_sigma_min": 0.5}, "noise range"),
    "no prompt": ("base", {"prompt": None}, "neither prompt nor prompt_embeds"),
    "a number as prompt": ("base", {"prompt": [3]}, "give a text"),
    "no prompts": ("base", {"prompt": []}, "give a text"),
    "a prompt and its embedding": ("base", {"prompt_embeds": torch.zeros(1, 4, 32)}, "give one of them"),
    "negative prompts for other prompts": (
        "base",
        {"negative_prompt": ["a", "b", "c"], "guidance_scale": 2.0},
        "3 negative prompts do not go with 1",
    ),
    "negative embeddings for other prompts": (
        "base",
        {"negative_prompt": None, "negative_prompt_embeds": torch.zeros(3, 4, 32), "guidance_scale": 2.0},
        "3 rows for 1 videos",
    ),
    "no videos": ("base", {"num_videos_per_prompt": 0}, "not positive"),
    "two tiers": ("base", {"history_sizes": [16, 2]}, "three sizes"),
    "an empty tier": ("base", {"history_sizes": [16, 2, 0]}, "not all positive"),
    "no frames in a chunk": ("base", {"num_latent_frames_per_chunk": 0}, "not positive"),
    "an unknown tensor for the callback": ("base", {"callback_on_step_end_tensor_inputs": ["x"]}, "there are"),
    "an option that nothing reads": ("base", {"attention_kwargs": {"mask": 1}}, "nothing reads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_what_to_do(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    variant, call, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        latents(pairs[variant].ours, variant, **call)
    assert "\n" not in str(error.value)


def test_an_unknown_output_type_is_refused(base: Any) -> None:
    with pytest.raises(UserError, match="np, pt, pil, latent"):
        base(**small_call("base"), output_type="gif")


def test_one_resolution_with_a_pyramid_s_scheduler_points_to_the_pyramid(pairs: dict[str, Pair]) -> None:
    parts = {**pairs["base"].ours.components, "scheduler": pairs["mid"].ours.scheduler}
    with pytest.raises(UserError, match="HeliosPyramidPipeline"):
        latents(heliograph.diffusers.HeliosPipeline(**parts), "base")


def test_the_pyramid_with_the_scheduler_of_one_resolution_points_to_the_other(pairs: dict[str, Pair]) -> None:
    parts = {**pairs["mid"].ours.components, "scheduler": pairs["base"].ours.scheduler}
    pipeline = quiet(heliograph.diffusers.HeliosPyramidPipeline(**parts))
    with pytest.raises(UserError, match="use HeliosPipeline"):
        latents(pipeline, "mid")
    got = latents(pipeline, "mid", pyramid_num_inference_steps_list=[3])
    assert torch.equal(got, latents(pairs["base"].ours, "base"))


def test_a_scheduler_of_another_method_is_refused(pairs: dict[str, Pair]) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(CheckpointError, match="FlowMatchEulerDiscreteScheduler"):
        latents(
            heliograph.diffusers.HeliosPipeline(**{**pairs["base"].ours.components, "scheduler": scheduler}), "base"
        )


# Warnings


def test_guidance_on_a_distilled_model_is_applied_with_a_warning(
    distilled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "heliograph"):
        guided = latents(distilled, "distilled", guidance_scale=3.0)
    assert "meant for 1.0" in caplog.text
    assert not torch.equal(guided, latents(distilled, "distilled"))


def test_a_boost_that_a_model_does_not_know_is_warned_of(
    pairs: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "heliograph"):
        boosted = latents(pairs["mid"].ours, "mid", is_amplify_first_chunk=True)
    assert "is_amplify_first_chunk" in caplog.text
    assert torch.equal(boosted, latents(pairs["mid"].ours, "mid"))


# Callbacks


def test_a_callback_sees_every_step_and_the_state_of_the_pipeline(distilled: Any) -> None:
    seen = []

    def callback(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        assert pipeline.current_timestep == timestep
        seen.append((step, pipeline.num_timesteps, tuple(tensors["latents"].shape[-2:])))

    latents(distilled, "distilled", num_frames=34, callback_on_step_end=callback)
    chunk = [(0, 2, (2, 2)), (1, 2, (2, 2)), (0, 2, (4, 4)), (1, 2, (4, 4)), (0, 1, (8, 8))]
    assert seen == chunk * 2
    assert distilled.current_timestep is None


def test_an_interrupt_ends_the_video_with_the_chunk_under_way(base: Any) -> None:
    states: list[Tensor] = []

    def callback(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        pipeline._interrupt = len(states) == 5
        return tensors

    got = latents(base, "base", num_frames=132, callback_on_step_end=callback)
    assert len(states) == 5
    assert torch.equal(got, torch.cat([states[2], states[4]], dim=2))
    assert latents(base, "base", num_frames=66).shape[2] == 18


def test_an_interrupt_on_a_coarse_level_returns_it_enlarged(distilled: Any) -> None:
    states: list[Tensor] = []

    def callback(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        states.append(tensors["latents"])
        pipeline._interrupt = True

    got = latents(distilled, "distilled", num_frames=66, callback_on_step_end=callback)
    assert got.shape == (1, 16, 9, 8, 8)
    assert torch.equal(got[..., ::4, ::4], states[0])


def test_a_callback_that_returns_latents_of_another_shape_is_refused(base: Any) -> None:
    with pytest.raises(UserError, match="callback_on_step_end returned latents"):
        latents(base, "base", callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 16, 9, 4, 4)})


# Block noise


@pytest.mark.parametrize("mode", ["fixed", "request"])
def test_fixed_block_noise_is_the_same_for_every_chunk_and_seed(
    distilled: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    drawn: list[Tensor] = []
    jump = heliograph.sample.jump

    def record(x: Tensor, z: Tensor, weights: Any, gamma: float) -> Tensor:
        drawn.append(z)
        return jump(x, z, weights, gamma)

    monkeypatch.setattr(heliograph.sample, "jump", record)
    monkeypatch.setattr(distilled, "block_noise", mode)
    for seed in (0, 1):
        latents(distilled, "distilled", seed, num_frames=66)
    coarse, fine = drawn[::2], drawn[1::2]
    is_same = [torch.equal(z, group[0]) for group in (coarse, fine) for z in group[1:]]
    assert len(is_same) == 6
    assert all(is_same) if mode == "fixed" else not any(is_same)


# Adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A low-rank adapter of the output of self-attention."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for block in range(2):
        name = f"transformer.blocks.{block}.attn1.to_out.0"
        weights[f"{name}.lora_A.weight"] = torch.randn(4, 24, generator=generator)
        weights[f"{name}.lora_B.weight"] = torch.randn(24, 4, generator=generator)
    folder = tmp_path_factory.mktemp("adapter")
    save_file(weights, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_an_adapter_and_its_scale_do_what_they_do_in_diffusers(adapter: Path) -> None:
    pair = Pair("base")
    plain = pair.run(pair.ours, num_frames=33)
    for pipeline in (pair.ours, pair.theirs):
        pipeline.load_lora_weights(adapter)
    full = pair.run(pair.ours, num_frames=33)
    half, theirs = pair.latents(num_frames=33, attention_kwargs={"scale": 0.5})
    assert relative_error(half, theirs) < 1e-4
    assert not torch.equal(half, full)
    assert relative_error(full, plain) > 1e-2
    assert torch.equal(pair.run(pair.ours, num_frames=33), full)
    pair.ours.unload_lora_weights()
    assert torch.equal(pair.run(pair.ours, num_frames=33), plain)


# Options of the model that crash there


def test_amplified_history_runs_in_bfloat16() -> None:
    parts = small_parts("distilled")
    config = {**parts["transformer"].config, "is_amplify_history": True}
    transformer = HeliosTransformer3DModel.from_config(config).to(torch.bfloat16)
    pipeline = quiet(heliograph.diffusers.HeliosPyramidPipeline(**{**parts, "transformer": transformer}))
    assert latents(pipeline, "distilled", num_frames=66).isfinite().all()


# Offload: on a CPU, "elsewhere" is the meta device or a file


def in_parts(pipeline: DiffusionPipeline, gpu_id: int | None = None, device: Any = None) -> None:
    """What the library's sequential offload does, with the CPU as the device that computes."""
    pipeline._offload_device = torch.device("cpu")
    for part in (pipeline.text_encoder, pipeline.transformer, pipeline.vae):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


def test_sequential_offload_changes_nothing(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("base")
    del pair.ours.vae.encode
    monkeypatch.setattr(DiffusionPipeline, "enable_sequential_cpu_offload", in_parts)
    pair.ours.enable_sequential_cpu_offload()
    call = {"guidance_scale": 3.0, "image": picture()}
    assert all(parameter.is_meta for parameter in pair.ours.transformer.parameters())
    assert torch.equal(latents(pair.ours, "base", **call), latents(base, "base", **call))
    assert all(parameter.is_meta for parameter in pair.ours.transformer.parameters())


def test_model_offload_changes_nothing(base: Any) -> None:
    pair = Pair("base")
    del pair.ours.vae.encode
    pair.ours.enable_model_cpu_offload(device="cpu")
    call = {"guidance_scale": 3.0, "image": picture()}
    assert torch.equal(latents(pair.ours, "base", **call), latents(base, "base", **call))


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_changes_nothing(base: Any, tmp_path: Path, kind: str) -> None:
    # Weights that are not in use wait in files, and what they leave behind is not their value.
    pair, here = Pair("base"), torch.device("cpu")
    pair.ours.transformer.enable_group_offload(
        onload_device=here, offload_type=kind, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path)
    )
    call = {"guidance_scale": 3.0, "num_frames": 66}
    assert relative_error(latents(pair.ours, "base", **call), latents(base, "base", **call)) < 1e-5
