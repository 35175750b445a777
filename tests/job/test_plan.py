"""Which models are selected, and what is still to do."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.options import config, parse
from tests.support.records import by_model
from zooadapt.errors import UsageError
from zooadapt.job import plan
from zooadapt.job.options import Config
from zooadapt.mirror.records import ADAPTER_VERSION
from zooadapt.types import ModelEntry, Request, Row
from zooadapt.zoos.registry import versions

ENTRIES = [
    ModelEntry("timm", name, name.split(".")[0], "tag", license, hub_id=f"timm/{name}")
    for name, license in [("resnet18.a1", "mit"), ("resnet18.a2", None), ("vit.x", "apache-2.0")]
]


def names(*arguments: str) -> list[str]:
    return [entry.name for entry in plan.select(config(*arguments))]


def record(
    name: str, done: list[int], failed: list[int] | None = None, status: str = "failed", **more: str
) -> Row:
    return {
        "zoo": "timm",
        "model": name,
        "adapter_version": ADAPTER_VERSION,
        "versions": versions("timm"),
        "source": {"location": f"hf://timm/{name}", "identity": "one", **more},
        "variants": [{"in_chans": chans, "bands": "", "scheme": "repeat"} for chans in done],
        "failures": [
            {
                "in_chans": chans,
                "bands": "",
                "scheme": "repeat",
                "status": status,
                "stage": "checkpoint",
                "error_type": "CheckpointError",
                "error": "broken",
            }
            for chans in failed or []
        ],
    }


def counts(request: Request) -> tuple[int, ...]:
    return tuple(target.in_chans for target in request.targets)


def test_a_model_that_is_listed_twice_is_made_once() -> None:
    made = plan.make([*ENTRIES, ENTRIES[0]], config(), [])
    assert [request.entry for request in made.requests] == ENTRIES
    assert made.models == len(ENTRIES)


def due(*records: Row, options: Config | None = None) -> list[tuple[str, tuple[int, ...]]]:
    made = plan.make(ENTRIES, options or config(), by_model(records))
    return [(request.entry.name, counts(request)) for request in made.requests]


BANDED = [replace(ENTRIES[2], name="test_vit.r160_in1k")]
"""A model whose own channels timm can state."""


def with_bands(scheme: str) -> Row:
    variant = {"in_chans": 4, "bands": "R,G,B,NIR", "scheme": scheme}
    return {**record(BANDED[0].name, [], location="hf://timm/vit.x"), "variants": [variant]}


@pytest.mark.parametrize("scheme", ["rgb-only", "nearest", "repeat"])
def test_bands_under_any_scheme_are_done_where_none_is_asked_for(scheme: str) -> None:
    def schemes(*more: str) -> list[str]:
        asked = parse("--bands", "R,G,B,NIR", *more)
        made = plan.make(BANDED, asked, by_model([with_bands(scheme)]))
        return [target.scheme for request in made.requests for target in request.targets]

    assert schemes() == []
    assert schemes("--scheme", "nearest") == ([] if scheme == "nearest" else ["nearest"])


def test_the_scheme_of_bands_depends_on_what_they_and_the_model_have() -> None:
    options = ["--bands", "R,G,B,NIR", "--bands", "sentinel1", "--bands", "naip:NIR,R"]
    made = plan.make(BANDED, parse(*options), [])
    assert [target.scheme for target in made.requests[0].targets] == [
        "rgb-only", "nearest", "nearest",
    ]  # fmt: skip
    assert made.cautions == [f"R-G-B-NIR: {made.requests[0].targets[0].caution}"]
    assert made.cautions[0].startswith("R-G-B-NIR: 1 of 4 bands start at zero (rgb-only); with a")


def test_weights_of_ones_own_are_used(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("bands: [R, G, B, NIR]\nweights: {NIR: {R: 1.0}}")
    made = plan.make(BANDED, parse("--bands", str(tmp_path / "own.yaml")), [])
    assert made.requests[0].targets[0].scheme.startswith("nearest.")


def test_the_whole_zoo() -> None:
    assert len(names()) >= 1826


def test_globs_include_exclude_and_match_every_tag() -> None:
    assert names("--models", "resnet18") == [n for n in names() if n.startswith("resnet18.")]
    chosen = names("--models", "resnet18,vit_tiny*", "--exclude", "*.a1_in1k,vit*384*")
    assert chosen
    assert not [name for name in chosen if name.endswith(".a1_in1k") or "384" in name]


def test_licences() -> None:
    mit = names("--license", "mit")
    assert 0 < len(mit) < 300
    assert names("--license", "unknown")
    assert set(mit) < set(names("--license", "mit,apache*"))


def test_at_most_so_many() -> None:
    assert names("--max-models", "3") == names()[:3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "resnet18.a1_in1"], "did you mean resnet18.a1_in1k"),
        (["--models", "resnet18,nosuch*"], r"--models nosuch\* matches no model"),
        (["--exclude", "nosuch"], "--exclude nosuch matches no model"),
        (["--license", "gpl"], "--license gpl matches no model's licence; choose from "),
        (["--zoo", "tim"], "no such zoo is installed; choose from folder, hub"),
        (["--models", "resnet18", "--exclude", "*"], "no model is left"),
    ],
)
def test_what_matches_nothing_is_a_usage_error(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names(*arguments)


def test_everything_is_due_in_an_empty_mirror() -> None:
    assert due() == [(entry.name, (1, 4)) for entry in ENTRIES]


def test_only_what_is_missing_is_due() -> None:
    made = plan.make(ENTRIES, config(), [[record("resnet18.a1", [1, 4])], [record("vit.x", [4])]])
    assert [(r.entry.name, counts(r)) for r in made.requests] == [
        ("resnet18.a2", (1, 4)),
        ("vit.x", (1,)),
    ]
    assert (made.models, made.due, made.done) == (3, 3, 3)


def test_failures_wait_for_retry_failed_and_unsupported_for_ever() -> None:
    records = [record("resnet18.a1", [], [1]), record("vit.x", [], [1, 4], "unsupported")]
    assert due(*records) == [("resnet18.a1", (4,)), ("resnet18.a2", (1, 4))]
    again = due(*records, options=config("--retry-failed"))
    assert again == [("resnet18.a1", (1, 4)), ("resnet18.a2", (1, 4))]


def test_unsupported_is_looked_at_again_by_another_version() -> None:
    known = record("vit.x", [], [1, 4], status="unsupported")
    assert due(known)[-1][0] != "vit.x"
    assert due({**known, "versions": {**versions("timm"), "timm": "0.0"}})[-1] == ("vit.x", (1, 4))


def test_a_later_failure_does_not_undo_a_success() -> None:
    assert due(record("vit.x", [1, 4]), record("vit.x", [], [1]))[-1][0] != "vit.x"


def test_another_scheme_adapter_or_source_is_due() -> None:
    other = {**record("vit.x", [1, 4]), "adapter_version": ADAPTER_VERSION + 1}
    assert due(other)[-1] == ("vit.x", (1, 4))
    elsewhere = record("vit.x", [1, 4], location="s3://zoo/timm/vit.x")
    assert due(elsewhere)[-1] == ("vit.x", (1, 4))
    scheme = record("vit.x", [1, 4])
    scheme["variants"] = [{**row, "scheme": "other"} for row in scheme["variants"]]
    assert due(scheme)[-1] == ("vit.x", (1, 4))


def test_a_source_that_changed_is_due() -> None:
    records = [record("resnet18.a1", [1, 4]), record("vit.x", [1, 4])]
    made = plan.make(
        ENTRIES, config(), by_model(records), lambda entry, seen: entry.name == "vit.x"
    )
    assert [request.entry.name for request in made.requests] == ["resnet18.a2", "vit.x"]
    assert due(*records, options=replace(config(), check_sources=True)) == [("resnet18.a2", (1, 4))]


def test_the_source_is_compared_with_the_one_each_variant_was_made_from() -> None:
    records = [record("vit.x", [1]), record("vit.x", [4], identity="two")]
    made = plan.make(ENTRIES[2:], config(), [records], lambda entry, identity: identity != "two")
    assert [counts(request) for request in made.requests] == [(1,)]


def test_requests_that_want_the_same_share_it() -> None:
    """A plan of a million models has to fit in the driver's memory."""
    one, other = plan.make(ENTRIES[:2], config(), []).requests
    assert one.targets is other.targets
