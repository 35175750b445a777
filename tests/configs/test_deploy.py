"""The files in configs/: their manifests are valid, their commands and options exist."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray._private import ray_constants
from ray._private.runtime_env import packaging as ray_packaging

from tests.support import manifests
from tests.support.jobs import ROOT
from tests.support.options import parse
from zooadapt.cli.main import adapt

MANIFESTS = ["rayjob.yaml", "nightly.yaml"]
SCRIPT = ["python", "jobs/adapt_zoo.py", "--config", "configs/timm.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MIB = 2**20


@pytest.fixture(params=MANIFESTS)
def manifest(request: pytest.FixtureRequest) -> Any:
    return manifests.load(request.param)


def keys(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each key in a document."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in entries:
        if isinstance(document, dict):
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys(value, (*path, key))


FREE = {"rayStartParams", "nodeSelector", "requests", "limits"}
"""Mappings that can have any keys."""


def test_a_manifest_is_valid(manifest: Any) -> None:
    assert manifests.faults(manifest) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_misspelt_key_is_refused(name: str) -> None:
    document = yaml.safe_load((ROOT / "configs" / name).read_text())
    places = [path for path in keys(document) if len(path) < 2 or path[-2] not in FREE]
    assert len(places) > 100
    for path in places:
        damaged = copy.deepcopy(json.loads(json.dumps(document)))  # no parts shared by anchors
        inner = damaged
        for key in path[:-1]:
            inner = inner[key]
        inner[f"{path[-1]}x"] = inner.pop(path[-1])
        assert manifests.faults(damaged), path


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (("backoffLimit",), "0"),
        (("submissionMode",), "K8sMode"),
        (("shutdownAfterJobFinishes",), False),  # though a ttl is given
        (("rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("rayClusterSpec", "workerGroupSpecs", 1, "replicas"), "1"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy"), 1),
    ],
)
def test_a_wrong_value_is_refused(change: tuple[Any, ...], value: Any) -> None:
    manifest = manifests.load("rayjob.yaml")
    inner = manifests.job(manifest)
    for key in change[:-1]:
        inner = inner[key]
    inner[change[-1]] = value
    assert manifests.faults(manifest)


def test_the_entry_point_is_the_literal_command() -> None:
    once, nightly = (manifests.job(manifests.load(name))["entrypoint"] for name in MANIFESTS)
    assert shlex.split(once) == SCRIPT
    nightly = shlex.split(nightly)
    assert nightly[:4] == SCRIPT
    assert nightly[4:] == ["--check-sources", "--retry-failed", "--max-hours", "6"]


def test_the_entry_point_s_options_exist(manifest: Any) -> None:
    given = shlex.split(manifests.job(manifest)["entrypoint"])[2:]
    known = {name for option in adapt.params for name in option.opts}
    assert {word for word in given if word.startswith("--")} <= known


def test_a_job_that_fails_is_not_run_again_and_leaves_no_cluster(manifest: Any) -> None:
    job = manifests.job(manifest)
    assert job["backoffLimit"] == 0
    assert job["shutdownAfterJobFinishes"] is True
    assert job["ttlSecondsAfterFinished"] > 0
    for group in manifests.groups(manifest):
        # autoscaler v2 accepts nothing else
        assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_the_cluster_takes_a_token(manifest: Any) -> None:
    cluster = manifests.job(manifest)["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] in SpecifierSet(">=2.52")  # KubeRay refuses older ones


def test_the_head_takes_no_tasks_and_the_gpus_are_on_spot_nodes(manifest: Any) -> None:
    head, cpu, gpu = manifests.groups(manifest)
    assert manifests.job(manifest)["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert head["rayStartParams"]["num-cpus"] == gpu["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in (cpu, gpu)] == [0, 0]
    options = yaml.safe_load(
        (ROOT / "configs" / "timm.yaml").read_text()
    )  # what the job asks the autoscaler for
    assert options["gpus"] == gpu["maxReplicas"]
    each = int(cpu["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert options["cpus"] == each * cpu["maxReplicas"]
    assert [group["replicas"] for group in (cpu, gpu)] == [0, 0]
    pod = gpu["template"]["spec"]
    assert any("spot" in value.lower() for value in pod["nodeSelector"].values())
    assert {taint["key"] for taint in pod["tolerations"]} >= {"nvidia.com/gpu"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nodeSelector" not in head["template"]["spec"]


def test_pods_have_their_secrets_from_the_cluster_and_no_rights(manifest: Any) -> None:
    for group in manifests.groups(manifest):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "zooadapt"}}]
        assert {entry["name"] for entry in container["env"]} == {"AWS_SHARED_CREDENTIALS_FILE"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {"memory", "ephemeral-storage"} <= container["resources"]["requests"].keys()


def test_both_manifests_have_the_same_cluster() -> None:
    one, other = (manifests.job(manifests.load(name))["rayClusterSpec"] for name in MANIFESTS)
    assert one == other


# The image


def instructions() -> list[tuple[str, str]]:
    """The instructions of configs/Dockerfile, with their arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "configs" / "Dockerfile").read_text(), flags=re.M)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def argument(name: str) -> str:
    """The argument of the one instruction of this name."""
    (found,) = [rest for kind, rest in instructions() if kind == name]
    return found


