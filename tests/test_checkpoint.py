"""Model folders: found, checked from headers, loaded strictly and within the memory bound."""

import json
import math
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    Response,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import UMT5EncoderModel

from heliograph.checkpoint import (
    INDEX_FILE,
    RANDOM_MARK,
    RELEASED,
    TensorInfo,
    check_tensors,
    find,
    find_local,
    find_model,
    load_text_encoder,
    load_transformer,
    load_vae,
    load_weights,
    open_model,
    read_folder,
    tensor_table,
    write_once,
)
from heliograph.errors import CheckpointError, UserError
from heliograph.tiny import write_random_tiny

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model; nobody changes it."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_random_tiny(folder)
    return folder


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """A copy of the random tiny model that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def edit_json(file: Path, **changes: object) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def sharded(folder: Path, parts: list[dict[str, torch.Tensor]]) -> Path:
    """Write tensors as a sharded component; returns the index file."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number, part in enumerate(parts):
        file = f"model-{number}.safetensors"
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def hub_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every call of the hub client fail: the local look-up as not there, the download with `error`."""

    def snapshot(_: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        raise LocalEntryNotFoundError("not cached") if local_files_only else error

    monkeypatch.setattr(find, "snapshot_download", snapshot)


def refused(kind: type[Exception], status: int) -> Exception:
    """A hub error as the client makes it from an answer."""
    with mock.patch.object(Response, "request", None):  # which request it answers does not matter here
        return kind("refused", response=Response(status))


# Finding


def test_folder_with_an_index_is_a_model(model: Path) -> None:
    assert find_model(str(model)) == model


def test_folder_wins_over_a_hub_id_of_the_same_spelling(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent.parent)
    assert find_model(f"{model.parent.name}/{model.name}").samefile(model)


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "", "~nobody/x", "zero\0byte", "x" * 5000, "/no/folder", "./a"])
def test_unknown_name_is_refused_with_what_would_be_accepted(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"'tiny', a folder .* or a hub id such as BestWishYsh/Helios-Base"):
        find_model(name)


def test_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=INDEX_FILE):
        find_model(str(tmp_path))


def test_component_folder_is_refused_with_the_folder_above_it(model: Path) -> None:
    with pytest.raises(CheckpointError, match=f"give the folder above it, {model}"):
        find_model(str(model / "vae"))


def test_looking_locally_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_raises(monkeypatch, AssertionError("a download was started"))
    assert all(find_local(name) is None for name in RELEASED)


def test_downloaded_model_is_found_locally(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "snapshot_download", lambda *_, **__: str(model))
    assert find_local(RELEASED[0]) == model


def test_download_takes_the_components_of_inference_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot(_: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked.extend(allow_patterns)
        return str(model)

    monkeypatch.setattr(find, "snapshot_download", snapshot)
    assert find_model(RELEASED[2]) == model
    needed = [str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()]
    others = ["transformer_ode/x.safetensors", "transformer_init/config.json", "README.md", "modular_model_index.json"]
    assert sorted(filter_repo_objects(needed + others, allow_patterns=asked)) == sorted(needed)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (refused(GatedRepoError, 403), "hf auth login"),
        (refused(RepositoryNotFoundError, 404), "no model of that name"),
        (LocalEntryNotFoundError("offline"), "connect to the network"),
        (HTTPError("no proxy"), "look at the network"),
        (OSError(28, "No space left on device"), "free disk space"),
    ],
)
def test_hub_failure_says_what_to_do(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_raises(monkeypatch, error)
    with pytest.raises(CheckpointError, match=advice):
        find_model("org/name")


def test_tiny_says_that_it_is_random_where_no_trained_one_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find.resources, "files", lambda _: tmp_path / "package")
    assert open_model("tiny", tmp_path / "cache").is_random


def test_shipped_tiny_is_used_and_is_not_random(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package" / "assets").mkdir(parents=True)
    model.rename(tmp_path / "package" / "assets" / "tiny")
    monkeypatch.setattr(find.resources, "files", lambda _: tmp_path / "package")
    found = open_model("tiny", tmp_path / "cache")
    assert found.path == tmp_path / "package" / "assets" / "tiny"
    assert not found.is_random
    assert not (tmp_path / "cache").exists()


def write_index(folder: Path) -> None:
    """The least that counts as a model."""
    folder.mkdir()
    (folder / INDEX_FILE).write_text("{}")


def test_two_writers_at_once_agree_on_one_whole_folder(tmp_path: Path) -> None:
    both_are_writing = threading.Barrier(2, timeout=10)
    results: list[Path] = []

    def write(folder: Path) -> None:
        write_index(folder)
        both_are_writing.wait()

    threads = [threading.Thread(target=lambda: results.append(write_once(tmp_path / "m", write))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "m"] * 2
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == [RANDOM_MARK, INDEX_FILE]
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_model_is_written_once(tmp_path: Path) -> None:
    write_once(tmp_path / "m", write_index)
    assert write_once(tmp_path / "m", lambda _: pytest.fail("written again")) == tmp_path / "m"


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        write_index(folder)
        raise OSError("No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        write_once(tmp_path / "m", write)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CheckpointError, match="make it writable"):
        write_once(tmp_path / "cache" / "m", write_index)


# Reading configuration


def test_index_is_read(written: Path) -> None:
    folder = read_folder(written)
    assert folder.index.class_name == "HeliosPyramidPipeline"
    assert folder.index.is_distilled
    assert not folder.index.is_cfg_zero_star
    assert folder.index.components["vae"].class_name == "AutoencoderKLWan"
    assert folder.scheduler_config["stages"] == 3
    assert folder.transformer_config["num_layers"] == 2


def test_silent_index_means_false(model: Path) -> None:
    edit_json(model / INDEX_FILE, _class_name="HeliosPipeline")
    values = json.loads((model / INDEX_FILE).read_text())
    del values["is_distilled"], values["is_cfg_zero_star"]
    (model / INDEX_FILE).write_text(json.dumps(values))
    index = read_folder(model).index
    assert (index.is_distilled, index.is_cfg_zero_star) == (False, False)


JSON_FILES = [INDEX_FILE, "scheduler/scheduler_config.json", "transformer/config.json"]


@pytest.mark.parametrize("file", JSON_FILES)
def test_missing_file_is_named(file: str, model: Path) -> None:
    (model / file).unlink()
    with pytest.raises(CheckpointError, match=f"{model / file} is missing"):
        read_folder(model)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[1]", b"[" * 100_000])
@pytest.mark.parametrize("file", JSON_FILES)
def test_damaged_file_is_named(file: str, content: bytes, model: Path) -> None:
    (model / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(model / file)):
        read_folder(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "WanPipeline"}, "_class_name='WanPipeline'"),
        ({"transformer": ["diffusers", "WanTransformer3DModel"]}, "WanTransformer3DModel"),
        ({"transformer": [None, None]}, "class none"),
        ({"is_distilled": "yes"}, "is_distilled='yes'; use true or false"),
    ],
)
def test_other_architecture_is_refused(changes: dict[str, object], message: str, model: Path) -> None:
    edit_json(model / INDEX_FILE, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_folder(model)


def test_component_that_was_left_out_is_missed_when_it_is_asked_for(model: Path) -> None:
    edit_json(model / INDEX_FILE, text_encoder=[None, None])
    folder = read_folder(model)
    with pytest.raises(CheckpointError, match="has no text_encoder; it has scheduler, tokenizer, transformer, vae"):
        load_text_encoder(folder, torch.float32, CPU)


# Reading headers


def test_table_describes_what_is_stored(tmp_path: Path) -> None:
    a, b = torch.zeros(2, 3), torch.zeros(4, dtype=torch.bfloat16)
    sharded(tmp_path, [{"a": a}, {"b": b}])
    assert tensor_table(tmp_path) == {
        "a": TensorInfo((2, 3), torch.float32, tmp_path / "model-0.safetensors"),
        "b": TensorInfo((4,), torch.bfloat16, tmp_path / "model-1.safetensors"),
    }


def test_table_of_one_file_equals_its_tensors(written: Path) -> None:
    stored = load_file(written / "transformer" / "diffusion_pytorch_model.safetensors")
    table = tensor_table(written / "transformer")
    assert {name: info.shape for name, info in table.items()} == {name: tuple(t.shape) for name, t in stored.items()}


def sparse_safetensors(file: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A valid float32 file of zeros that takes almost no disk; returns its size."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return 8 + len(text) + end


def test_headers_of_a_file_larger_than_memory_are_read(tmp_path: Path) -> None:
    sparse_safetensors(tmp_path / "model.safetensors", {"w": (64 * GIB // 4,)})
    assert tensor_table(tmp_path)["w"].shape == (64 * GIB // 4,)


def truncate(file: Path) -> None:
    """Lose the last bytes."""
    file.write_bytes(file.read_bytes()[:-3])


def pointer(file: Path) -> None:
    """What a clone without large files has in its place."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@pytest.mark.parametrize("damage", [truncate, pointer, lambda file: file.write_bytes(b""), Path.unlink])
