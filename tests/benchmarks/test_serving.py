"""The path `serving` of `violet speed`: real clips through the real command."""

import pytest

from violet.benchmarks import clips, speed
from violet.benchmarks.measuring import Setting, Told, measure, told


@pytest.mark.proof
def test_clips_are_served_by_add_and_by_the_command_beside_the_bare_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "FRAMES", 30)
    setting = Setting(True, tmp_path, clips.real_or_drawn(None, tmp_path), seconds=0.0, most_rounds=1)
    cases = list(speed.PATHS["serving"](setting))
    rows = [told(case, setting) if isinstance(case, Told) else measure(case, setting) for case in cases]
    assert [row["name"].split(",")[0] for row in rows][0] == "add" and rows[-1]["name"] == "violet predict"
    assert all(row["unit"] == "clips" for row in rows)
    assert all(row["ratio"] > 0 for row in rows[:-1])
    assert rows[-1]["numbers"]["seconds_of_the_first"] > 0  # that of the others is a difference: noise
    assert len(list((tmp_path / "few").glob("*.mp4"))) < len(list((tmp_path / "many").glob("*.mp4")))
