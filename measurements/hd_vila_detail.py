"""What a small HD-VILA encoder, trained from nothing, learns of a clip's detail and of its order in time.

    nice -n 19 python measurements/hd_vila_detail.py [--seeds 0 1 2] [--steps 300] [--output outputs/hd_vila.json]

A square of 32 pixels wears stripes of one pixel, along rows or along columns, and moves 12 pixels a frame in one of
four directions over a field of 128 x 128 pixels that is closed to a ring both ways, seven frames long. At a quarter of
the size both kinds of stripes are the same grey. Texture (chance 0.50) is asked of the sharp frame, direction (chance
0.25) of the small ones, and each of the other as a control; direction also with each clip's frames in another order.
The classifier is a linear layer on the encoder's own vector.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from violet.core.files import write_json
from violet.modeling_violet.encoders.two_resolutions import HdVilaVisionConfig, HdVilaVisionModel

SIDE, SQUARE, STEP, FRAMES, BATCH, TESTED = 128, 32, 12, 7, 32, 512
DIRECTIONS = torch.tensor([(0, STEP), (0, -STEP), (STEP, 0), (-STEP, 0)])


def draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clips (count, frames, side, side), from -0.5 to 1.5, and the number of each one's texture and direction."""
    labels = {
        "texture": torch.randint(2, (count,), generator=generator),
        "direction": torch.randint(4, (count,), generator=generator),
    }
    start = torch.randint(SIDE, (count, 1, 2), generator=generator)
    places = (start + DIRECTIONS[labels["direction"]].unsqueeze(1) * torch.arange(FRAMES).view(1, -1, 1)) % SIDE
    axis = torch.arange(SIDE)
    inside = ((axis - places.unsqueeze(-1)) % SIDE) < SQUARE  # (count, frames, 2, side)
    square = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    along = torch.where((labels["texture"] == 0).view(-1, 1, 1), axis.view(1, -1, 1), axis.view(1, 1, -1)) % 2
    return torch.where(square, 2.0 * along.unsqueeze(1) - 0.5, torch.tensor(-0.5)), labels


