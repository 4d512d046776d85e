"""The `violet` command: one function per sub-command, and nothing heavy imported before it is chosen."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._version import __version__


def main(argv: list[str] | None = None) -> int:
    """Runs a sub-command and returns the exit status: 0, 1 if it failed, 2 if it was called wrongly."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [
            f"  {name:{width}}  {(command.__doc__ or '').strip().splitlines()[0]}"
            for name, command in COMMANDS.items()
        ]
        print("usage: violet COMMAND [...]\n\nVIOLET video-language models.\n\ncommands:")
        print("\n".join(lines))
        print("\n`violet COMMAND --help` tells a command's options; `violet --version` the version.")
        return 0
    if arguments[0] == "--version":
        print(f"violet {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        print(f"violet: there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


def finetune_command(argv: list[str]) -> int:
    """Fine-tune for a task: questions, blanks, search or captions; your own table or the moving shapes."""
    from . import register

    register()
    from transformers import HfArgumentParser

    from .commands.prediction import example_command
    from .training import DataArguments, FinetuningArguments, ModelArguments, SettingsError, finetune
    from .training.arguments import read_settings

    parser = HfArgumentParser(
        (ModelArguments, DataArguments, FinetuningArguments),
        prog="violet finetune [settings.yaml|settings.json]",
        description="Fine-tunes a model. Settings may stand in a YAML or JSON file; options given beside it win.",
    )

    def run() -> int:
        options = argv
        if argv and argv[0].endswith((".yaml", ".yml", ".json")):
            settings, options = read_settings(argv[0]), argv[1:]
            odd = sorted(set(settings) - {action.dest for action in parser._actions})
            if odd:
                raise SettingsError(f"{argv[0]}: no option is named {', '.join(odd)}; see violet finetune --help.")
            parser.set_defaults(**settings)
        model_arguments, data, training, unknown = parser.parse_args_into_dataclasses(
            options, return_remaining_strings=True
        )
        if unknown:
            raise SettingsError(f"no option is named {' '.join(unknown)}; see violet finetune --help.")
        result = finetune(model_arguments, data, training)
        for name, value in result.metrics.items():
            print(f"{name:24} {value:.4g}")
        print(f"\nThe model is in {training.output_dir}; its README.md says how to use it.")
        rows = result.tables.get("test") or result.tables["train"]
        print(f"  violet {example_command(str(training.output_dir), data.task, rows[0])}")
        return 0

    return explain_errors("finetune", run)


def _list_benchmarks() -> int:
    from .data.benchmarks import BENCHMARKS

    for name, one in BENCHMARKS.items():
        reached = "; ".join(
            f"{source}: {', '.join(f'{value:g}' for value in values.values())}"
            for source, values in one.published.items()
        )
        print(f"{name:32}{one.task:19}{one.about}{f' [{one.metrics[0]} {reached}]' if reached else ''}")
    return 0


def _print_check(found: Any) -> int:
    """Says what is missing in a benchmark's folder; the exit status."""
    for problem in found.problems:
        print(f"MISSING  {problem}")
    for note in found.notes:
        print(f"note     {note}")
    if not found.problems:
        print(", ".join(f"{split}: {len(rows)} rows" for split, rows in found.tables.items()))
    return 1 if found.problems else 0


def benchmark_command(argv: list[str]) -> int:
    """Measure a model on a published benchmark: list them, check a folder, run one."""
    parser = argparse.ArgumentParser(
        prog="violet benchmark",
        description="`list` tells the benchmarks; `check NAME --data FOLDER` what is missing in a folder, and what it "
        "should look like; `run NAME --data FOLDER --model MODEL` fine-tunes as published, measures, and writes a "
        "report. Every option of violet finetune may follow, such as --max_steps, and replaces the recipe's.",
    )
    parser.add_argument("what", choices=["list", "check", "run"])
    parser.add_argument("name", nargs="?", help="of the benchmark, such as msvd-qa")
    parser.add_argument("--data", help="the folder with its annotations and videos")
    parser.add_argument(
        "--recipe",
        help="whose hyper-parameters: v1, v2 (the default, if it has them) or another system's, such as clip-vip",
    )
    parser.add_argument("--measure_only", action="store_true", help="measure the model as it is, without training")
    options, rest = parser.parse_known_args(argv)

    from .data.benchmarks import BENCHMARKS, check_benchmark

    if options.what == "list":
        return _list_benchmarks()
    if options.name not in BENCHMARKS:
        parser.error(f"there is no benchmark {options.name!r}; there are {', '.join(BENCHMARKS)}.")
    if options.data is None:
        parser.error("--data is missing: the folder with the benchmark's files.")
    benchmark = BENCHMARKS[options.name]
    if options.what == "check":
        if rest:
            parser.error(f"check has no option {' '.join(rest)}.")
        return _print_check(check_benchmark(benchmark, options.data))

    from . import register

    register()
    from transformers import HfArgumentParser

    from .training import DataArguments, FinetuningArguments, ModelArguments, SettingsError
    from .training.benchmarking import recipe_options, run_benchmark

    def run() -> int:
        recipe = [f"--{name}={value}" for name, value in recipe_options(benchmark, options.recipe).items()]
        arguments = HfArgumentParser((ModelArguments, DataArguments, FinetuningArguments))
        model, data, training, unknown = arguments.parse_args_into_dataclasses(
            [*recipe, *rest], return_remaining_strings=True
        )
        if unknown:
            raise SettingsError(f"no option is named {' '.join(unknown)}; see violet finetune --help.")
        report = run_benchmark(benchmark, options.data, model, data, training, not options.measure_only)
        intervals = report.evaluation.intervals()
        for said, names in {"": report.headline, **report.metrics_apart()}.items():
            print(f"\n{said}:" if said else "", end="\n" * bool(said))
            for name in names:
                published = f"   published: {report.published[name]:.3f}" if name in report.published else ""
                low, high = intervals.get(name, (None, None))
                interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
                print(f"{name:24} {report.evaluation.metrics[name]:.3f}{interval}{published}")
        print(f"\nThe report is {training.output_dir}/report.html")
        return 0

    return explain_errors("benchmark", run)


def pretrain_command(argv: list[str]) -> int:
    """Pre-train on captioned videos and images: matching, masked words, masked visual modelling."""
    parser = argparse.ArgumentParser(
        prog="violet pretrain",
        description="Pre-trains a model by a recipe, a YAML file (see examples/). Further options replace its "
        "settings: --max_steps 100 --objectives '{vtm: 1, mlm: 1}'. For several processes: accelerate launch "
        "--config_file examples/accelerate_ddp.yaml -m violet.cli pretrain recipe.yaml.",
    )
    parser.add_argument("recipe", help="the YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint")
    options, rest = parser.parse_known_args(argv)

    from . import register

    register()
    from .training.pretraining import pretrain
    from .training.recipe import load_recipe

    tell_progress()

    def run() -> int:
        result = pretrain(load_recipe(options.recipe, read_overrides("pretrain", rest)), options.resume)
        for name, value in result.metrics.items():
            print(f"{name:40} {value:.4g}")
        print(f"\nThe model is in {result.settings['output_dir']}, with its curves in curves.png. Fine-tune it:")
        print(f"  violet finetune --model {result.settings['output_dir']} --train_file train.csv")
        return 0

    return explain_errors("pretrain", run)


def prepare_command(argv: list[str]) -> int:
    """Make shards, frames, clips and paragraphs of long videos, captions of frames, or targets of masked patches."""
    from .commands.preparation import prepare, prepare_parser

    options = vars(prepare_parser().parse_args(argv))
    return explain_errors("prepare", lambda: prepare(options.pop("what"), options))


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="violet inspect",
        description="masking: draws clips under each kind of mask: frames, masks, every target of masked visual "
        "modelling beside its prediction, and the words for the masked caption. flow: says and draws layer by layer "
        "how much of the text's states comes from the video and the reverse, corrected for the numbers of tokens (1: "
        "as much as uniform attention), and what the losses are with another clip's partner. experts: says and draws "
        "layer by layer how many tokens each expert took, of videos, sounds and texts, and how many nobody took.",
    )
    parser.add_argument("what", choices=["masking", "flow", "experts"])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recipe", help="the YAML file of a finished violet pretrain: its model, masks and teachers")
    source.add_argument("--model", help="a folder or Hub name of a pre-trained model")
    parser.add_argument("--video", nargs="+", default=[], help="paths or URLs of videos")
    parser.add_argument("--caption", nargs="+", default=[""], help="one for all videos, or one for each")
    parser.add_argument(
        "--table", help="flow, experts: a table of pairs in place of both, with the columns video and caption"
    )
    parser.add_argument(
        "--teacher", nargs="+", default=[], metavar="TARGET=FOLDER", help="masking: networks of targets that need one"
    )
    parser.add_argument(
        "--rows", nargs="+", default=[], metavar="ROWS", help="flow: also into hidden words, cls, or hidden patches"
    )
    parser.add_argument(
        "--no_special_tokens", action="store_true", help="flow: leave [CLS], [SEP] and the tokens of frames out"
    )
    parser.add_argument("--json", metavar="FILE", help="flow, experts: write all numbers there")
    parser.add_argument("--output", help="the picture (default: masking.png, flow.png or experts.png)")
    return parser


