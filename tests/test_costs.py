"""The counts of measurements/costs.py against those of the systems' specifications."""

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("costs", Path(__file__).parents[1] / "measurements" / "costs.py")
costs = importlib.util.module_from_spec(spec)
sys.modules["costs"] = costs  # where its dataclasses look for their annotations
spec.loader.exec_module(costs)


@pytest.mark.parametrize("system", [one for one in costs.SYSTEMS if one.expected], ids=lambda one: one.name)
def test_a_clip_costs_what_the_specification_counts(system):
    assert abs(costs.row(system)["difference"]) < 0.01


def test_a_global_block_costs_keys_and_values_and_one_query():
    """B/16, 8 frames: 1.90 GMAC a block; four are 5.6 % of the picture encoder's 134.8."""

    def layers(blocks):
        changes = {"global_layers": list(range(12 - blocks, 12))}
        return costs.count(costs.System("", costs.uniformerv2(**changes), (8, 224, 224))).layers / 1e9

    one, four = layers(1), layers(4)
    block = (four - one) / 3
    assert block == pytest.approx(1.90, rel=0.01)
    assert one - block == pytest.approx(134.8, rel=0.01) and 4 * block / (one - block) == pytest.approx(
        0.056, rel=0.01
    )


@pytest.mark.parametrize("patch", [32, 16])
def test_attention_in_two_parts_and_under_its_mask_are_the_same_layer(patch):
    """Times are taken only if the numbers agree."""
    one = costs.clock(patch, frames=2, side=64, repeats=1)
    assert one["two_part"] < one["dense"] and min(one["milliseconds_two_part"], one["milliseconds_dense"]) > 0


def test_hd_vilas_small_frames_go_no_further_than_the_third_stage():
    """16.1 GMAC in their ResNet; what the sharp frame and the attention cost is the specification's too."""
    system = next(one for one in costs.SYSTEMS if one.name == "HD-VILA")
    parts = costs.count(system).parts
    for name, gigas in {"sharp": 53.4, "small": 16.1, "timesformer": 81.4}.items():
        assert parts[name] / 1e9 == pytest.approx(gigas, rel=0.01)
