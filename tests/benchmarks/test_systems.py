"""The costs that `violet speed` counts, against those of the systems' specifications."""

import pytest

from violet.benchmarks import systems


@pytest.mark.proof
@pytest.mark.parametrize("system", [one for one in systems.SYSTEMS if one.expected], ids=lambda one: one.name)
def test_a_clip_costs_what_the_specification_counts(system):
    assert abs(systems.costs_of(system)["difference"]) < 0.01


def test_a_global_block_costs_keys_and_values_and_one_query():
    """B/16, 8 frames: 1.90 GMAC a block; four are 5.6 % of the picture encoder's 134.8."""

    def layers(blocks):
        changes = {"global_layers": list(range(12 - blocks, 12))}
        return systems.count(systems.System("", systems.uniformerv2(**changes), (8, 224, 224))).layers / 1e9

    one, four = layers(1), layers(4)
    block = (four - one) / 3
    assert block == pytest.approx(1.90, rel=0.01)
    assert one - block == pytest.approx(134.8, rel=0.01) and 4 * block / (one - block) == pytest.approx(
        0.056, rel=0.01
    )


@pytest.mark.parametrize("patch", [32, 16])
def test_attention_in_two_parts_and_under_its_mask_are_the_same_layer(patch):
    """A case is made only if the numbers agree."""
    case = systems.two_part_attention(patch, frames=2, side=64)
    assert case.numbers["pairs_two_part"] < case.numbers["pairs_dense"]
    assert case.run().shape == case.beside().shape


def test_hd_vilas_small_frames_go_no_further_than_the_third_stage():
    """16.1 GMAC in their ResNet; what the sharp frame and the attention cost is the specification's too."""
    system = next(one for one in systems.SYSTEMS if one.name == "HD-VILA")
    parts = systems.count(system).parts
    for name, gigas in {"sharp": 53.4, "small": 16.1, "timesformer": 81.4}.items():
        assert parts[name] / 1e9 == pytest.approx(gigas, rel=0.01)
