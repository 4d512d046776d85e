"""Parameter groups of the optimiser: which parameters decay, and the learning rate of each layer."""

from typing import Any

import torch
from torch import nn

from ..modeling_violet import VioletModel


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    learning_rate: float | None = None,
    backbone_learning_rate: float | None = None,
    layer_decay: float = 1.0,
    logit_scale_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """
    The trained parameters, by whether they decay and by their learning rate.

    Weights of linear and convolutional layers decay, and what a module calls its `matrices()`, such as experts';
    biases, norms, tables of words and positions do not.

    Args:
        learning_rate: of the heads; if it is not given, the optimiser's own goes for all.
        backbone_learning_rate: of the visual backbone; `learning_rate` if it is not given.
        layer_decay: each layer's rate is this factor times that of the layer behind it (Clark et al., 2020,
            arXiv:2003.10555, and Bao et al., 2022, arXiv:2106.08254, for pictures).
        logit_scale_learning_rate: of the projections' temperatures; `learning_rate` if it is not given.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    decayed |= {id(matrix) for module in model.modules() for matrix in getattr(module, "matrices", tuple)()}
    depths = layer_depths(model)
    backbones = [base.video_encoder.vision_model for base in model.modules() if isinstance(base, VioletModel)]
    in_backbone = {id(parameter) for module in backbones for parameter in module.parameters()}
    scales = {id(parameter) for name, parameter in model.named_parameters() if name.endswith("logit_scale")}
    groups: dict[tuple[bool, float | None], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decays, rate = id(parameter) in decayed, learning_rate
        if rate is not None:
            if backbone_learning_rate is not None and id(parameter) in in_backbone:
                rate = backbone_learning_rate
            rate *= layer_decay ** depths.get(id(parameter), 0)
            if logit_scale_learning_rate is not None and id(parameter) in scales:
                rate = logit_scale_learning_rate
        group = groups.setdefault((decays, rate), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        if rate is not None:
            group["lr"] = rate
        group["params"].append(parameter)
    return [group for _, group in sorted(groups.items(), key=lambda entry: not entry[0][0])]  # decaying ones first


def layer_depths(model: nn.Module) -> dict[int, int]:
    """
    id of a parameter -> how many layers lie between it and the heads: 0 for heads, 1 for the last fusion layer; what
    enters the fusion is as deep as the last block of the backbone, and its patch embedding the deepest of all.
    """
    depths: dict[int, int] = {}

    def put(module: nn.Module, depth: int) -> None:
        for parameter in module.parameters():
            depths.setdefault(id(parameter), depth)

    for base in [module for module in model.modules() if isinstance(module, VioletModel)]:
        fusion = list(base.fusion.layers)
        for distance, layer in enumerate(reversed(fusion), start=1):
            put(layer, distance)
        depth = len(fusion) + 1
        if base.fusion.norm is not None:
            put(base.fusion.norm, 0)
        if base.projection is not None:
            put(base.projection, 0)
        vision_model = base.video_encoder.vision_model
        blocks = base.video_encoder.encoder.layers(vision_model)
        for distance, block in enumerate(reversed(blocks)):
            put(block, depth + distance)
        behind = False  # parameters come in the order of the modules: in front of the blocks, theirs, behind them
        for parameter in vision_model.parameters():
            behind = behind or id(parameter) in depths
            depths.setdefault(id(parameter), depth if behind else depth + len(blocks))
        put(base, depth)
    return depths


def give_zero_gradients(model: nn.Module) -> None:
    """
    Gives trained parameters without a gradient the gradient zero: the optimiser then moves them on by their moments,
    and they decay, as in frameworks whose gradients are always whole. Torch's pass them over.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
