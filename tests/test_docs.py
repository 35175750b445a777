"""The README and the example config say what the code does."""

import json
import re
from pathlib import Path

import click
import fsspec
import pytest

from tests.support.jobs import ROOT
from tests.support.pipelines import counted, run
from zooadapt import bands
from zooadapt.cli.main import adapt, zooadapt
from zooadapt.job.options import _read_yaml
from zooadapt.proof.compare import TOLERANCE
from zooadapt.targets import SCHEMES
from zooadapt.zoos.registry import _OURS, get, listed, names

README = (ROOT / "README.md").read_text()


def test_every_option_is_in_the_table_and_no_other() -> None:
    table = README.split("| option |")[1].split("\n\n")[0]
    documented = set(
        re.findall(r"--[a-z]+[a-z-]*", "\n".join(re.findall(r"^\|[^|]*\|", table, re.M)))
    )
    options = {name for option in adapt.params for name in option.opts}
    assert documented == options


@pytest.mark.parametrize("command", zooadapt.commands.values(), ids=lambda command: command.name)
def test_every_command_and_its_options_are_documented(command: click.Command) -> None:
    assert re.search(rf"^zooadapt {command.name}\b|`zooadapt {command.name}\b", README, re.M)
    options = [option for option in command.params if isinstance(option, click.Option)]
    for option in options:
        spelt = [*option.opts, *option.secondary_opts]
        assert any(re.search(rf"{name}\b", README) for name in spelt), spelt


def test_from_the_table_to_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example, on the mirror that the first command makes, prints what is shown."""
    (model,) = listed("sample")
    run(model, counted(1, 4), Path("/nowhere"), tmp_path / "mirror")
    monkeypatch.chdir(tmp_path)
    code, shown = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.S)[0]
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_the_lifecycle_rule_is_one(bucket: str) -> None:
    """The store takes it; and the prefix is that of the other examples' mirror."""
    rule = json.loads(README.split("\n```json\n")[1].split("```")[0])
    filesystem, path = fsspec.url_to_fs(bucket)
    name = path.partition("/")[0]
    filesystem.call_s3(
        "put_bucket_lifecycle_configuration", Bucket=name, LifecycleConfiguration=rule
    )
    filesystem.call_s3("delete_bucket_lifecycle", Bucket=name)
    assert rule["Rules"][0]["Filter"] == {"Prefix": "mirror/"}


def test_every_scheme_is_documented() -> None:
    assert all(f"| `{name}` |" in README for name in SCHEMES)


def test_every_preset_and_common_name_is_documented() -> None:
    assert all(f"`{name}`" in README for name in bands.presets())
    assert all(f"`{name}`" in README for name in bands.COMMON)


def test_the_tolerance_is_the_stated_one() -> None:
    (stated,) = re.findall(r"The tolerance is (1e-\d)", README)
    assert float(stated) == TOLERANCE


def test_the_example_config_has_known_options() -> None:
    entries = _read_yaml(ROOT / "configs" / "example.yaml")
    with click.Context(adapt) as context:
        parameter = next(option for option in adapt.params if option.name == "config")
        adapt.params[0].callback(context, parameter, str(ROOT / "configs" / "example.yaml"))  # type: ignore[misc]
    assert entries["chans"] == [1, 4, 8, 25]


@pytest.mark.parametrize("name", [name for name in names() if name in _OURS])
def test_every_zoo_is_documented(name: str) -> None:
    assert get(name).name == name
    assert re.search(rf"`{name}[`:\[]", README)


def test_ci_runs_the_readme_s_test_command() -> None:
    lines = re.findall(r"^python3 -m venv .* && (python -m pytest)$", README, re.M)
    assert lines == ["python -m pytest"]
    assert "README.md" in Path(ROOT / ".ci" / "run").read_text()


def test_every_test_that_holds_a_promise_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", README)
    assert len(named) > 15
    for file, function in named:
        assert not function or f"def {function}(" in (ROOT / "tests" / file).read_text(), function
        assert (ROOT / "tests" / file).exists(), file