def test_damaged_or_missing_weight_file_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    sharded(tmp_path, [{"a": torch.zeros(3)}, {"b": torch.zeros(3)}])
    damage(tmp_path / "model-1.safetensors")
    with pytest.raises(CheckpointError, match=str(tmp_path / "model-1.safetensors")):
        tensor_table(tmp_path)


def test_index_and_files_must_agree(tmp_path: Path) -> None:
    index = sharded(tmp_path, [{"a": torch.zeros(3), "b": torch.zeros(3)}])
    index.write_text(json.dumps({"weight_map": {"a": "model-0.safetensors", "c": "model-0.safetensors"}}))
    with pytest.raises(CheckpointError, match="disagree about b, c"):
        tensor_table(tmp_path)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "..", "", 7])
def test_index_cannot_lead_out_of_its_folder(file: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="files beside it"):
        tensor_table(tmp_path)


def test_stored_integers_are_no_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="a as I64"):
        tensor_table(tmp_path)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no diffusion_pytorch_model.safetensors or model.safetensors"):
        tensor_table(tmp_path)


def table_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """A tensor table of these shapes."""
    return {name: TensorInfo(shape, torch.float32, Path("/model/vae/x.safetensors")) for name, shape in shapes.items()}


def test_right_tensors_are_accepted() -> None:
    check_tensors(table_of({"a": (1, 2)}), {"a": (1, 2)})


