"""The wheel: the whole package, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_no_second_copy_of_the_package_is_imported():
    root = str(ROOT / "__init__.py")
    copies = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == root]
    assert copies in ([], ["violet"])


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_licence_and_no_tests(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "dist", "outputs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    ours = {
        str(Path("violet") / path.relative_to(ROOT))
        for folder in [ROOT, *(init.parent for depth in ("*", "*/*") for init in ROOT.glob(f"{depth}/__init__.py"))]
        for path in folder.glob("*.py")
    }
    assert len(ours) > 30
    assert {name for name in names if name.endswith(".py")} == ours
    assert not [name for name in names if "test" in name or name.startswith(("violet/measurements/", "violet/tools/"))]
    assert any(name.endswith("LICENSE") for name in names)
    assert "License: Apache-2.0" in metadata
    assert 'Requires-Dist: decord>=0.6; platform_machine == "x86_64"' in metadata
