"""
`python tools/ship_weights.py MODEL RECIPE`: puts a pre-trained model among the weights that come with the
package, under its folder's name, in half precision, with its processor, its curves, its metrics and a card that names
the recipe by its hash.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file

from violet.core.files import new_folder, sha256, write_json, write_tensors
from violet.core.weights import FOLDER
from violet.evaluation.provenance import METRICS_FILE
from violet.hub.cards import CURVES_FILE, write_model_card
from violet.hub.weight_files import WEIGHTS

COPIED = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", CURVES_FILE)
EXAMPLE = "a small red disc moves [MASK]"
MOST_BYTES = 8_000_000


def ship(model: Path, recipe: Path) -> Path:
    """
    Writes `pretrained/NAME`, NAME being the model's folder's, over what was there.

    Raises:
        ValueError: if it would weigh more than a package should carry.
    """
    facts = json.loads((model / METRICS_FILE).read_text())
    of_recipe = {"recipe": recipe.name, "recipe sha256": sha256(recipe), "example": {"text": EXAMPLE}}
    facts["provenance"] = facts.get("provenance", {}) | of_recipe
    target = FOLDER / model.name
    if target.exists():
        shutil.rmtree(target)
    with new_folder(target) as folder:
        for name in COPIED:
            shutil.copy(model / name, folder / name)
        weights = load_file(model / WEIGHTS)
        # config.json says float32: `from_pretrained` gives float32 weights of these values
        write_tensors(folder / WEIGHTS, {name: value.half() for name, value in weights.items()}, {"format": "pt"})
        write_json(folder / METRICS_FILE, facts)
        size = sum(file.stat().st_size for file in folder.iterdir())
        if size > MOST_BYTES:
            raise ValueError(f"{model} would add {size:,} bytes to the package; at most {MOST_BYTES:,} are carried.")
    write_model_card(target, license_name="apache-2.0")
    return target


if __name__ == "__main__":
    folder = ship(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(f"{folder}: {(folder / WEIGHTS).stat().st_size:,} bytes of weights\n")
