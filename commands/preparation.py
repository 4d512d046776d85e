"""`violet prepare`: what is made once that every run would make."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

SOURCES = "a table, a folder of clips, shards, hub:NAME[:CONFIG][@SPLIT], task.json@split, .tsv, .pkl or .yaml"
TABLE_FOLDER = "where a table's paths start"
PACKED = {
    "shards": "tar files in WebDataset's format, with a manifest",
    "frames": "a folder of frames for each clip",
}


def prepare_parser() -> argparse.ArgumentParser:
    """The arguments of `violet prepare`: `what` is to be made, and the arguments of the function that makes it."""
    parser = argparse.ArgumentParser(
        prog="violet prepare", description="Does once what every run would do. The same call goes on where it stopped."
    )
    kinds = parser.add_subparsers(dest="what", required=True)
    _add_packed(kinds)
    _add_targets(kinds)
    _add_clips(kinds)
    _add_captions(kinds)
    _add_paragraphs(kinds)
    return parser


def prepare(what: str, options: Mapping[str, Any]) -> int:
    """Makes it, says what there is now, and returns the exit status."""
    print(MAKERS[what](**options))
    return 0


def _add_packed(kinds: Any) -> None:
    for name, text in PACKED.items():
        kind = kinds.add_parser(name, help=text, description=f"Any data set -> {text}.")
        kind.add_argument("source", help=SOURCES)
        kind.add_argument("--output", required=True, help="the folder")
        kind.add_argument("--video_folder", help=f"{TABLE_FOLDER}; the pictures of a task.json")
        kind.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
        kind.add_argument(
            "--bad_samples",
            choices=["raise", "skip"],
            default="raise",
            help="what to do with one that is unreadable",
        )
        if name == "shards":
            kind.add_argument("--shard_size", type=float, default=256, help="MB of a shard, about (default: 256)")
        else:
            kind.add_argument("--num_frames", type=int, help="frames of each clip, evenly spaced (default: --model's)")
            kind.add_argument(
                "--model",
                help="cut and resize the frames as this model sees them: a folder or a name on the Hub. With --format "
                "png it gets the same pixels as from the clips",
            )
            kind.add_argument("--format", choices=["jpg", "png"], default="jpg", help="of the frames (default: jpg)")


def _shards(**options: Any) -> str:
    from ..data.sharding import prepare_shards

    manifest = prepare_shards(**options)
    return (
        f"{options['output']} holds {manifest['samples']} clips with {manifest['rows']} rows in "
        f"{len(manifest['shards'])} shards; {manifest['skipped']} clips could not be read."
    )


def _frames(model: str | None, **options: Any) -> str:
    from ..data.extracting import prepare_frames

    processor = None
    if model is not None:
        from .. import register

        register()
        from ..processing import VioletVideoProcessor
        from .prediction import find_model

        processor = VioletVideoProcessor.from_pretrained(find_model(model)[0])
    frames = prepare_frames(**options, processor=processor)
    return (
        f"{options['output']} holds the frames of {frames.clips - frames.skipped} clips ({frames.rows} rows): "
        f"{frames.extracted} were extracted now; {frames.skipped} clips could not be read."
    )


def _add_targets(kinds: Any) -> None:
    kind = kinds.add_parser(
        "targets",
        help="the targets of masked visual modelling, for a data set of a pre-training recipe",
        description="Stores the target of each video, as the recipe's run would compute it at every step.",
    )
    kind.add_argument("recipe", help="the YAML file of violet pretrain")
    kind.add_argument("--target", required=True, help="such as hog, depth or align; its teacher is the recipe's")
    kind.add_argument("--output", required=True, help="the folder for the targets")
    kind.add_argument("--dataset", help="its name in the recipe, if there are several")


def _targets(recipe: str, target: str, output: str, dataset: str | None) -> str:
    from .. import register

    register()
    from ..training.preparing import prepare_targets
    from ..training.recipe import load_recipe

    done = prepare_targets(load_recipe(recipe), target, output, dataset)
    return (
        f"{output} holds the {target} targets of {done.videos} videos ({done.rows} rows): "
        f"{done.computed} were computed, {done.videos - done.computed} were there.\n"
        f"Name them in the recipe's data set:\n  targets: {{{target}: {output}}}"
    )


def _add_clips(kinds: Any) -> None:
    kind = kinds.add_parser(
        "clips",
        help="a clip of frames for each sentence of long videos",
        description="Long videos with the times of their sentences -> a folder of frames for each sentence, and "
        "clips.jsonl, which violet prepare paragraphs takes.",
    )
    kind.add_argument(
        "source",
        help="a table with video and subtitles (.srt or .vtt); the .json of ActivityNet Captions or of DiDeMo",
    )
    kind.add_argument("--output", required=True, help="the folder")
    kind.add_argument("--num_frames", type=int, required=True, help="frames of each clip, evenly spaced")
    kind.add_argument("--video_folder", help="where a table's videos start; where the videos are that a .json names")


def _clips(**options: Any) -> str:
    from ..data.cutting import cut_clips

    clips = cut_clips(**options)
    return (
        f"{options['output']} holds {clips.clips} clips of {clips.videos} videos, {clips.cut} were cut now.\n"
        f"  violet prepare paragraphs {options['output']}/clips.jsonl --num_clips 4 --output rows.jsonl"
    )


def _add_captions(kinds: Any) -> None:
    kind = kinds.add_parser(
        "captions",
        help="a caption of each video's middle frame, for the objective omnisource",
        description="Rows with a video -> a .jsonl of the same rows with a caption of the middle frame, written by a "
        "captioning model.",
    )
    kind.add_argument("source", help=SOURCES)
    kind.add_argument("--output", required=True, help="the .jsonl file")
    kind.add_argument("--model", required=True, help="a folder or Hub name of a captioning model")
    kind.add_argument("--column", default="frame_caption", help="of the caption (default: frame_caption)")
    kind.add_argument("--batch_size", type=int, default=16, help="frames at a time (default: 16)")
    kind.add_argument("--video_folder", help=TABLE_FOLDER)


def _captions(model: str, **options: Any) -> str:
    from .. import register

    register()
    from ..training.frame_captions import prepare_captions
    from .prediction import find_model

    written = prepare_captions(**options, model=find_model(model)[0])
    return f"{options['output']} holds {written.rows} rows; {written.written} captions were written now."


def _add_paragraphs(kinds: Any) -> None:
    kind = kinds.add_parser(
        "paragraphs",
        help="rows of consecutive clips of one video, with a sentence for each",
        description="A table of captioned clips (video, caption, source, start, and perhaps end) -> a .jsonl whose "
        "rows each have several that follow one another in the same source.",
    )
    kind.add_argument("source", help=SOURCES)
    kind.add_argument("--output", required=True, help="the .jsonl file")
    kind.add_argument("--num_clips", type=int, required=True, help="clips of a row")
    kind.add_argument("--max_gap", type=float, help="seconds between two clips that follow one another (default: any)")
    kind.add_argument("--video_folder", help=TABLE_FOLDER)


def _paragraphs(**options: Any) -> str:
    from ..data.grouping import group_clips

    grouped = group_clips(**options)
    return (
        f"{options['output']} holds {grouped.rows} rows of {options['num_clips']} clips each, of "
        f"{grouped.clips} clips; {grouped.left_out} are in none, since too few follow one another."
    )


MAKERS: Mapping[str, Callable[..., str]] = {
    "shards": _shards,
    "frames": _frames,
    "targets": _targets,
    "clips": _clips,
    "captions": _captions,
    "paragraphs": _paragraphs,
}
"""What `violet prepare` makes -> the function that makes it, with the options of its parser."""