def inspect_command(argv: list[str]) -> int:
    """Draw what a pre-trained model makes of videos and captions: masked ones, or the flow between the two."""
    parser = _inspect_parser()
    options = parser.parse_args(argv)
    if not options.video and not (options.what != "masking" and options.table):
        parser.error("--video is missing")

    from . import register

    register()
    from transformers.utils import logging

    from .training import SettingsError
    from .training.inspecting import inspect_masking
    from .training.inspecting_experts import inspect_experts
    from .training.inspecting_flow import inspect_flow
    from .training.masking import Masking
    from .training.recipe import load_recipe

    def run() -> int:
        logging.disable_progress_bar()
        model, teachers, masking = options.model, {}, None
        if options.recipe:
            recipe = load_recipe(options.recipe)
            model, masking = recipe.output_dir, Masking(recipe.masks, recipe.patch_ratio, recipe.word_ratio)
            teachers = {name: head["teacher"] for name, head in recipe.mvm_targets.items() if head.get("teacher")}
        output = options.output or f"{options.what}.png"
        pairs = options.video, options.caption, options.table
        if options.what == "experts":
            print("\n".join(inspect_experts(model, *pairs, output, options.json).lines()))
            print(output)
            return 0
        if options.what == "flow":
            special = not options.no_special_tokens
            report = inspect_flow(model, *pairs, output, options.rows, masking, special, options.json)
            print("\n".join(report.lines()))
            print(output)
            return 0
        for entry in options.teacher:
            name, equals, folder = entry.partition("=")
            if not equals or not folder:
                raise SettingsError(f"--teacher: {entry!r} must be TARGET=FOLDER.")
            teachers[name] = folder
        print(inspect_masking(model, options.video, options.caption, output, teachers, masking))
        return 0

    return explain_errors("inspect", run)


