"""From a configuration to a stage that is ready to train: networks, adapters, the models beside them, and the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from heliograph.checkpoint import INDEX_FILE, Component, ModelFolder, ModelIndex, find_model, read_json
from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing, ShardSource, Share, Source
from heliograph.data.shards import DATASET_FILE, ShardFolder, open_shards
from heliograph.data.world import WorldClips, WorldSource
from heliograph.data.world_cache import CACHE_FILE, code_digest, read_cache_info
from heliograph.data.world_examples import WorldCacheSource
from heliograph.embedded.render import MIX
from heliograph.errors import CheckpointError
from heliograph.model.attention import attend_by_products, use_kernel
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.shapes import check_size
from heliograph.text import TextEncoder, clean, load_text_encoder
from heliograph.train.adapt import AdaptConfig, AdaptStage
from heliograph.train.adapter import AdapterConfig
from heliograph.train.distill import DistillConfig, DistillStage
from heliograph.train.idle import Idle, Turns
from heliograph.train.lora import add_seeded_adapter, train_only
from heliograph.train.multiscale import MultiscaleConfig, MultiscaleStage
from heliograph.train.ode import OdeConfig, OdeStage
from heliograph.train.pairs import PAIRS_FILE, PairSource
from heliograph.train.parallel import Parallel
from heliograph.train.recipe import TrainConfig
from heliograph.train.roles import Roles, make_heads
from heliograph.train.stage import Stage
from heliograph.train.start import load_start, random_network, start_config, start_stride
from heliograph.vae import LatentCodec, load_autoencoder

WORLD = "diorama"
"""Name of the procedural world where a data folder is asked for."""

STUDENT_ADAPTER, CRITIC_ADAPTER = "student", "critic"


@dataclass(frozen=True)
class Beside:
    """What a model has beside its transformer: the folder, the codec, and the text encoder, loaded when asked for."""

    folder: ModelFolder
    device: torch.device

    def codec(self) -> LatentCodec:
        """Pixels to latents, float32."""
        return LatentCodec(load_autoencoder(self.folder, torch.float32, self.device))

    def text(self, dtype: torch.dtype) -> TextEncoder:
        """Prompts to embeddings."""
        return load_text_encoder(self.folder, dtype, self.device)


@dataclass(frozen=True)
class Built:
    """A stage and what of it the loop's surroundings need."""

    stage: Stage
    student: HeliosTransformer3DModel
    text_encoder: nn.Module | None


def frozen_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype of weights that are not trained."""
    return torch.bfloat16 if config.loop.precision == "bfloat16" else torch.float32


def attends_by_products(config: TrainConfig, *, is_cpu: bool) -> bool:
    """Whether the student's attention runs as two products: on a CPU in bfloat16, where that is faster."""
    return is_cpu and config.loop.precision == "bfloat16"


def open_beside(model: str, device: torch.device) -> Beside:
    """The parts of a Helios or Wan model beside its transformer.

    Raises:
        CheckpointError: the model is not found or its index is damaged.
    """
    path = find_model(model)
    values = read_json(path / INDEX_FILE)
    pairs = {name: value for name, value in values.items() if isinstance(value, list) and len(value) == 2}
    components = {name: Component(str(value[0]), str(value[1])) for name, value in pairs.items() if all(value)}
    index = ModelIndex(
        class_name=str(values.get("_class_name")), is_distilled=False, is_cfg_zero_star=False, components=components
    )
    return Beside(ModelFolder(path, index, scheduler_config={}, transformer_config={}, is_random=False), device)