def as_inputs(clips: torch.Tensor, resolutions: str) -> dict[str, torch.Tensor]:
    """The encoder's inputs: small frames, each pixel the mean of 4 x 4, and the middle frame sharp."""
    small = nn.functional.avg_pool2d(clips, 4)
    made = {"pixel_values_videos": small, "pixel_values_detail": clips[:, FRAMES // 2 : FRAMES // 2 + 1]}
    names = encoder_config(resolutions).inputs
    return {name: made[name].unsqueeze(2).expand(-1, -1, 3, -1, -1) for name in names}


def encoder_config(resolutions: str) -> HdVilaVisionConfig:
    return HdVilaVisionConfig(
        resolutions=resolutions,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        resnet_width=8,
        resnet_depths=(1, 1, 1, 1),
        position_grid=(2, 2),
        drop_path_rate=0.0,
    )


def start_awake(model: HdVilaVisionModel) -> None:
    """
    A start from nothing that learns within minutes, in place of the published one, which is meant for trained ResNets:
    convolutions keep the size of what passes them (He et al., 2015, arXiv:1502.01852), and time is not zero.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif "temporal_fc.weight" in name:
            nn.init.eye_(parameter)
        elif "time_embeddings" in name:
            nn.init.normal_(parameter, std=1.0)
        elif "position_embeddings" in name:
            nn.init.normal_(parameter, std=0.5)
        elif parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        elif "bn3.weight" in name:
            nn.init.constant_(parameter, 0.5)


class Neighbours(nn.Module):
    """
    An order-keeping loss, in training only: from each cell's state of a frame, what that frame shows there, and from
    the middle frame's state behind the first attention over time, what all frames show there, in their order: 4 x 4
    means of 16 x 16 pixels. By the classifier only, the loss stood at chance after 250 steps (one seed).
    """

    def __init__(self, model: HdVilaVisionModel):
        super().__init__()
        self.of_frame, self.of_clip = nn.Linear(64, 16), nn.Linear(64, 16 * FRAMES)
        self.states: list[torch.Tensor] = []
        assert model.timesformer is not None
        model.timesformer.register_forward_pre_hook(lambda module, inputs: self.states.append(inputs[0]))
        model.timesformer.blocks[0].register_forward_hook(lambda module, inputs, output: self.states.append(output))

    def losses(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two errors, each as a part of the targets' variance."""
        stack, behind = self.states
        self.states.clear()
        means = nn.functional.avg_pool2d(clips, 16)  # (clips, frames, 8, 8)
        shown = means.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
        shown = (shown - shown.mean()) / shown.std()  # (clips, frames, cells, 16)
        own = self.of_frame(stack.flatten(3).transpose(2, 3))
        all_frames = self.of_clip(behind[:, FRAMES // 2]).unflatten(2, (FRAMES, 16)).transpose(1, 2)
        return (own - shown).square().mean(), (all_frames - shown).square().mean()


def train(resolutions: str, asked: str, seed: int, steps: int, learning_rate: float, report: bool) -> dict[str, float]:
    """One run: accuracy on new clips, with their frames in order and in another one."""
    torch.manual_seed(seed)
    model = HdVilaVisionModel(encoder_config(resolutions))
    start_awake(model)
    classes = {"texture": 2, "direction": 4}[asked]
    head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, classes))
    neighbours = None if model.timesformer is None else Neighbours(model)
    parameters = [*model.parameters(), *head.parameters()]
    if neighbours is not None:
        parameters += [*neighbours.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    mean = None
    for step in range(steps):
        clips, labels = draw(BATCH, generator)
        logits = head(model(**as_inputs(clips, resolutions)).pooler_output)
        loss = nn.functional.cross_entropy(logits, labels[asked])
        shown = [loss.item()]
        for more in () if neighbours is None else neighbours.losses(clips):
            shown.append(more.item())
            loss = loss + more
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        mean = shown if mean is None else [0.95 * old + 0.05 * new for old, new in zip(mean, shown, strict=True)]
        if report and step % 50 == 49:
            print(f"    step {step + 1}: losses {', '.join(f'{one:.3f}' for one in mean)}", flush=True)
    return measure(model.eval(), head.eval(), resolutions, asked)


@torch.no_grad()
def measure(model: HdVilaVisionModel, head: nn.Module, resolutions: str, asked: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(10_000)
    clips, labels = draw(TESTED, generator)
    found = {}
    for name in ("in order", "shuffled"):
        right = 0
        for part in range(0, TESTED, BATCH):
            some = clips[part : part + BATCH]
            if name == "shuffled":
                order = torch.rand(len(some), FRAMES, generator=generator).argsort(1)
                some = some[torch.arange(len(some))[:, None], order]
            guessed = head(model(**as_inputs(some, resolutions)).pooler_output).argmax(-1)
            right += int((guessed == labels[asked][part : part + BATCH]).sum())
        found[name] = right / TESTED
    return found


RUNS = [
    ("both", "texture"),
    ("sharp", "texture"),
    ("small", "texture"),
    ("small", "direction"),
    ("sharp", "direction"),
    ("both", "direction"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--runs", nargs="+", default=[f"{inputs}/{asked}" for inputs, asked in RUNS])
    parser.add_argument("--output", type=Path, default=Path("outputs/hd_vila_detail.json"))
    parser.add_argument("--report", action="store_true", help="print the loss on the way")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {}
    for run in args.runs:
        resolutions, asked = run.split("/")
        for seed in args.seeds:
            began = time.time()
            found = train(resolutions, asked, seed, args.steps, args.learning_rate, args.report)
            results.setdefault(run, []).append(found)
            print(run, f"seed {seed}:", json.dumps(found), f"{time.time() - began:.0f} s", flush=True)
        medians = {name: statistics.median(one[name] for one in results[run]) for name in results[run][0]}
        print(run, "median:", json.dumps(medians), flush=True)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)


if __name__ == "__main__":
    main()