def predict_command(argv: list[str]) -> int:
    """Ask a model about videos: questions, choices, blanks, captions, searches, features; whatever it can."""
    parser = argparse.ArgumentParser(
        prog="violet predict",
        description="Asks a model about videos. What is asked depends on the options: --question; --question with "
        "--options to choose among; --text with [MASK]s to fill; --gallery and --text to find clips by; --features; "
        "without any of them, a caption. A video that cannot be read is named on stderr and passed over, and the exit "
        "status is then 1.",
    )
    clips = "paths, URLs, folders of clips or of frames, patterns such as 'clips/*.mp4'"
    parser.add_argument("--model", required=True, help="a folder or Hub name; violet-tiny comes with the package")
    parser.add_argument("--video", nargs="+", metavar="CLIP", help=clips)
    parser.add_argument("--question", nargs="+", help="one for all videos, or one for each; several for one video")
    parser.add_argument("--options", nargs="+", metavar="OPTION", help="the answers to choose among")
    parser.add_argument("--text", nargs="+", help="a sentence with a [MASK] for each blank; with --gallery, a search")
    parser.add_argument("--gallery", nargs="+", metavar="CLIP", help="the clips to search, or a stored gallery")
    parser.add_argument("--prompt", help="what a caption is written for, if the model was trained with prompts")
    parser.add_argument(
        "--features", metavar="FILE.npz", help="write a vector for each video (with --text, for both) into this file"
    )
    parser.add_argument("--top_k", type=positive, help="how many answers (default: 1; in a search 5)")
    parser.add_argument("--batch_size", type=positive, default=8, help="videos in a pass (default: 8)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--compile", action="store_true", help="compile the model first: minutes at the start, less for each clip"
    )
    options = parser.parse_args(argv)

    from . import register

    register()
    from .commands.prediction import PredictArguments, predict

    return explain_errors("predict", lambda: predict(PredictArguments(**vars(options))))