def test_the_image_has_only_known_instructions() -> None:
    kinds = [kind for kind, _ in instructions()]
    assert kinds[0] == "FROM"
    assert set(kinds) == {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER"}


def test_the_image_s_python_is_one_that_we_support() -> None:
    (version,) = re.fullmatch(r"python:(3\.\d+)-slim", argument("FROM")).groups()  # type: ignore[union-attr]
    assert f"{version}.0" in SpecifierSet(PROJECT["requires-python"])


def test_the_image_s_ray_is_the_manifests_and_one_that_we_support(manifest: Any) -> None:
    name, _, version = argument("ARG").partition("=")
    assert (name, version) == (
        "RAY_VERSION",
        manifests.job(manifest)["rayClusterSpec"]["rayVersion"],
    )
    (needed,) = [
        requirement
        for requirement in map(Requirement, PROJECT["optional-dependencies"]["run"])
        if requirement.name == "ray"
    ]
    assert version in needed.specifier
    (install,) = [rest for kind, rest in instructions() if "pip install" in rest]
    assert f'"ray[{",".join(needed.extras)}]==${{RAY_VERSION}}"' in install


def test_the_image_installs_an_extra_that_exists() -> None:
    (install,) = [rest for kind, rest in instructions() if "pip install" in rest]
    (extra,) = re.findall(r"'\.\[(\w+)\]'", install)
    assert extra in PROJECT["optional-dependencies"]


def test_what_the_image_copies_is_enough_and_has_the_manifests_paths(tmp_path: Path) -> None:
    """In a folder with only these files, the job shows its options."""
    for kind, rest in instructions():
        if kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                put = tmp_path / target / source if target == "./" else tmp_path / target
                put.parent.mkdir(parents=True, exist_ok=True)
                is_folder = (ROOT / source).is_dir()
                shutil.copytree(ROOT / source, put) if is_folder else shutil.copy(
                    ROOT / source, put
                )
    assert all((tmp_path / word).exists() for word in SCRIPT if "/" in word)
    packages = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = packages["package-dir"]
    for package in packages["packages"]:
        assert (tmp_path / folders.get(package, package.replace(".", "/"))).is_dir(), package
    check_it_runs(tmp_path)


def test_the_image_s_user_is_that_of_the_pods(manifest: Any) -> None:
    (made,) = [rest for kind, rest in instructions() if "useradd" in rest]
    user = argument("USER")
    assert f"--uid {user} " in made
    assert user != "0"
    for group in manifests.groups(manifest):
        assert group["template"]["spec"]["securityContext"]["runAsUser"] == int(user)


# The job's options


def test_the_job_of_the_whole_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parse(*SCRIPT[2:])
    assert config.chans == (1, 4, 8, 25)
    assert (config.zoo, config.models, config.max_models) == (("timm",), (), None)
    assert config.dest.startswith("s3://")


def test_what_the_job_s_file_has_in_comments_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "timm.yaml").read_text()
    text = text.replace("storage_options: {}\n", "storage_options:\n", 1)
    lines = re.sub(r"^# ?(?=( *|  )[a-z_0-9]+: ?.*$)", "", text, flags=re.M).splitlines()
    kinds = [line for line in lines if "ServerSideEncryption" in line]
    assert len(kinds) == 2
    for kind in kinds:
        (tmp_path / "job.yaml").write_text(
            "\n".join(x for x in lines if x not in kinds or x == kind)
        )
        config = parse("--config", str(tmp_path / "job.yaml"))
        assert config.license
        assert config.source_root == "s3://checkpoints/timm"
        assert set(config.source_storage_options) == {"endpoint_url", "profile"}
        assert "ServerSideEncryption" in config.storage_options["s3_additional_kwargs"]


# The working directory


def check_it_runs(folder: Path) -> None:
    """Check that the job in `folder` shows its options, with the code of that folder."""
    done = subprocess.run(
        [sys.executable, *SCRIPT[1:2], "--help"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--chans" in done.stdout


@pytest.mark.parametrize("gitignore", [True, False])
def test_a_checkout_with_a_mirror_in_it_is_sent_small(gitignore: bool, tmp_path: Path) -> None:
    checkout, unpacked = tmp_path / "checkout", tmp_path / "unpacked"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in [*tracked.split("\0")[:-1], ".rayignore"]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    for name in (
        "mirror/weights/a/model.safetensors", "mirror-2/manifest.parquet", ".git/objects/x",
        ".venv/lib/x.py", "venv/lib/x.py", "tests/data/x", "zooadapt/__pycache__/x.pyc", ".env",
        "checkpoint.pth",
    ):  # fmt: skip
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(os.urandom(3 * MIB))
    package = tmp_path / "package.zip"
    ray_packaging.create_package(
        str(checkout),
        package,
        include_gitignore=gitignore,
        excludes=ray_constants.get_runtime_env_default_excludes(),
    )
    assert package.stat().st_size < 2 * MIB
    with zipfile.ZipFile(package) as archive:
        archive.extractall(unpacked)
    assert {path.name for path in unpacked.iterdir()} >= {"zooadapt", "jobs", "configs"}
    assert not any((unpacked / name).exists() for name in ("mirror", "tests", ".git", ".env"))
    check_it_runs(unpacked)
