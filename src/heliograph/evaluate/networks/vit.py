"""The two towers of CLIP (Radford et al. 2021), and the video tower that ViCLIP makes of the first (Wang et al. 2024).

Parameters have the names of the released files, so that these load unchanged; sizes are read from the file. A picture
is a clip of one frame without places in time. Heads are 64 wide, as in every released model of the kind.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

HEAD_WIDTH = 64

Weights = Mapping[str, Tensor]


class QuickGelu(nn.Module):
    """x · sigmoid(1.702 x), CLIP's approximation of GELU."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Element by element."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGelu()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Float[Tensor, "b n d"], mask: Float[Tensor, "n n"] | None) -> Float[Tensor, "b n d"]:
        """`mask` is added to the attention's logits."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """A stack of blocks, under the name that the files have."""

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(num_blocks))

    def forward(self, x: Float[Tensor, "b n d"], mask: Float[Tensor, "n n"] | None = None) -> Float[Tensor, "b n d"]:
        """One after the other."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTower(nn.Module):
    """Pictures or clips to features; all frames of a clip attend to each other."""

    def __init__(
        self, width: int, patch: int, num_places: int, num_blocks: int, num_features: int, num_frames: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(num_places, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, num_frames, width)) if num_frames else None
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Blocks(width, num_blocks)
        self.proj = nn.Parameter(torch.zeros(width, num_features))

    @property
    def side(self) -> int:
        """Height and width of the pictures it takes."""
        return self.conv1.kernel_size[0] * round((self.positional_embedding.shape[0] - 1) ** 0.5)

    def forward(self, clips: Float[Tensor, "b t 3 s s"]) -> Float[Tensor, "b e"]:
        """Features, not normalised."""
        b, t = clips.shape[:2]
        tokens = rearrange(self.conv1(rearrange(clips, "b t c h w -> (b t) c h w")), "(b t) d h w -> b t (h w) d", b=b)
        tokens = tokens + self.positional_embedding[1:]
        if self.temporal_positional_embedding is not None:
            assert t == self.temporal_positional_embedding.shape[1], f"{t} frames"
            tokens = tokens + self.temporal_positional_embedding[:, :, None]
        first = repeat(self.class_embedding + self.positional_embedding[0], "d -> b 1 d", b=b)
        x = torch.cat([first, rearrange(tokens, "b t n d -> b (t n) d")], dim=1)
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class TextTower(nn.Module):
    """Tokens to features: what stands at the end token, which is the largest number of a row."""

    def __init__(self, width: int, num_tokens: int, vocabulary: int, num_blocks: int, num_features: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(num_tokens, width))
        self.transformer = Blocks(width, num_blocks)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, num_features))

    @property
    def num_tokens(self) -> int:
        """Tokens that it reads."""
        return self.positional_embedding.shape[0]

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Features, not normalised; every token attends to those before it."""
        x = self.token_embedding(tokens) + self.positional_embedding
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, device=x.device).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ self.text_projection


def vision_tower(weights: Weights) -> VisionTower:
    """The tower of these weights. Raises RuntimeError or KeyError where they are not of one."""
    weights = dict(weights)
    if weights["conv1.weight"].ndim == 5:  # ViCLIP stores a kernel one frame deep
        weights["conv1.weight"] = weights["conv1.weight"].squeeze(2)
    times = weights.get("temporal_positional_embedding")
    width, _, patch, _ = weights["conv1.weight"].shape
    places = weights["positional_embedding"].shape[0]
    tower = VisionTower(
        width, patch, places, num_blocks(weights), weights["proj"].shape[1], 0 if times is None else times.shape[1]
    )
    tower.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return tower.eval().requires_grad_(requires_grad=False)


def text_tower(weights: Weights) -> TextTower:
    """The tower of these weights. Raises RuntimeError or KeyError where they are not of one."""
    vocabulary, width = weights["token_embedding.weight"].shape
    tokens = weights["positional_embedding"].shape[0]
    tower = TextTower(width, tokens, vocabulary, num_blocks(weights), weights["text_projection"].shape[1])
    tower.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return tower.eval().requires_grad_(requires_grad=False)


def num_blocks(weights: Weights) -> int:
    """How deep a tower is."""
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.resblocks."))


def under(prefix: str, weights: Weights) -> dict[str, Tensor]:
    """The weights below a name, under what follows it."""
    return {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}


def from_transformers(weights: Weights) -> dict[str, Tensor]:
    """A vision tower's weights under OpenAI's names, from those of the library `transformers`."""
    own = under("vision_model.", weights)
    made = {
        "class_embedding": own["embeddings.class_embedding"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "conv1.weight": own["embeddings.patch_embedding.weight"],
        "proj": weights["visual_projection.weight"].T,
    }
    for end in ("weight", "bias"):
        made[f"ln_pre.{end}"] = own[f"pre_layrnorm.{end}"]
        made[f"ln_post.{end}"] = own[f"post_layernorm.{end}"]
        for i in range(1 + max(int(name.split(".")[2]) for name in own if name.startswith("encoder.layers."))):
            here, there = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            parts = [own[f"{there}.self_attn.{letter}_proj.{end}"] for letter in "qkv"]
            made[f"{here}.attn.in_proj_{end}"] = torch.cat(parts)
            made[f"{here}.attn.out_proj.{end}"] = own[f"{there}.self_attn.out_proj.{end}"]
            made[f"{here}.mlp.c_fc.{end}"] = own[f"{there}.mlp.fc1.{end}"]
            made[f"{here}.mlp.c_proj.{end}"] = own[f"{there}.mlp.fc2.{end}"]
            for number in (1, 2):
                made[f"{here}.ln_{number}.{end}"] = own[f"{there}.layer_norm{number}.{end}"]
    return made
