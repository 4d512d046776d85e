"""
UniFormerV2 (Li et al., 2022, "UniFormerV2: Spatiotemporal Learning by Arming Image ViTs with Video UniFormer",
arXiv:2211.09552): a picture encoder of CLIP with blocks along time in its layers, and blocks in which one learned
query reads the whole clip.

Letters in this file: B clips, T slots in time, h rows, w columns, N tokens of a slot (class token + h * w patches),
D width, R inner width of a local block. Tokens are (B, T, N, D), the class token first.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import (
    _refuse,
    _refuse_unknown,
    _require_positive,
    _require_whole_heads,
    _whole_patches,
)
from ...core.carried_code import without_code
from ...core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, capture_outputs
from ...core.whole_folders import SavedWhole
from ..attention import eager_attention_forward
from ..tokens import Grid, VisionStates
from .video_swin import VioletDropPath

LOCAL_NORMS = ("live", "frozen")


@strict
class UniFormerV2Config(PreTrainedConfig):
    r"""
    Configuration of UniFormerV2. The defaults are those of the published B/16 for Kinetics.

    Args:
        hidden_size (`int`): width of the tokens.
        num_hidden_layers (`int`): layers of the picture encoder.
        num_attention_heads (`int`): heads of every attention; the published models have width / 64.
        mlp_ratio (`int`): inner width of every MLP, as a multiple of the width.
        patch_size (`int`): side of a patch, in pixels.
        image_size (`int`): side of the frames that have learned positions, in pixels; other sizes are interpolated.
        temporal_downsampling (`bool`): whether a patch reads three frames and two frames make one slot in time.
        local_blocks (`int`): blocks along time in each layer: none, one in front of the attention, or a second one
            between attention and MLP.
        local_reduction (`float`): a local block's inner width is `int(hidden_size / local_reduction)`.
        local_norm (`str`): statistics of the local blocks' BatchNorm in training: `"live"`, those of the batch of
            this process, as published; or `"frozen"`, the running numbers, which then never change. Only with
            `"frozen"` do several processes, or accumulated steps, compute what one large batch computes.
        global_layers (`list[int]`): layers behind which a global block stands, counted from 0 and increasing.
        global_dropout (`float`): dropout inside the global blocks' MLPs.
        drop_path_rate (`float`): stochastic depth of the last layer; it grows linearly from 0 at the first.
        global_drop_path_rate (`float`): the same for the global blocks.
        frozen (`bool`): whether only the global blocks and the query learn. The layers then get no gradient.
        balance (`bool`, *optional*): whether the features mix the query with the class tokens; without it they are
            the query. By default not if the layers are frozen.
        summary_token (`bool`): whether the last query is given as a state of the whole clip, which enters a fusion.
            Without it, a fusion reads nothing of the global blocks; with it, `balance` only adds a weight that it
            does not read: before a fusion set `summary_token=True, balance=False`.
    """

    model_type = "uniformerv2"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    num_channels: int = 3
    patch_size: int = 16
    image_size: int = 224
    temporal_downsampling: bool = False
    local_blocks: int = 0
    local_reduction: float | int = 1.5
    local_norm: str = "live"
    global_layers: list[int] | tuple[int, ...] = (8, 9, 10, 11)
    global_dropout: float | int = 0.5
    drop_path_rate: float | int = 0.0
    global_drop_path_rate: float | int = 0.0
    frozen: bool = False
    balance: bool | None = None
    summary_token: bool = False
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        if self.balance is None:
            self.balance = not self.frozen
        super().__post_init__(**without_code(kwargs))

    attends_in_frames = True

    @property
    def cell(self) -> Grid:
        """
        (frames, rows, columns) of pixels that one cell of the grid stands for. With downsampling slot t reads frames
        2t - 1, 2t and 2t + 1: its cell is 2t and 2t + 1.
        """
        return 2 if self.temporal_downsampling else 1, self.patch_size, self.patch_size

    @property
    def pooled_size(self) -> int:
        """Width of the features, `pooler_output`."""
        return self.hidden_size

    @property
    def local_width(self) -> int:
        """Inner width of a local block."""
        return int(self.hidden_size / self.local_reduction)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        (slots, rows, columns) for clips of that size, of any number of frames.

        Raises:
            ValueError: for a height or width that the patches do not divide.
        """
        rows, columns = _whole_patches(self, height, width)
        return -(-frames // self.cell[0]), rows, columns

    def validate_architecture(self):
        """Refuses contradictions, naming both fields."""
        super().validate_architecture()
        positive = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "num_channels")
        _require_positive(self, *positive, "patch_size", "image_size", "local_reduction")
        _require_whole_heads(self)
        if self.image_size % self.patch_size:
            _refuse("image_size", f"{self.image_size} is no multiple of `patch_size` {self.patch_size}.")
        for name in ("global_dropout", "drop_path_rate", "global_drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                _refuse(name, f"must lie in [0, 1), got {getattr(self, name)}.")
        self._check_blocks()
        self._check_frozen()

    def _check_blocks(self):
        if self.local_blocks not in (0, 1, 2):
            _refuse("local_blocks", f"a layer has 0, 1 or 2, got {self.local_blocks}.")
        if self.local_norm not in LOCAL_NORMS:
            _refuse("local_norm", f"{self.local_norm!r} is unknown; known are {', '.join(LOCAL_NORMS)}.")
        if self.local_width < 1:
            _refuse("local_reduction", f"{self.local_reduction} leaves nothing of `hidden_size` {self.hidden_size}.")
        layers = list(self.global_layers)
        if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= self.num_hidden_layers:
            _refuse(
                "global_layers",
                f"must be increasing numbers of layers, from 0 to {self.num_hidden_layers - 1} "
                f"(`num_hidden_layers` {self.num_hidden_layers}), and at least one, got {layers}.",
            )

    def _check_frozen(self):
        if not self.frozen:
            return
        if self.balance:
            _refuse("balance", "the class tokens are no part of the features if `frozen` is set: leave it out.")
        if self.local_blocks and self.local_norm != "frozen":
            _refuse(
                "local_norm",
                f"{self.local_norm!r} moves the running numbers of the `local_blocks` in training, and `frozen` "
                "keeps all that is in the layers: set it to 'frozen'.",
            )
        if self.drop_path_rate:
            _refuse(
                "drop_path_rate",
                f"{self.drop_path_rate} drops branches of layers that `frozen` keeps as they are: set it to 0 "
                "(`global_drop_path_rate` is that of the global blocks).",
            )


@dataclass
class UniFormerV2Output(VisionStates):
    """
    Attributes:
        last_hidden_state: (B, T, h, w, D), what leaves the last layer.
        frame_states: (B, T, 1, D), the class token of each slot.
        clip_states: (B, 1, D), the last query, if the configuration's `summary_token` asks for it.
        pooler_output: (B, D), the features of the clip, as published.
        query: (B, D), the last query.
        hidden_states, attentions: if asked for: what enters the first layer and what leaves each, (B, T, N, D); and
            the weights of each layer's attention, (B * T, heads, N, N).
    """

    query: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


class UniFormerV2Linear(nn.Linear):
    """
    A linear layer that says how its weight and its bias start: "torch", as torch has it, "xavier" (uniform, of a
    weight), or "zero".
    """

    def __init__(self, inputs: int, outputs: int, weight: str = "torch", bias: str = "torch"):
        super().__init__(inputs, outputs)
        self.start = weight, bias


class UniFormerV2LayerNorm(nn.LayerNorm):
    """CLIP's: in float32 whatever the type of what it is given, and back to that type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class UniFormerV2BatchNorm(nn.BatchNorm1d):
    """BatchNorm a channel of (tokens, D). If it is frozen, it uses its running numbers in training too."""

    def __init__(self, width: int, frozen: bool):
        super().__init__(width, eps=1e-5, momentum=0.1)
        self.frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "UniFormerV2BatchNorm":
        return super().train(mode and not self.frozen)


class UniFormerV2LocalBlock(nn.Module):
    """
    Mixes each patch with those in its place one slot before and behind: BatchNorm, D to R channels, a convolution of
    length 3 along time a channel, R to D. There is no activation between them. It is not computed again in the
    backward pass, which would count a batch twice in the running numbers.
    """

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        inner = config.local_width
        self.norm = UniFormerV2BatchNorm(config.hidden_size, config.local_norm == "frozen")
        self.reduce = nn.Linear(config.hidden_size, inner)
        self.mix = nn.Conv2d(inner, inner, (3, 1), padding=(1, 0), groups=inner)
        self.expand = UniFormerV2Linear(inner, config.hidden_size, "zero", "zero")

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, T, h * w, D) -> what is added to it, of the same shape"""
        x = self.norm(patches.flatten(0, 2)).view(patches.shape)  # (B, T, h * w, D) -> (B * T * h * w, D) -> back
        x = self.reduce(x).permute(0, 3, 1, 2)  # (B, T, h * w, R) -> (B, R, T, h * w)
        return self.expand(self.mix(x).permute(0, 2, 3, 1))  # (B, R, T, h * w) -> (B, T, h * w, R)


class UniFormerV2Attention(GradientCheckpointingLayer):
    """LayerNorm, and attention among the tokens of each slot."""

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.is_causal = False
        self.norm = UniFormerV2LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = UniFormerV2Linear(width, 3 * width, "xavier", "zero")
        self.out = UniFormerV2Linear(width, width, bias="zero")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        (B, T, N, D) -> what is added to it, of the same shape; and the weights (B * T, heads, N, N) if the kernel
        gives them
        """
        B, T, N, D = x.shape
        # (B, T, N, 3D) -> (3, B * T, heads, N, D / heads)
        query, key, value = self.qkv(self.norm(x)).view(B * T, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        states, weights = attention(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.out(states.reshape(B, T, N, D)), weights


class UniFormerV2MLP(GradientCheckpointingLayer):
    """LayerNorm, and the MLP of a layer."""

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        width = config.hidden_size
        self.norm = UniFormerV2LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.mlp_ratio * width)
        self.fc2 = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(quick_gelu(self.fc1(self.norm(x))))


class UniFormerV2Layer(nn.Module):
    """Local block, attention within each slot, a second local block, MLP; each adds to the tokens."""

    def __init__(self, config: UniFormerV2Config, drop_path: float):
        super().__init__()
        self.local_1 = UniFormerV2LocalBlock(config) if config.local_blocks > 0 else None
        self.attention = UniFormerV2Attention(config)
        self.local_2 = UniFormerV2LocalBlock(config) if config.local_blocks > 1 else None
        self.mlp = UniFormerV2MLP(config)
        self.drop_path = VioletDropPath(drop_path)  # of a clip, with all its slots

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, N, D) -> the same shape"""
        x = self.add_local(self.local_1, x)
        x = x + self.drop_path(self.attention(x)[0])
        x = self.add_local(self.local_2, x)
        return x + self.drop_path(self.mlp(x))

    def add_local(self, block: UniFormerV2LocalBlock | None, x: torch.Tensor) -> torch.Tensor:
        if block is None:
            return x
        patches = x[:, :, 1:]
        return torch.cat([x[:, :, :1], patches + self.drop_path(block(patches))], dim=2)


class UniFormerV2GlobalAttention(nn.Module):
    """
    One query attends to all tokens of a clip. Query, key and value have one packed weight, as published; it is a
    parameter and no Linear, because the query is projected apart from the others.
    """

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.is_causal = False
        self.query_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.memory_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out = UniFormerV2Linear(width, width, "zero", "zero")

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """(B, 1, D), (B, T * N, D) -> what is added to the query, (B, 1, D)"""
        B, _, D = query.shape
        q_weight, kv_weight = self.in_proj_weight.split((D, 2 * D))
        q_bias, kv_bias = self.in_proj_bias.split((D, 2 * D))
        q = nn.functional.linear(self.query_norm(query), q_weight, q_bias)
        q = q.view(B, 1, self.num_heads, -1).transpose(1, 2)  # (B, 1, D) -> (B, heads, 1, D / heads)
        kv = nn.functional.linear(self.memory_norm(memory), kv_weight, kv_bias)
        # (B, T * N, 2D) -> (2, B, heads, T * N, D / heads)
        key, value = kv.view(B, memory.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        return self.out(attention(self, q, key, value, None, scaling=self.scaling, dropout=0.0)[0].reshape(B, 1, D))


class UniFormerV2GlobalMLP(nn.Module):
    """LayerNorm, and the MLP of a global block."""

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        width = config.hidden_size
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = UniFormerV2Linear(width, config.mlp_ratio * width, "xavier")
        self.dropout = nn.Dropout(config.global_dropout)
        self.fc2 = UniFormerV2Linear(config.mlp_ratio * width, width, "zero", "zero")

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(quick_gelu(self.fc1(self.norm(query)))))


class UniFormerV2GlobalBlock(GradientCheckpointingLayer):
    """
    One query reads a layer's tokens: patches with a convolution over their neighbours in time and space added to
    them, which is no part of what the next layer gets, and class tokens.
    """

    def __init__(self, config: UniFormerV2Config, drop_path: float):
        super().__init__()
        width = config.hidden_size
        self.place = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.attention = UniFormerV2GlobalAttention(config)
        self.mlp = UniFormerV2GlobalMLP(config)
        self.drop_path = VioletDropPath(drop_path)

    def forward(self, query: torch.Tensor, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The query (B, 1, D) and tokens (B, T, N, D) of a grid (T, h, w) -> the query (B, 1, D)"""
        patches = x[:, :, 1:]
        # (B, T, h * w, D) -> (B, D, T, h, w) -> (B, T, h * w, D)
        places = self.place(patches.unflatten(2, grid[1:]).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).flatten(2, 3)
        memory = torch.cat([x[:, :, :1], patches + places], dim=2).flatten(1, 2)  # (B, T, N, D) -> (B, T * N, D)
        query = query + self.drop_path(self.attention(query, memory))
        return query + self.drop_path(self.mlp(query))


class UniFormerV2Embeddings(nn.Module):
    """Pixels to patches, a class token in each slot, positions in the frame (there are none in time), LayerNorm."""

    def __init__(self, config: UniFormerV2Config):
        super().__init__()
        width, side = config.hidden_size, config.patch_size
        self.side = config.image_size // side
        frames, step, before = (3, 2, 1) if config.temporal_downsampling else (1, 1, 0)
        self.patch_embedding = nn.Conv3d(
            config.num_channels,
            width,
            kernel_size=(frames, side, side),
            stride=(step, side, side),
            padding=(before, 0, 0),
            bias=False,
        )
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(1 + self.side**2, width))
        self.norm = UniFormerV2LayerNorm(width, eps=config.layer_norm_eps)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """(1 + rows * columns, D): the learned ones, or, for another grid, those of the patches interpolated."""
        if (rows, columns) == (self.side, self.side):
            return self.position_embedding
        of_class, of_patches = self.position_embedding.split((1, self.side**2))
        # (side * side, D) -> (1, D, side, side) -> (1, D, rows, columns) -> (rows * columns, D)
        grid = of_patches.unflatten(0, (self.side, self.side)).permute(2, 0, 1)[None]
        grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([of_class, grid[0].flatten(1).t()])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, frames, channels, H, W) -> (B, T, N, D)"""
        x = pixels.transpose(1, 2).to(self.patch_embedding.weight.dtype)  # -> (B, channels, frames, H, W)
        x = self.patch_embedding(x).permute(0, 2, 3, 4, 1)  # (B, D, T, h, w) -> (B, T, h, w, D)
        B, T, rows, columns, D = x.shape
        x = torch.cat([self.class_embedding.expand(B, T, 1, D).to(x.dtype), x.flatten(2, 3)], dim=2)
        return self.norm(x + self.positions(rows, columns).to(x.dtype))


def _grows(rate: float, number: int) -> list[float]:
    """`number` rates from 0 to `rate`, in equal steps."""
    return [rate * i / max(number - 1, 1) for i in range(number)]


class UniFormerV2Model(SavedWhole, PreTrainedModel):
    """UniFormerV2 without its head. Freshly initialised it is its picture encoder: new parts start at zero."""

    config_class = UniFormerV2Config
    base_model_prefix = "backbone"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["UniFormerV2Layer", "UniFormerV2GlobalBlock"]
    _can_record_outputs = {"hidden_states": UniFormerV2Layer, "attentions": UniFormerV2Attention}

    def __init__(self, config: UniFormerV2Config):
        super().__init__(config)
        self.embeddings = UniFormerV2Embeddings(config)
        rates = _grows(config.drop_path_rate, config.num_hidden_layers)
        self.layers = nn.ModuleList(UniFormerV2Layer(config, rate) for rate in rates)
        self.query = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        rates = _grows(config.global_drop_path_rate, len(config.global_layers))
        self.global_blocks = nn.ModuleList(UniFormerV2GlobalBlock(config, rate) for rate in rates)
        self.balance = nn.Parameter(torch.empty(config.hidden_size)) if config.balance else None
        self.post_init()
        self.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            self._start(module)
        elif isinstance(module, UniFormerV2Embeddings):
            std = self.config.hidden_size**-0.5
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.position_embedding, std=std)
        elif isinstance(module, UniFormerV2GlobalAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, UniFormerV2Model):
            init.zeros_(module.query)
            if module.balance is not None:
                init.zeros_(module.balance)

    @staticmethod
    def _start(layer: nn.Linear | nn.Conv2d | nn.Conv3d) -> None:
        weight, bias = getattr(layer, "start", ("torch", "zero" if isinstance(layer, nn.Conv3d) else "torch"))
        reach = layer.weight[0].numel() ** -0.5  # torch's own start, of weight and bias
        if weight == "torch":
            init.uniform_(layer.weight, -reach, reach)
        elif weight == "xavier":
            init.xavier_uniform_(layer.weight)
        else:
            init.zeros_(layer.weight)
        if layer.bias is not None:
            init.uniform_(layer.bias, -reach, reach) if bias == "torch" else init.zeros_(layer.bias)

    def train(self, mode: bool = True) -> "UniFormerV2Model":
        """As torch's. Parts that the configuration freezes get no gradients; loading would have them ask for some."""
        if self.config.frozen:
            self.embeddings.requires_grad_(False)
            self.layers.requires_grad_(False)
        return super().train(mode)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> UniFormerV2Output:
        """
        Args:
            pixel_values_videos: (B, frames, channels, H, W), normalised; H and W are multiples of `patch_size`.

        Raises:
            ValueError: for another height or width.
        """
        grid = self.config.grid(pixel_values_videos.shape[1], *pixel_values_videos.shape[3:])
        blocks = dict(zip(self.config.global_layers, self.global_blocks, strict=True))
        query = self.query.expand(len(pixel_values_videos), -1, -1)
        learns = torch.is_grad_enabled() and not self.config.frozen
        with torch.set_grad_enabled(learns):
            x = self.embeddings(pixel_values_videos)
        for i, layer in enumerate(self.layers):
            with torch.set_grad_enabled(learns):
                x = layer(x)
            if i in blocks:
                query = blocks[i](query, x, grid)
        of_clip = query[:, 0]
        features = of_clip
        if self.balance is not None:
            share = self.balance.sigmoid()  # of the class tokens, a channel
            features = (1 - share) * of_clip + share * x[:, :, 0].mean(1)
        return UniFormerV2Output(
            last_hidden_state=x[:, :, 1:].unflatten(2, grid[1:]),  # (B, T, h * w, D) -> (B, T, h, w, D)
            frame_states=x[:, :, :1],
            clip_states=query if self.config.summary_token else None,
            pooler_output=features,
            query=of_clip,
        )


AutoConfig.register(UniFormerV2Config.model_type, UniFormerV2Config, exist_ok=True)
AutoModel.register(UniFormerV2Config, UniFormerV2Model, exist_ok=True)
