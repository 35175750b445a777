"""The READMEs and the example config say what the code does, and their links lead somewhere."""

import json
import re
from pathlib import Path

import click
import fsspec
import pytest

from tests.support import docs
from tests.support.jobs import ROOT
from tests.support.pipelines import counted, run
from zooadapt import bands
from zooadapt.cli.main import adapt, zooadapt
from zooadapt.job.options import _read_yaml
from zooadapt.targets import SCHEMES
from zooadapt.types import TOLERANCE
from zooadapt.zoos.registry import _OURS, get, list_models, names

README = docs.read()
ALL = "\n".join(file.read_text() for file in docs.READMES)
PROOF, ZOOS, UPKEEP = (docs.read(f"zooadapt/{name}") for name in ("adapt", "zoos", "upkeep"))


def each_readme() -> pytest.MarkDecorator:
    names = [str(file.relative_to(ROOT)) for file in docs.READMES]
    return pytest.mark.parametrize("readme", docs.READMES, ids=names)


def test_there_is_a_readme_where_people_look() -> None:
    folders = {str(file.parent.relative_to(ROOT)) for file in docs.READMES}
    rooms = {f"zooadapt/{room}" for room in ("adapt", "mirror", "reader", "upkeep", "zoos")}
    assert folders >= {".", "configs", "jobs", "tests", "zooadapt", *rooms}


@each_readme()
def test_every_link_leads_somewhere(readme: Path) -> None:
    assert docs.dead(readme) == []


@each_readme()
def test_every_long_readme_begins_with_its_contents(readme: Path) -> None:
    text = readme.read_text()
    if len(text.splitlines()) > 120:
        sections = {h.title for h in docs.headings(text) if h.level == 2}
        listed = docs.links(text.partition("\n## ")[0])
        assert {f"#{docs.anchor(title)}" for title in sections} <= {*listed}


def test_a_newcomer_reads_the_readme_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 16_000


def test_every_option_is_in_the_table_and_no_other() -> None:
    table = README.split("| option |")[1].split("\n\n")[0]
    documented = set(
        re.findall(r"--[a-z]+[a-z-]*", "\n".join(re.findall(r"^\|[^|]*\|", table, re.M)))
    )
    options = {name for option in adapt.params for name in option.opts}
    assert documented == options


@pytest.mark.parametrize("command", zooadapt.commands.values(), ids=lambda command: command.name)
def test_every_command_and_its_options_are_documented(command: click.Command) -> None:
    """In one README; all that read mirrors, or look after them, share some options."""
    call = re.compile(rf"^zooadapt {command.name}\b|`zooadapt {command.name}\b", re.M)
    texts = [text for text in map(Path.read_text, docs.READMES) if call.search(text)]
    options = [option for option in command.params if isinstance(option, click.Option)]
    spelt = [[*option.opts, *option.secondary_opts] for option in options]
    assert any(all(_named(names, text) for names in spelt) for text in texts), spelt


def _named(names: list[str], text: str) -> bool:
    return any(re.search(rf"{name}\b", text) for name in names)


def test_from_the_table_to_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example, on the mirror that the first command makes, prints what is shown."""
    (model,) = list_models("sample")
    run(model, counted(1, 4), Path("/nowhere"), tmp_path / "mirror")
    monkeypatch.chdir(tmp_path)
    code, shown = re.findall(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", README, re.S)[0]
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_the_lifecycle_rule_is_one(bucket: str) -> None:
    """The store takes it; and the prefix is that of the other examples' mirror."""
    rule = json.loads(UPKEEP.split("\n```json\n")[1].split("```")[0])
    filesystem, path = fsspec.url_to_fs(bucket)
    name = path.partition("/")[0]
    filesystem.call_s3(
        "put_bucket_lifecycle_configuration", Bucket=name, LifecycleConfiguration=rule
    )
    filesystem.call_s3("delete_bucket_lifecycle", Bucket=name)
    assert rule["Rules"][0]["Filter"] == {"Prefix": "mirror/"}


def test_every_scheme_is_documented() -> None:
    assert all(f"| `{name}` |" in text for name in SCHEMES for text in (README, PROOF))


def test_every_preset_and_common_name_is_documented() -> None:
    assert all(f"`{name}`" in PROOF for name in bands.presets())
    assert all(f"`{name}`" in PROOF for name in bands.COMMON)


def test_the_tolerance_is_the_stated_one() -> None:
    (stated,) = re.findall(r"The tolerance is (1e-\d)", ALL)
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
    assert all(re.search(rf"`{name}[`:\[]", text) for text in (README, ZOOS))


def test_ci_runs_the_readme_s_test_command() -> None:
    lines = re.findall(r"^python3 -m venv .* && (python -m pytest)$", README, re.M)
    assert lines == ["python -m pytest"]
    assert "README.md" in Path(ROOT / ".ci" / "run").read_text()


def test_every_test_that_holds_a_promise_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", docs.read("tests"))
    assert len(named) > 15
    for file, function in named:
        assert not function or f"def {function}(" in (ROOT / "tests" / file).read_text(), function
        assert (ROOT / "tests" / file).exists(), file


def test_the_example_of_a_plug_in_is_the_one_that_is_tested() -> None:
    (block,) = docs.blocks(docs.section("zooadapt/zoos", "A zoo of your own"), "python")
    assert block == (ROOT / "tests" / "plugin" / "lite_zoo.py").read_text()


def test_the_map_of_the_code_names_every_module() -> None:
    table, package = docs.section("zooadapt", "The map"), ROOT / "zooadapt"
    rows = re.findall(r"^\| (?:\[?`([\w/]+)/`.*?|the root) \| .*? \| (.*) \|$", table, re.M)
    mapped = {Path(room, name) for room, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    there = {file.relative_to(package).with_suffix("") for file in package.rglob("*.py")}
    assert mapped | {Path("pipeline")} == {module for module in there if module.name != "__init__"}
