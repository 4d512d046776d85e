"""
What a shortlist costs and saves: the built-in clips as one gallery on disk, searched exhaustively and in two stages,
with shortlists of several sizes, by a violet-tiny that was fine-tuned for retrieval (see measurements/tasks.py).

    python measurements/retrieval.py --model outputs/tasks/retrieval-0 [--shapes outputs/tasks/moving_shapes]
        [--videos 1000] [--texts 300] [--json rows.json]

Prints, for each size, R@1, R@5 and R@10 of texts that look for their video, what they lose against the exhaustive
search, and the seconds that the search takes. `in the list` is the share of texts whose video is on the shortlist: no
second stage finds more.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import AutoProcessor

from violet import VioletForRetrieval
from violet.core.files import write_json
from violet.data import moving_shapes
from violet.evaluation.galleries import encode_gallery
from violet.evaluation.retrieval import retrieval_measures
from violet.evaluation.searching import rank_in_two_stages, score_all, score_pairs, shortlist_by_embeds

CLIPS = 8000
SIZES = (5, 10, 20, 50, 100, 200)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shapes", type=Path, default=Path("outputs/tasks/moving_shapes"))
    parser.add_argument("--seed", type=int, default=0, help="of the clips")
    parser.add_argument("--videos", type=int, default=1000, help="of the gallery")
    parser.add_argument("--texts", type=int, default=300, help="that are searched for")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--output", type=Path, default=Path("outputs/retrieval/gallery"))
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()

    model = VioletForRetrieval.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    clips = moving_shapes(options.shapes, train=CLIPS, seed=options.seed)
    unseen = [clip for split in ("test", "validation", "test_unseen", "test_together") for clip in clips[split]]
    first = {clip["caption"]: clip for clip in reversed(unseen)}  # no caption twice: else no text knows its video
    chosen = list(reversed(first.values()))[: options.videos]
    start = time.perf_counter()
    gallery = encode_gallery(model, processor, [clip["video"] for clip in chosen], options.output, batch_size=32)
    encoding = time.perf_counter() - start
    texts = processor(text=[clip["caption"] for clip in chosen[: options.texts]])
    own = list(range(len(texts["input_ids"])))
    print(f"{len(chosen)} videos (encoded in {encoding:.1f} s), {len(own)} texts, {torch.get_num_threads()} threads\n")
    print(
        f"{'shortlist':>10} {'in the list':>12} {'R@1':>7} {'R@5':>7} {'R@10':>7} {'loss of R@1':>12} {'seconds':>8}"
    )

    start = time.perf_counter()
    exhaustive = score_all(model, gallery, **texts)
    baseline = time.perf_counter() - start
    rows = []

    def show(size: int, scores: torch.Tensor, listed: float, seconds: float) -> None:
        measures = retrieval_measures(scores, own)
        metrics = {f"r{k}": measures[f"text_to_video_r{k}"].value() for k in (1, 5, 10)}
        metrics["in_the_list"] = listed
        if not rows:
            metrics["r1_interval"] = measures["text_to_video_r1"].interval()
        name = "all" if size == len(chosen) else str(size)
        loss = rows[0]["metrics"]["r1"] - metrics["r1"] if rows else 0.0
        print(
            f"{name:>10} {listed:12.3f} {metrics['r1']:7.3f} {metrics['r5']:7.3f} {metrics['r10']:7.3f} {loss:12.3f} "
            f"{seconds:8.2f}",
            flush=True,
        )
        rows.append(
            {
                "name": f"retrieval, shortlist of {name}",
                "seconds": seconds,
                "rate": len(own) / seconds,
                "share_of_matmul": None,
                "baseline_seconds": baseline,
                "metrics": metrics,
                "settings": {"shortlist": size, "videos": len(chosen), "texts": len(own), "model": options.model},
            }
        )

    show(len(chosen), exhaustive, 1.0, baseline)
    for size in options.sizes:
        start = time.perf_counter()
        candidates = shortlist_by_embeds(model, gallery, **texts, count=size)
        scores = score_pairs(model, gallery, **texts, candidates=candidates)
        seconds = time.perf_counter() - start
        listed = (candidates == torch.tensor(own)[:, None]).any(1).float().mean().item()
        show(size, rank_in_two_stages(len(chosen), candidates, scores), listed, seconds)
    if options.json:
        write_json(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
