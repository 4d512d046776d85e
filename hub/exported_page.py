"""The README.md of a folder that `violet export` wrote."""

from collections.abc import Mapping
from typing import Any

HEAD = """# {title}, exported

Graphs of {model}, made by violet {violet} with torch {torch}. Each was run on batches of {batches}, and its outputs
differ from the model's by {tolerance:g} of their largest value at most; the figures are in `export.json`.

| file | takes | gives |
|---|---|---|
{rows}

`batch` may be any number{words}. Everything is float32, ids and masks are int64.
"""

FRAMES = """
## What to give it

Pixels are RGB frames of a clip, in order of time, (batch, frames, channels, height, width): {num_frames} frames
(`frame_sampling` {frame_sampling!r}), {height} x {width} pixels (`fit` {fit!r}: {fit_says}), each value times
{rescale_factor:.6g}, minus the channel's mean {image_mean}, divided by its deviation {image_std}. The processor in
this folder does that; its code lies beside it, so `trust_remote_code=True` serves where violet is not installed:

```python
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained("{folder}", trust_remote_code=True)
clips = processor(videos=["clip.mp4"], return_tensors="np")
"""

TEXTS = """texts = processor(text=["a red disc moves left"], return_tensors="np")  # {longest} tokens at most
"""

RUN_ONNX = """
## Run it

```python
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/{file}")
{output} = session.run(None, {{name: {source}[name] for name in [{inputs}]}})[0]
```
"""

RUN_PT2 = """
With torch, without violet:

```python
import torch

graph = torch.export.load("{folder}/{file}").module()
{output} = graph(**{{name: torch.from_numpy({source}[name]) for name in [{inputs}]}})
```
"""

COMPARE = """
How near a text and a video are is the inner product of `text_embeds` and `video_embeds`; times {scale:.4f} it is what
the model takes the softmax of.
"""

FITS = {
    "pad": "padded with black to that shape, then resized",
    "stretch": "resized to it, whatever the shape",
    "center_crop": "resized until it is covered, then its centre",
}


def page_of(described: Mapping[str, Any], folder: str = ".") -> str:
    """The text, of what stands in `export.json`."""
    parts = described["parts"]
    rows = "\n".join(_row(part) for part in parts)
    reads_words = any("input_ids" in part["inputs"] for part in parts)
    batches = ", ".join(map(str, sorted({one for part in parts for one in part["checked_batches"]})))
    words = f", `words` up to {described['longest_text']}" if reads_words else ""
    title = described["model"].rstrip("/").rpartition("/")[2]
    head = {**described, "title": title, "rows": rows, "batches": batches, "words": words}
    page = HEAD.format(**head)
    frames = described["frames"]
    page += FRAMES.format(
        **frames,
        **{side: frames["size"][side] for side in ("height", "width")},
        fit_says=FITS[frames["fit"]],
        folder=folder,
    )
    page += (TEXTS.format(longest=described["longest_text"]) if reads_words else "") + "```\n"
    for form, text in (("onnx", RUN_ONNX), ("pt2", RUN_PT2)):
        made = [part for part in parts if form in part["files"]]
        if made:
            page += text.format(folder=folder, file=made[-1]["files"][form], **_call(made[-1]))
    return page + (COMPARE.format(scale=described["scale"]) if reads_words else "")


def _row(part: Mapping[str, Any]) -> str:
    files = ", ".join(f"`{file}`" for file in part["files"].values())
    taken = ", ".join(f"`{name}` ({', '.join(map(str, one['shape']))})" for name, one in part["inputs"].items())
    output = part["output"]
    return f"| {files} | {taken} | `{output['name']}` ({', '.join(map(str, output['shape']))}): {part['says']} |"


def _call(part: Mapping[str, Any]) -> dict[str, str]:
    words = "input_ids" in part["inputs"]
    names = ", ".join(f'"{name}"' for name in part["inputs"])
    return {"inputs": names, "source": "texts" if words else "clips", "output": part["output"]["name"]}