def build_stage(
    config: TrainConfig, parallel: Parallel, negative: Tensor, text_encoder: UMT5EncoderModel | None
) -> Built:
    """Load, adapt and lay out every network, and make the stage.

    Args:
        negative: embedding of the negative prompt, what a teacher is guided away from (1 l d).
        text_encoder: the encoder that is trained along, on the CPU or the device; None leaves it frozen.

    Raises:
        CheckpointError: a starting point is not found, of another architecture, or damaged.
    """
    student = _student(config)
    if attends_by_products(config, is_cpu=parallel.device.type == "cpu"):
        use_kernel(student, attend_by_products)
    parallel.place(student, config.layout)
    memory = config.memory
    if text_encoder is not None:
        train_only(text_encoder, ("",))
        parallel.place(text_encoder, "replicate")
    match config.stage:
        case AdaptConfig() as stage:
            return Built(AdaptStage(student, stage, memory, text_encoder), student, text_encoder)
        case MultiscaleConfig() as stage:
            return Built(MultiscaleStage(student, stage, memory, text_encoder), student, text_encoder)
        case OdeConfig() as stage:
            return Built(OdeStage(student, stage, memory), student, None)
        case DistillConfig() as stage:
            roles = _roles(config, stage, student, parallel)
            negative = negative.float().to(parallel.device)
            return Built(DistillStage(roles, stage, memory, negative), student, None)


def open_data(names: Sequence[str], shares: Sequence[float], config: TrainConfig, beside: Beside) -> Source:
    """The source of a run's batches: prepared folders with their shares, ODE pairs, or the procedural world.

    Raises:
        DataError: a folder holds nothing of the kind that the stage trains on, or data of another model.
        UserError: the size does not fit the autoencoder and the pyramid.
    """
    check_size(*config.size, 1 if config.kind == "base" else 3, start_stride(config.start))
    is_aligned = config.memory.positions == "absolute"
    drawing = Drawing(config.batch_size, config.memory.num_frames, config.num_groups, config.loop.seed, is_aligned)
    if not names:
        raise DataError(f"no data: give --data DIR, a folder that heliograph prepare made, or --data {WORLD}")
    if shares and len(shares) != len(names):
        raise DataError(f"{len(shares)} shares for {len(names)} folders; give one --share for each --data, or none")
    if isinstance(config.stage, OdeConfig):
        if shares:
            raise DataError(
                f"--share weighs folders of clips; {config.name} trains on every prompt alike. Leave it out"
            )
        return _open_pairs(names, config, drawing)
    if (Path(names[0]) / CACHE_FILE).exists():
        return _open_cache(names, config, drawing, beside)
    if config.selection.chooses or is_aligned:
        raise DataError(
            f"{config.name} chooses its examples ({config.selection}, positions={config.memory.positions!r}), which "
            "only a cache of the world lets it; make one with python -m "
            "heliograph.embedded latents MODEL FOLDER and give --data FOLDER"
        )
    if WORLD in names:
        if len(names) > 1:
            raise DataError(f"{WORLD} cannot be mixed with folders; give it alone")
        return _open_world(config, drawing, beside)
    if config.trains_text:
        raise DataError(f"{config.name} trains the text encoder, and prepared data hold embeddings; use --data {WORLD}")
    folders = [_open_folder(Path(name), config) for name in names]
    weights = list(shares) or [1.0] * len(folders)
    return ShardSource([Share(folder, share) for folder, share in zip(folders, weights, strict=True)], drawing)


def check_geometry(folder: ShardFolder, network: HeliosTransformer3DModel) -> None:
    """Refuse data that another model made.

    Raises:
        DataError: channels or text width are not the network's.
    """
    made = (folder.dataset.channels, folder.dataset.text_dim)
    wanted = (network.config["in_channels"], network.config["text_dim"])
    if made != wanted:
        raise DataError(
            f"{folder.path} was made with {folder.dataset.model}: {made[0]} channels, text of width {made[1]}; "
            f"this network reads {wanted[0]} and {wanted[1]}. Prepare the data with the model that training starts from"
        )


def _student(config: TrainConfig) -> HeliosTransformer3DModel:
    if config.network is not None:
        network = random_network(start_config(config.start), config.network, config.loop.seed)
    else:
        network = load_start(config.start, frozen_dtype(config))
    return _adapted(network, config.adapter, STUDENT_ADAPTER, config)


def _adapted(
    network: HeliosTransformer3DModel, adapter: AdapterConfig | None, name: str, config: TrainConfig
) -> HeliosTransformer3DModel:
    """The network with what is trained of it made ready."""
    if adapter is None:
        train_only(network, ("",))
    else:
        add_seeded_adapter(network, adapter, name, config.loop.seed)
    if config.saves_memory:
        network.enable_gradient_checkpointing()
    return network