def _embed_parser() -> argparse.ArgumentParser:
    from .commands.preparation import SOURCES, TABLE_FOLDER

    parser = argparse.ArgumentParser(
        prog="violet embed",
        description="A vector for each clip of a data set: its embedding before the fusion, or, of a model without "
        "one, the mean of its tokens. Writes Parquet parts (id, video, embedding, …) and, last, manifest.json. The "
        "same call goes on where it stopped, or was killed.",
    )
    parser.add_argument("source", metavar="DATA", help=SOURCES)
    parser.add_argument("--output", required=True, help="the folder")
    parser.add_argument("--model", required=True, help="a folder or Hub name; violet-tiny comes with the package")
    parser.add_argument("--captions", action="store_true", help="write a caption of each clip too")
    parser.add_argument("--text_column", metavar="COLUMN", help="embed the rows' texts too, such as caption")
    parser.add_argument("--video_folder", help=f"{TABLE_FOLDER}; the pictures of a task.json")
    parser.add_argument("--clips_per_part", type=positive, default=1024, help="clips of a file (default: 1024)")
    parser.add_argument("--batch_size", type=positive, default=8, help="clips in a pass (default: 8)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that decode, beside each that computes (default: 1)"
    )
    parser.add_argument(
        "--bad_samples", choices=["raise", "skip"], default="raise", help="what to do with one that is unreadable"
    )
    parser.add_argument(
        "--max_bad_share", type=float, default=0.01, help="with skip: stop if more are (default: 0.01)"
    )
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: a process for each GPU of a Ray cluster; the same files",
    )
    return parser


def embed_command(argv: list[str]) -> int:
    """Write embeddings, and captions, of a whole data set into Parquet files; on one machine or a Ray cluster."""
    options = _embed_parser().parse_args(argv)

    from . import register

    register()
    from .commands.embedding import EmbedArguments, embed

    tell_progress()

    def run() -> int:
        manifest = embed(EmbedArguments(**vars(options)))
        listed = ", see failed_samples.jsonl" if manifest["failed"] else ""
        print(
            f"{options.output} holds {manifest['clips']} clips in {len(manifest['parts'])} parts; "
            f"{manifest['failed']} clips could not be read{listed}."
        )
        return 0

    return explain_errors("embed", run)


def convert_command(argv: list[str]) -> int:
    """Turn other code's weights (VIOLET, SwinBERT, Swin, BERT, CLIP-ViP, CLIP) into a folder for from_pretrained."""
    parser = argparse.ArgumentParser(
        prog="violet convert",
        description="Writes configuration, model.safetensors, processor, and conversion_report.json, which says what "
        "became of every key. A key that is unknown, missing or of a wrong shape is an error.",
    )
    parser.add_argument("source", help="a .pt, .pth or .safetensors file, a folder, or a Hub name")
    parser.add_argument("output", help="the folder to write")
    parser.add_argument("--model_class", help="such as VioletForRetrieval (default: what the weights' heads tell)")
    parser.add_argument("--config", help="a folder, a Hub name or a named configuration (default: what shapes tell)")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument(
        "--tokenizer",
        help="a folder or Hub name (default: bert-base-uncased; of a CLIP the source's own, or "
        "openai/clip-vit-base-patch32)",
    )
    tokenizer.add_argument("--no_tokenizer", action="store_true", help="write only the video processor")
    options = parser.parse_args(argv)

    from . import register

    register()
    from .hub.conversion import convert

    def run() -> int:
        tokenizer = options.tokenizer, not options.no_tokenizer
        report = convert(options.source, options.output, options.model_class, options.config, *tokenizer)
        print(report.summary())
        print(f"\nThe model is in {options.output}; conversion_report.json there tells of every key.")
        return 0

    return explain_errors("convert", run)


def export_command(argv: list[str]) -> int:
    """Write a model's encoders as ONNX files or torch.export programs that run without this package."""
    parser = argparse.ArgumentParser(
        prog="violet export",
        description="Writes a graph of the vision encoder, and of the embeddings of videos and of texts if the model "
        "has them, for batches of any size; the processor; export.json and a README.md that say how to run them. Each "
        "is run beside the model: if outputs differ by more than 1e-5 of the largest, nothing is written.",
    )
    parser.add_argument("model", help="a folder or Hub name; violet-tiny comes with the package")
    parser.add_argument("output", help="the folder to write")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="vision_encoder, video_embedding, text_embedding (default: all)"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=["onnx"],
        choices=["onnx", "pt2"],
        help="onnx for ONNX Runtime and others, pt2 for torch.export.load (default: onnx)",
    )
    options = parser.parse_args(argv)

    from . import register

    register()
    from .hub.exporting import export_graphs

    def run() -> int:
        made = export_graphs(options.model, options.output, options.parts, options.format)
        for part in made["parts"]:
            for form, file in part["files"].items():
                apart = part["largest_difference"][form]
                print(f"{file:24} differs from the model by {apart:.1e} of the largest value at most")
        print(f"\n{options.output}/README.md says how to run them.")
        return 0

    return explain_errors("export", run)


