"""Published variants load bit for bit in every timm from 1.0.16 on, with no line of ours.

The old releases are installed beside the tests' own environment, without their dependencies.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import checkpoints
from tests.support.pipelines import counted, entry
from zooadapt import pipeline
from zooadapt.types import Adapted, Job, Request

RELEASES = ["1.0.16", "1.0.20", "1.0.25", "1.0.30", "1.0.31"]
KINDS = {
    "plain convolution": "test_resnet.r160_in1k",
    "two stems": "repvgg_a0.rvgg_in1k",
    "space-to-depth": "tresnet_m.miil_in1k",
    "linear patches": "naflexvit_base_patch16_gap.e300_s576_in1k",
    "loader of its own": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "tied weights": "coat_tiny.in1k",
    "pruned": "efficientnet_b1_pruned.in1k",
}

SCRIPT = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
import safetensors.torch, timm, torch
assert timm.__version__ == sys.argv[1], timm.__version__
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("timm").addHandler(handler)
logging.getLogger("timm").setLevel(logging.INFO)
results = {}
for folder in sys.argv[2:]:
    torch.manual_seed(1)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    stored = safetensors.torch.load_file(f"{folder}/model.safetensors")
    loaded = model.state_dict()
    results[folder] = stored.keys() == loaded.keys() and all(
        torch.equal(stored[name], loaded[name]) for name in stored
    )
adapted = [m for m in messages if "onvert" in m and "conv" in m]
print(json.dumps({"equal": results, "adapted": adapted}))
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of a published 4-channel variant of each kind of model, and its min_timm."""
    found = {}
    for tag in KINDS.values():
        folder = tmp_path_factory.mktemp("reader")
        checkpoints.write_hub_repo(folder / "zoo", tag)
        job = Job("run", str(folder), source_root=str(folder / "zoo"))
        adapted = pipeline.adapt(Request(entry(tag), counted(4)), job)
        assert isinstance(adapted, Adapted), adapted
        found[str(folder / adapted.variants[0].folder)] = adapted.facts.min_timm
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_variants_load_in_plain_timm(
    release: str, variants: dict[str, str], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"timm=={release}"], check=True, capture_output=True)
    folders = [
        folder for folder, min_timm in variants.items() if _version(min_timm) <= _version(release)
    ]
    assert len(folders) == len(KINDS) - (release != "1.0.31")  # the pruned one
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, release, *folders],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["equal"] == dict.fromkeys(folders, True)
    assert printed["adapted"] == []


def _version(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))