def _roles(config: TrainConfig, stage: DistillConfig, student: HeliosTransformer3DModel, parallel: Parallel) -> Roles:
    assert config.scores is not None
    scores = _adapted(load_start(config.scores, frozen_dtype(config)), config.critic, CRITIC_ADAPTER, config)
    heads = None
    if stage.gan is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            heads = make_heads(scores, stage.gan)
        parallel.place(heads, config.scores_layout)
    if config.idle == "stay":
        parallel.place(scores, config.scores_layout)
        return Roles(student, scores, heads)
    waiting = Idle(student)
    waiting.leave()  # before the scores come: both at once may not fit
    parallel.place(scores, config.scores_layout)
    turns = Turns(waiting, Idle(scores))
    turns.to_student()
    return Roles(student, scores, heads, turns)


def _open_folder(path: Path, config: TrainConfig) -> ShardFolder:
    if (path / PAIRS_FILE).exists():
        raise DataError(f"{path} holds ODE pairs, and {config.name} trains on clips; give a folder of prepared clips")
    folder = open_shards(path)
    for height, width in sorted({(entry.height, entry.width) for entry in folder.entries}):
        try:
            check_size(height, width, num_levels=1 if config.kind == "base" else 3)
        except ValueError as error:
            raise DataError(
                f"{path} holds clips of {height}x{width}, which {config.name} cannot train on: {error}"
            ) from error
    return folder


def _open_pairs(names: Sequence[str], config: TrainConfig, drawing: Drawing) -> PairSource:
    for name in names:
        if name == WORLD or (Path(name) / DATASET_FILE).exists():
            raise DataError(
                f"{name} holds clips, and {config.name} trains on ODE pairs; "
                "make them with heliograph prepare PROMPTS --ode-pairs"
            )
    return PairSource([Path(name) for name in names], drawing)


def _open_cache(names: Sequence[str], config: TrainConfig, drawing: Drawing, beside: Beside) -> WorldCacheSource:
    """Clips of the world that were rendered before, with the captions of the embedded model's mix."""
    if len(names) > 1:
        raise DataError(f"a cache of the world cannot be mixed with other data; give {names[0]} alone")
    folder = Path(names[0])
    info = read_cache_info(folder)
    if info.code != code_digest(beside.codec()):
        raise DataError(f"{folder} holds latents of another autoencoder; render it with the one training starts from")
    if (info.height, info.width) != config.size:
        raise DataError(f"{folder} holds {info.height}x{info.width}, {config.name} trains on {config.size}; see --size")
    encoder = beside.text(torch.float32)
    open_source = partial(WorldCacheSource, folder, MIX, drawing, config.selection, device=beside.device)
    if config.trains_text:
        return open_source(tokens=partial(tokens_of, encoder))
    return open_source(text=lambda captions: encoder.encode(captions).embedding)


def _open_world(config: TrainConfig, drawing: Drawing, beside: Beside) -> WorldSource:
    clips = WorldClips(*config.size, subject_weight=config.selection.subject_weight)
    encoder = beside.text(torch.float32)
    if not config.trains_text:
        return WorldSource(beside.codec(), lambda captions: encoder.encode(captions).embedding, clips, drawing)
    return WorldSource.with_tokens(beside.codec(), lambda captions: tokens_of(encoder, captions), clips, drawing)


def tokens_of(encoder: TextEncoder, captions: Sequence[str]) -> Tensor:
    """Input of the text encoder for some captions, padding 0 (b l)."""
    if encoder.tokenizer.pad_token_id != 0:
        raise CheckpointError(f"the tokenizer pads with {encoder.tokenizer.pad_token_id}; training needs 0")
    batch = encoder.tokenizer(
        [clean(caption) for caption in captions],
        padding="max_length",
        max_length=encoder.max_length,
        truncation=True,
        return_tensors="pt",
    )
    return batch["input_ids"]