def export_original_command(argv: list[str]) -> int:
    """Write a model's weights under the original's names (VIOLET's, CLIP-ViP's), as its code reads them."""
    parser = argparse.ArgumentParser(
        prog="violet export-original", description="The reverse of violet convert, equal to the bit."
    )
    parser.add_argument("model", help="a folder or Hub name")
    parser.add_argument("output", help="a .pt, .pth or .safetensors file")
    parser.add_argument("--kind", help="of several originals the one to write for, such as 'UniFormerV2 (OpenMMLab)'")
    options = parser.parse_args(argv)

    from . import register

    register()
    from .hub.conversion import export

    def run() -> int:
        print(
            f"{options.output} holds {len(export(options.model, options.output, options.kind))} keys of the original."
        )
        return 0

    return explain_errors("export-original", run)


def card_command(argv: list[str]) -> int:
    """Write or refresh a model's card, README.md, from what its folder holds."""
    parser = argparse.ArgumentParser(
        prog="violet card",
        description="Makes README.md of a model's folder from its configuration, weights, metrics.json and report. "
        "What stands there outside of the marks <!-- violet:... --> stays, and so do metadata of other names.",
    )
    parser.add_argument("folder", type=Path, help="the model's folder")
    parser.add_argument("--license", help="of the weights, as the Hub spells it, such as apache-2.0")
    parser.add_argument("--name", help="the title; ORG/NAME, a name on the Hub, is what the card's code then loads")
    options = parser.parse_args(argv)

    def run() -> int:
        from .hub import write_model_card

        print(write_model_card(options.folder, name=options.name, license_name=options.license))
        return 0

    return explain_errors("card", run)


def push_command(argv: list[str]) -> int:
    """Publish a model's folder on the Hub, with its card, in one commit."""
    parser = argparse.ArgumentParser(
        prog="violet push",
        description="Sends configuration, weights (only safetensors), processor, card, metrics and report of a "
        "model's folder. The folder stays as it is. The token is that of `hf auth login`, or HF_TOKEN.",
    )
    parser.add_argument("folder", type=Path, help="the model's folder")
    parser.add_argument("repository", metavar="ORG/NAME", help="where to; made if it is not there")
    visible = parser.add_mutually_exclusive_group()
    visible.add_argument(
        "--private", action="store_true", default=None, help="make a repository that others cannot see"
    )
    visible.add_argument("--public", dest="private", action="store_false", help="make one that they can")
    parser.add_argument("--revision", help="the branch, made if it is not there (default: main)")
    parser.add_argument("--with-code", action="store_true", help="send the code along, for those without this package")
    parser.add_argument("--dry-run", action="store_true", help="list what would go, and send nothing")
    parser.add_argument("--max_shard_size", default="5GB", help="of a file of weights (default: 5GB)")
    parser.add_argument("--license", help="of the weights, as the Hub spells it, if the card names none")
    parser.add_argument(
        "--despite-license",
        action="store_true",
        help="your word that you may pass on a model that was made of weights which may not be passed on",
    )
    options = parser.parse_args(argv)

    def run() -> int:
        from .hub import push

        sent = push(
            options.folder,
            options.repository,
            private=options.private,
            revision=options.revision,
            with_code=options.with_code,
            dry_run=options.dry_run,
            max_shard_size=options.max_shard_size,
            license_name=options.license,
            despite_license=options.despite_license,
        )
        for file in sent.files:
            print(f"{file.size:14,} bytes  {file.sha256}  {file.path}")
        for path, why in sent.left_out.items():
            print(f"{'left out':>14} {path}: {why}")
        total = sum(file.size for file in sent.files)
        if sent.url is None:
            print(f"\nNothing was sent: {len(sent.files)} files, {total:,} bytes, would go to {options.repository}.")
        else:
            print(f"\n{len(sent.files)} files, {total:,} bytes: {sent.url}")
        return 0

    return explain_errors("push", run)


