"""
`python -m violet.hub.shipping MODEL RECIPE`: puts a pre-trained model among the weights that come with the
package, under its folder's name, in half precision, with its processor, its curves and a card that names the recipe
by its hash.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from ..files import new_folder, sha256
from ..weights import FOLDER
from .cards import PRE_TRAINING, write_model_card

WEIGHTS = "model.safetensors"
MOST_BYTES = 8_000_000


def ship(model: Path, recipe: Path) -> Path:
    """
    Writes `pretrained/NAME`, NAME being the model's folder's, over what was there.

    Raises:
        ValueError: where it would weigh more than a package should carry.
    """
    facts = json.loads((model / "metrics.json").read_text())
    settings = facts.pop("settings")
    target = FOLDER / model.name
    if target.exists():
        shutil.rmtree(target)
    with new_folder(target) as folder:
        for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "curves.png"):
            shutil.copy(model / name, folder / name)
        weights = load_file(model / WEIGHTS)
        # config.json says float32: `from_pretrained` gives float32 weights of these values
        save_file({name: value.half() for name, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
        described = {
            key: value for key, value in settings.items() if key not in ("output_dir", "datasets", "trackers")
        }
        described |= {f"data set {number}": entry for number, entry in enumerate(settings["datasets"], start=1)}
        write_model_card(
            folder,
            text=PRE_TRAINING,
            name=model.name,
            data="The built-in moving shapes (`violet.data.moving_shapes`, split `pretrain`): drawn videos of one or "
            "two shapes that move, turn, grow, shrink or stay, each with one sentence that says so. No question was "
            "seen.",
            metrics=facts,
            settings={"recipe": recipe.name, "sha256 of the recipe": sha256(recipe)} | described,
            num_parameters=sum(value.numel() for value in weights.values()),
            model=f'violet.pretrained("{model.name}")',
            example=("clip.mp4", "a small red disc moves [MASK]"),
            curves="curves.png",
            license_name="apache-2.0",
        )
        size = sum(file.stat().st_size for file in folder.iterdir())
        if size > MOST_BYTES:
            raise ValueError(f"{model} would add {size:,} bytes to the package; at most {MOST_BYTES:,} are carried.")
    return target


if __name__ == "__main__":
    folder = ship(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(f"{folder}: {(folder / WEIGHTS).stat().st_size:,} bytes of weights\n")
