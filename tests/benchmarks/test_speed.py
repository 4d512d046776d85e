"""`violet speed`: what its rows say, and every path at a small size."""

import json

import pytest
import torch
from PIL import Image

from violet import named_configuration
from violet.benchmarks import judged_paths, measuring, other_paths, speed
from violet.benchmarks.measuring import Bar, Case, Setting, exponent, measure, peak_bytes
from violet.cli import main
from violet.configuration.named_configurations import NAMED_CONFIGURATIONS

JUDGED = ("encoder", "fusion", "retrieval", "captions", "weights", "pretraining", "checkpointing")
PATHS_WITH_SEVERAL = {"pretraining": 2, "captions": 2, "retrieval": 4, "weights": 3}


@pytest.fixture
def small(monkeypatch):
    """violet-v2-base's parts at a size that takes no time."""

    def small_base(name, **changes):
        vision = {**changes["vision_config"], "embed_dim": 8, "num_heads": (1, 1, 2, 2), "window_size": (2, 4, 4)}
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
        sizes |= {"vision_config": vision, "vocab_size": 200, "mask_token_id": 103}
        return named_configuration(name, **{**changes, **sizes})

    monkeypatch.setattr(judged_paths, "named_configuration", small_base)
    monkeypatch.setattr(judged_paths, "SIDE", 64)
    monkeypatch.setattr(judged_paths, "CHANNELS", 8)
    monkeypatch.setattr(measuring, "SIDE", 64)
    monkeypatch.setattr(measuring, "BRIEF", 0.0)


def setting_in(folder, **changes) -> Setting:
    return Setting(**{"quick": True, "folder": folder, "clips": (), "seconds": 0.0, "most_rounds": 1, **changes})


def test_a_row_counts_times_and_compares(tmp_path, monkeypatch):
    """By a clock that ticks once when it is read, and once for each product of the case."""
    one, ticks = torch.randn(30, 30), 0

    def tick():
        nonlocal ticks
        ticks += 1
        return float(ticks)

    def multiply(times):
        nonlocal ticks
        ticks += times
        for _ in range(times):
            one @ one

    monkeypatch.setattr(measuring, "CLOCKS", {"ticks": tick})
    case = Case("twice", lambda: multiply(39), 39, "products", lambda: multiply(19), "once", bars=[Bar("ratio", 1.0)])
    row = measure(case, setting_in(tmp_path, quick=False, seconds=1000.0, most_rounds=5, clock="ticks"))
    assert row["operations"] == 39 * 2 * 30**3 and row["rounds"] == 5
    assert row["seconds"] == 40 and row["rate"] == 39 / 40 and row["ratio"] == 2
    assert row["share"] == pytest.approx(row["operations"] / 40 / (2 * measuring.SIDE**3))
    assert row["bars"] == [{"bar": "ratio at most 1", "reached": False}]


def test_peak_memory_is_what_a_call_takes_and_gives_back():
    held = peak_bytes(lambda: torch.ones(20_000_000).sum())
    assert held is None or 75e6 < held < 130e6


def test_growth_is_the_power_of_the_size():
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([10, 1000], [5, 5]) == pytest.approx(0)


@pytest.mark.parametrize("name", [*JUDGED[:3], *(pytest.param(name, marks=pytest.mark.proof) for name in JUDGED[3:])])
def test_every_path_gives_rows_with_its_bars(name, small, tmp_path):
    setting, rows, bars = setting_in(tmp_path), [], []
    for case in speed.PATHS[name](setting):
        row = measuring.told(case, setting) if isinstance(case, measuring.Told) else measure(case, setting)
        assert row["seconds"] > 0 and speed.line_of(row).startswith(row["name"])
        assert all(bar.reached(row) is not None for bar in case.bars)
        assert row["bars"] == []  # those are for the published size
        rows.append(row)
        bars += case.bars
    assert len(rows) == PATHS_WITH_SEVERAL.get(name, 1) and bars


def test_a_table_is_written_and_compared_with_another(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "PATHS", {"encoder": judged_paths.encoder, "broken": lambda setting: 1 / 0})
    monkeypatch.setattr(speed, "real_or_drawn", lambda clips, folder, quick: ())
    table, other = tmp_path / "speed.json", tmp_path / "other.json"
    assert main(["speed", "encoder", "broken", "--quick", "--json", str(table)]) == 1
    written = json.loads(table.read_text())
    assert [row["name"] for row in written["rows"]] == ["encoder"] and written["failed"] == ["broken"]
    assert "ZeroDivisionError" in capsys.readouterr().err
    slower = {**written["rows"][0], "seconds": 1e6}
    other.write_text(json.dumps({"rows": [slower]}))
    main(["speed", "encoder", "--quick", "--against", str(other)])
    assert "x the other run's rate" in capsys.readouterr().out


def test_paths_leave_nothing_to_one_another(monkeypatch):
    """Neither files nor a number of threads; and a path that is named twice is measured once."""
    seen = []

    def saved(setting):
        (setting.folder / "model").mkdir()
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)
        yield measuring.Told("saved", 1.0)

    monkeypatch.setattr(speed, "PATHS", {"weights": saved, "export": saved})
    monkeypatch.setattr(speed, "real_or_drawn", lambda clips, folder, quick: ())
    before = torch.get_num_threads()
    try:
        assert main(["speed", "weights", "export", "weights", "--quick", "--threads", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_configurations_leave_no_number_to_chance(tmp_path, monkeypatch):
    """Of what the memory held before: torch can fill new memory with the largest numbers."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    names = []
    try:
        for case in other_paths.configurations(setting_in(tmp_path)):
            assert case.run().last_hidden_state.isfinite().all(), case.name
            names.append(case.name)
    finally:
        torch.use_deterministic_algorithms(False)
    assert names == [name for name in NAMED_CONFIGURATIONS if "tiny" in name]


def test_growth_is_told_and_drawn(tmp_path, monkeypatch):
    def growth(setting):
        numbers = {"exponent": 1.06, "sizes": [1, 2, 4], "seconds_of_sizes": [1.0, 2.1, 4.4]}
        yield measuring.Told("growth, frames", 4.4, numbers=numbers)

    monkeypatch.setattr(speed, "PATHS", {"growth": growth})
    monkeypatch.setattr(speed, "real_or_drawn", lambda clips, folder, quick: ())
    drawn = tmp_path / "growth.png"
    assert main(["speed", "growth", "--picture", str(drawn)]) == 0
    with Image.open(drawn) as picture:
        assert picture.size[0] > 300 and len(picture.convert("L").getcolors()) > 10


@pytest.mark.parametrize(
    "given, said",
    [
        (["nothing"], "no path 'nothing'"),
        (["--against", "missing.json"], "holds no rows"),
        (["--clips", "."], "no mp4"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["speed", *given])
    assert said in capsys.readouterr().err