def demo_command(argv: list[str]) -> int:
    """Ask the shipped violet-tiny about a video, then fine-tune it on drawn videos, in some minutes."""
    parser = argparse.ArgumentParser(prog="violet demo", description=(demo_command.__doc__ or "").strip())
    parser.add_argument("--output", default="outputs/demo", help="where everything goes (default: outputs/demo)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order (default: 0)")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], help="to compute with (default: what is faster on this machine)"
    )
    options = parser.parse_args(argv)

    from . import register

    register()
    from .demo import run_demo

    return explain_errors("demo", lambda: run_demo(Path(options.output), options.seed, options.dtype))


def speed_command(argv: list[str]) -> int:
    """Measure how fast every path is, beside this machine's own matrix product."""
    parser = argparse.ArgumentParser(
        prog="violet speed",
        description="A line for each path: its time, its rate, its share of the rate of this machine's matrix "
        "products in the same run, peak memory, and its time divided by that of what stands beside it. The status is "
        "1 if a bar is missed.",
    )
    parser.add_argument("names", nargs="*", metavar="PATH", help="what to measure (default: everything)")
    parser.add_argument("--list", action="store_true", help="tell the paths")
    parser.add_argument("--quick", action="store_true", help="two minutes: smaller sizes, few rounds, no bars")
    parser.add_argument("--json", help="a file for the rows")
    parser.add_argument("--against", metavar="JSON", help="another run, to compare with path by path")
    parser.add_argument("--picture", metavar="PNG", help="draw how times grow, if growth is measured")
    parser.add_argument("--threads", type=positive, help="of torch (default: as many as it takes)")
    parser.add_argument("--clips", help="a folder of mp4 files to load (default: drawn ones)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="cpu counts the processor's time: for a busy machine, with --threads 1",
    )
    options = parser.parse_args(argv)

    from . import register

    register()
    from .benchmarks.speed import list_paths, run_speed

    if options.list:
        print(list_paths())
        return 0
    try:
        return run_speed(
            options.names,
            quick=options.quick,
            clock=options.clock,
            threads=options.threads,
            clips=options.clips,
            output=options.json,
            against=options.against,
            picture=options.picture,
        )
    except ValueError as error:
        parser.error(str(error))


def tell_progress() -> None:
    """Shows what a long command logs, with the time of day."""
    import logging

    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("violet").setLevel(logging.INFO)


def positive(text: str) -> int:
    """A number from 1 on, for `argparse`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)


def read_overrides(command: str, argv: list[str]) -> dict[str, Any]:
    """`--name value …` -> settings, each value read as YAML."""
    import yaml

    if len(argv) % 2 or any(not name.startswith("--") for name in argv[::2]):
        raise SystemExit(f"violet {command}: settings are given as --name value, got {' '.join(argv)}.")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(argv[::2], argv[1::2], strict=True)}


def explain_errors(command: str, run: Callable[[], int]) -> int:
    """Runs it; an error that its user can mend is printed in one line instead of a traceback, with status 2."""
    from .commands.prediction import PredictError
    from .data import TableError
    from .data.loading import WorkerDiedError
    from .evaluation.searching import GalleryError
    from .hub import CardError, HubError, WeightsError
    from .processing import VideoDecodeError
    from .training import CheckpointError, RunStopped, SettingsError
    from .training.guards import TooManyBadSamplesError
    from .training.processes import ProcessGoneError
    from .training.stopping import STATUS

    try:
        return run()
    except RunStopped as stop:
        print(f"violet {command}: {stop}", file=sys.stderr)
        return STATUS
    except (
        CardError,
        CheckpointError,
        HubError,
        WeightsError,
        TableError,
        VideoDecodeError,
        WorkerDiedError,
        FloatingPointError,
        ProcessGoneError,
        TooManyBadSamplesError,
        SettingsError,
        GalleryError,
        PredictError,
        FileExistsError,
    ) as error:
        print(f"violet {command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has read enough; Python would complain once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"violet {command}: could not write. {error}", file=sys.stderr)
        return 2


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo_command,
    "finetune": finetune_command,
    "benchmark": benchmark_command,
    "pretrain": pretrain_command,
    "prepare": prepare_command,
    "inspect": inspect_command,
    "predict": predict_command,
    "embed": embed_command,
    "convert": convert_command,
    "export": export_command,
    "export-original": export_original_command,
    "card": card_command,
    "push": push_command,
    "speed": speed_command,
}

if __name__ == "__main__":
    sys.exit(main())