def test_differing_tensors_are_listed_with_both_shapes() -> None:
    with pytest.raises(CheckpointError) as raised:
        check_tensors(table_of({"a": (1, 2), "extra": ()}), {"a": (2, 1), "lost": (3,)})
    message = str(raised.value)
    assert "/model/vae" in message
    assert "missing: lost" in message
    assert "not part of the model: extra" in message
    assert "a [1, 2] instead of [2, 1]" in message


def test_long_lists_of_differing_tensors_are_counted() -> None:
    with pytest.raises(CheckpointError, match="w0, w1, w2, w3, w4, w5, w6, w7 and 4 more"):
        check_tensors({}, {f"w{i}": (1,) for i in range(10)} | {"w90": (1,), "w91": (1,)})


# Loading


def is_fp32(name: str) -> bool:
    """The rule for what stays float32, written out."""
    return bool(
        {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3", "history_key_scale"} & set(name.split("."))
    )


def test_transformer_loads_as_the_library_loads_it(written: Path) -> None:
    ours = load_transformer(read_folder(written), torch.bfloat16, CPU).state_dict()
    library = diffusers.HeliosTransformer3DModel.from_pretrained(
        written / "transformer", torch_dtype=torch.bfloat16
    ).state_dict()
    assert ours.keys() == library.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == library[name].dtype == (torch.float32 if is_fp32(name) else torch.bfloat16), name
        assert torch.equal(tensor, library[name]), name


def test_loaded_model_is_ready_to_run(written: Path) -> None:
    model = load_transformer(read_folder(written), torch.float32, CPU)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_text_encoder_loads_as_the_library_loads_it(dtype: torch.dtype, written: Path) -> None:
    ours = load_text_encoder(read_folder(written), dtype, CPU)
    library = UMT5EncoderModel.from_pretrained(written / "text_encoder", dtype=dtype)
    assert {n: (t.dtype, t.tolist()) for n, t in ours.state_dict().items()} == {
        n: (t.dtype, t.tolist()) for n, t in library.state_dict().items()
    }


def test_embedding_stored_once_serves_both_names_whatever_the_configuration_says(model: Path) -> None:
    edit_json(model / "text_encoder" / "config.json", tie_word_embeddings=False)
    encoder = load_text_encoder(read_folder(model), torch.float32, CPU)
    stored = load_file(model / "text_encoder" / "model.safetensors")["shared.weight"]
    assert torch.equal(encoder.encoder.embed_tokens.weight, stored)
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_embedding_stored_twice_is_kept_apart(model: Path) -> None:
    file = model / "text_encoder" / "model.safetensors"
    stored = load_file(file)
    save_file(stored | {"encoder.embed_tokens.weight": stored["shared.weight"] + 1}, file)
    encoder = load_text_encoder(read_folder(model), torch.float32, CPU)
    assert torch.equal(encoder.encoder.embed_tokens.weight, stored["shared.weight"] + 1)


def test_autoencoder_loads_as_the_library_loads_it(written: Path) -> None:
    ours = load_vae(read_folder(written), torch.float32, CPU).state_dict()
    library = diffusers.AutoencoderKLWan.from_pretrained(written / "vae").state_dict()
    assert ours.keys() == library.keys()
    assert all(torch.equal(ours[name], library[name]) for name in ours)


class WithBuffers(nn.Module):
    """A weight, a stored buffer and one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("stored", torch.zeros(2))
        self.register_buffer("computed", torch.arange(4.0), persistent=False)


def test_buffers_keep_their_values_and_nothing_stays_without_memory(tmp_path: Path) -> None:
    module = WithBuffers()
    save_file(module.state_dict() | {"stored": torch.tensor([5.0, 6.0])}, tmp_path / "model.safetensors")
    with init_empty_weights(include_buffers=False):
        empty = WithBuffers()
    load_weights(empty, tmp_path, torch.float32, CPU)
    assert empty.stored.tolist() == [5.0, 6.0]
    assert empty.computed.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert not any(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])


def test_module_whose_computed_buffer_has_no_memory_is_caught(tmp_path: Path) -> None:
    save_file(WithBuffers().state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        empty = WithBuffers()
    with pytest.raises(AssertionError, match="computed"):
        load_weights(empty, tmp_path, torch.float32, CPU)


def test_every_tensor_is_put_where_its_name_says(tmp_path: Path) -> None:
    save_file(WithBuffers().state_dict(), tmp_path / "model.safetensors")
    with init_empty_weights(include_buffers=False):
        empty = WithBuffers()
    asked: list[str] = []

    def place(name: str) -> torch.device:
        asked.append(name)
        return CPU

    load_weights(empty, tmp_path, torch.float32, place)
    assert sorted(set(asked)) == ["computed", "linear.bias", "linear.weight", "stored"]


def test_tensors_left_on_disk_are_not_read(tmp_path: Path) -> None:
    sharded(tmp_path, [{"linear.weight": torch.ones(2, 3)}, {"linear.bias": torch.ones(2), "stored": torch.ones(2)}])
    with init_empty_weights(include_buffers=False):
        empty = WithBuffers()
    load_weights(empty, tmp_path, torch.bfloat16, lambda name: torch.device("meta" if "weight" in name else "cpu"))
    assert (empty.linear.weight.is_meta, empty.linear.weight.dtype) == (True, torch.bfloat16)
    assert empty.linear.bias.tolist() == [1.0, 1.0]


def test_loaded_weights_do_not_depend_on_the_file_any_more(model: Path) -> None:
    loaded = load_transformer(read_folder(model), torch.float32, CPU)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    with file.open("r+b") as stream:
        stream.write(b"\0" * file.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_weights_of_another_model_are_refused_by_name(model: Path) -> None:
    edit_json(model / "transformer" / "config.json", num_layers=1, ffn_dim=64)
    with pytest.raises(CheckpointError, match=r"not part of the model: blocks\.1\..*of another shape: blocks\.0\.ffn"):
        load_transformer(read_folder(model), torch.float32, CPU)


def test_unknown_switch_that_is_on_is_refused(model: Path) -> None:
    edit_json(model / "transformer" / "config.json", restrict_self_attn=True)
    with pytest.raises(CheckpointError, match="switches on restrict_self_attn"):
        load_transformer(read_folder(model), torch.float32, CPU)


def test_unknown_options_of_training_that_are_off_do_no_harm(model: Path) -> None:
    edit_json(model / "transformer" / "config.json", restrict_self_attn=False, restrict_lora_rank=128, image_dim=None)
    load_transformer(read_folder(model), torch.float32, CPU)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("transformer", {"rope_dim": [1, 2]}),
        ("transformer", {"num_layers": "two"}),
        ("vae", {"dim_mult": []}),
        ("text_encoder", {"num_layers": "one"}),
    ],
)
def test_configuration_that_builds_nothing_is_named(part: str, changes: dict[str, object], model: Path) -> None:
    edit_json(model / part / "config.json", **changes)
    load = {"transformer": load_transformer, "vae": load_vae, "text_encoder": load_text_encoder}[part]
    with pytest.raises(UserError, match=str(model / part)):
        load(read_folder(model), torch.float32, CPU)


@pytest.mark.parametrize(("part", "load"), [("vae", load_vae), ("text_encoder", load_text_encoder)])
def test_other_component_class_is_refused(part: str, load: Callable[..., object], model: Path) -> None:
    edit_json(model / INDEX_FILE, **{part: ["somewhere", "Other"]})
    with pytest.raises(CheckpointError, match=f"{part} class Other"):
        load(read_folder(model), torch.float32, CPU)


# The bound

LOAD_IN_CHILD = """
import json, sys
from pathlib import Path
import torch
from accelerate import init_empty_weights
from heliograph.checkpoint import load_weights

def memory(key):
    return next(int(x.split()[1]) * 1024 for x in open("/proc/self/status") if x.startswith(key))

with init_empty_weights():
    layers = [("norm2" if i % 4 == 3 else "proj", i) for i in range(20)]
    make = {"proj": lambda: torch.nn.Linear(4096, 4096), "norm2": lambda: torch.nn.LayerNorm(4096)}
    module = torch.nn.ModuleDict({str(i): torch.nn.ModuleDict({name: make[name]()}) for name, i in layers})
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = memory("VmRSS")
load_weights(module, Path(sys.argv[1]), torch.bfloat16, torch.device("cpu"))
weights = sum(p.numel() * p.element_size() for p in module.parameters())
print(json.dumps({"peak": memory("VmHWM") - before, "kept": memory("VmRSS") - before, "weights": weights}))
"""


def gigabyte_checkpoint(folder: Path) -> int:
    """1.0 GB of float32 in five files, each with three matrices and a norm; returns the size of the largest."""
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for i in range(20):
        name, shape = (f"{i}.norm2", (4096,)) if i % 4 == 3 else (f"{i}.proj", (4096, 4096))
        files.setdefault(f"model-{i // 4}.safetensors", {}).update({f"{name}.weight": shape, f"{name}.bias": (4096,)})
    index = {"weight_map": {name: file for file, shapes in files.items() for name in shapes}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return max(sparse_safetensors(folder / file, shapes) for file, shapes in files.items())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux' /proc")
def test_loading_holds_no_more_than_the_weights_and_one_shard(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 3e9:
        pytest.skip("less than 3 GB of disk are free")
    shard = gigabyte_checkpoint(tmp_path)
    command = [sys.executable, "-c", LOAD_IN_CHILD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)
    seen = json.loads(done.stdout)
    slack = 60e6  # libraries that are imported on first use
    assert seen["weights"] > 0.5e9
    assert seen["peak"] < seen["weights"] + shard + slack
    assert seen["kept"] < seen["weights"] + slack
