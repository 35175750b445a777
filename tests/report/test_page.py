"""The mirror's page: what it says, what it never says, and what people can do with it."""

import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

import zooadapt
from tests.support import browser as browsers
from tests.support.browser import Opened
from tests.support.jobs import ROOT
from tests.support.records import record, variant
from tests.support.rows import SENTINEL, lacking, many, run, summarise, usable
from zooadapt.cli.main import main
from zooadapt.cli.reading import pull
from zooadapt.job.tally import Tally
from zooadapt.mirror import manifest, run_files
from zooadapt.mirror.columns import FAILURES_SCHEMA
from zooadapt.mirror.run_files import EventLog, Run
from zooadapt.report import page, text
from zooadapt.stores.opening import open_store
from zooadapt.stores.store import Store
from zooadapt.types import Job, ModelEntry, ModelSummary, Row

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}$x^y$<!--"
MIRROR = "s3://bucket/mirror"


def rendered(
    rows: list[Row] | None = None,
    failures: list[Row] | None = None,
    runs: list[Run] | None = None,
    url: str = MIRROR,
) -> str:
    return page.render(page.Contents(url, rows or [], failures or [], runs or []))


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)


def data(html: str) -> dict[str, Any]:
    """The data that the page's script gets."""
    found: dict[str, Any] = json.loads(Parsed(html).scripts[0])
    return found


# What the page says


def test_it_states_what_is_there_and_what_is_not() -> None:
    rows = [usable("a.x", 1), usable("a.x", 4), usable("b", 12, bands=SENTINEL, scheme="nearest")]
    failures = [lacking("b", 4), lacking("c", 4, status="unsupported", stage="stems")]
    text = Parsed(rendered(rows, failures)).text
    assert "models 2 variants 3 size 12 MB unsupported 1 failed 1" in text
    assert "1 repeat 1 0 0 4 repeat 1 1 1 12 sentinel2-l2a nearest 1 0 0" in text
    assert "latest variant made 2026-11-24 03:12 UTC" in text
    assert "failed fetch 1 1 b isn't there the model b (4)" in text


def test_failures_are_grouped_by_reason() -> None:
    failures = [lacking(f"m{index}", chans) for index in range(300) for chans in (1, 4)]
    text = Parsed(rendered(failures=[*failures, lacking(error="other")])).text
    assert "failed fetch 300 600 for example: m0 isn't there the models m0 (1,4), m1 (1,4)" in text
    assert "m199 (1,4) and 100 more failed fetch 1 1 other" in text


def test_many_reasons_are_counted() -> None:
    text = Parsed(
        rendered(failures=[lacking(error=f"no {chr(0x4E00 + index)}") for index in range(130)])
    ).text
    assert f"no {chr(0x4E00 + 99)} " in text
    assert f"no {chr(0x4E00 + 100)} " not in text
    assert "30 more reasons are in failures.parquet" in text


def test_proofs_are_summed_up_for_each_dtype() -> None:
    rows = [usable(f"m{i}", equivalence_error=1e-6 * (i + 1)) for i in range(100)]
    rows += [usable("half", weights_dtype="float16", equivalence_error=3e-3)]
    rows += [usable("nfnet", equivalent=False, equivalence_error=7.0)]
    half, single = page.proofs(rows)
    assert (half.dtype, half.variants, half.changed) == ("float16", 1, 0)
    assert (single.dtype, single.variants, single.changed) == ("float32", 101, 1)
    assert single.errors == pytest.approx((5.1e-5, 9.9e-5, 1e-4))
    assert single.controls == (1.5, 1.5, 1.5)
    assert "all are at most 3.0e-3 1.0e-4" in Parsed(rendered(rows)).text


def test_stages_are_summed_up_over_the_runs() -> None:
    runs = [run(2), run(1, stages={"fetch": 180.0}, bytes_read=10**9), run(3, stages={})]
    text = Parsed(rendered(runs=runs)).text
    assert "fetch 3.33 min 71% 7 GB 35 MB" in text
    assert "publish 30.0 s 11% 36 GB 1.2 GB" in text
    assert "2026-11-02 02:00 3 12 1 2 3 GB 12 GB 60.0 s 20.0 s 10.0 s 30.0 s 40.0 s" in text


def test_an_empty_mirror_has_a_page() -> None:
    text = Parsed(rendered()).text
    assert "Nothing that was asked for is missing." in text
    assert "There is no variant yet." in text
    assert "No run has come to its end yet." in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (100, "1.67 min"), (5900, "98.3 min"), (7600, "2 h 7 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.13e-6, "2.1e-6"), (0.5, "0.50"), (2, "2.0"), (31.4, "31"), (1e-12, "1.0e-12"),
     (float("nan"), "–"), (float("inf"), "–")],
)  # fmt: skip
def test_figures(value: float, shown: str) -> None:
    assert page.figure(value) == shown


def test_figures_that_are_not_finite() -> None:
    rows = [usable(equivalent=False, equivalence_error=float("nan"), control_error=float("inf"))]
    found = data(rendered(rows))["variants"]
    assert found["equivalence_error"] == ["nan"]
    assert found["control_error"] == ["inf"]


# What the page never says or does


def test_what_a_table_says_is_text() -> None:
    names = ("model", "license", "scheme", "bands", "zoo", "architecture", "weights_dtype")
    row = usable(**dict.fromkeys(names, HOSTILE), chans=4)
    failure = lacking(HOSTILE, error=HOSTILE, scheme=HOSTILE, stage=HOSTILE, status=HOSTILE)
    other = lacking(scheme="pad", status="other")
    parsed, plain = Parsed(rendered([row], [failure])), Parsed(rendered([usable()], [other]))
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in plain.elements]
    assert len(parsed.scripts) == 2
    assert parsed.scripts[1] == plain.scripts[1]
    found = json.loads(parsed.scripts[0])
    columns = {**found["variants"], **found["models"]}
    assert all(columns[name]["values"][0] == HOSTILE for name in names)
    assert HOSTILE in parsed.text
    assert "49" not in parsed.text


def test_no_script_but_its_own_may_run_and_nothing_is_loaded() -> None:
    html = rendered(many(8), [lacking()], [run()])
    elements = Parsed(html).elements
    (policy,) = [a["content"] for t, a in elements if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    references = [a[name] for _, a in elements for name in ("src", "href", "action") if name in a]
    assert all(reference and reference.startswith(("#", "data:")) for reference in references)
    assert not [name for _, a in elements for name in a if name.startswith("on")]


def test_no_secret_is_on_it(tmp_path: Path) -> None:
    store = open_store("https://bob:s3cret@host/mirror?sig=s3cret")
    error = "https://bob:s3cret@host/x?Signature=s3cret can't be read"
    html = rendered([usable()], [lacking(error=error)], url=store.url)
    assert "s3cret" not in html
    assert "https://host/mirror" in html
    assert data(html)["failures"]["reason"]["values"] == ["fetch: https://host/x can't be read"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [("s3://bucket/mirror/", "s3://bucket/mirror"), ("memory://mirror", "memory:///mirror"),
     ("/data/mirror", "/data/mirror"), ("https://host/mirror", "https://host/mirror")],
)  # fmt: skip
def test_the_url_of_a_mirror(url: str, shown: str) -> None:
    assert open_store(url).url == shown


def test_the_same_contents_give_the_same_page() -> None:
    """Also in another process, with other hashes and another time zone."""
    contents = "many(40), [lacking(), lacking('b', 1)], [run(2), run(1)]"
    program = (
        "import sys; from tests.support.rows import *; from zooadapt.report.page import *; "
        f"sys.stdout.write(render(Contents('{MIRROR}', {contents})))"
    )
    env = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path), "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, check=True, capture_output=True
    )
    again = rendered(many(40), [lacking(), lacking("b", 1)], [run(2), run(1)])
    assert done.stdout.decode() == again


def test_plots_are_in_the_page_s_colours_and_ids_differ() -> None:
    html = rendered(many(40), [lacking()], [run()])
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert "var(--series-4)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "<text" in svg
    ids = [a["id"] for _, a in Parsed(html).elements if "id" in a]
    assert len(ids) == len(set(ids))
    named = re.findall(r"(?:xlink:href=\"|url\()#([\w-]+)", svg)
    assert named
    assert set(named) <= set(ids)


def test_eight_thousand_variants_are_small() -> None:
    assert len(rendered(many(8000))) < 900_000


# Where the page comes from


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A mirror of one model for 1 and 4 channels; the variant for 8 failed."""
    store = open_store(str(tmp_path / "mirror"))
    failure = {name: lacking(chans=8)[name] for name in FAILURES_SCHEMA.names[2:9]}
    record(store, 1, [variant(1), variant(4)], [failure])
    manifest.compact(store)
    return store


def test_the_command_writes_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", store.root]) == 0
    assert capsys.readouterr().out == f"wrote {store.root}/index.html\n"
    html = store.read("index.html").decode()
    assert data(html)["models"]["model"]["values"] == ["net"]
    assert data(html)["variants"]["in_chans"] == [1, 4]
    assert data(html)["failures"]["in_chans"] == [8]
    assert store.root in html


def test_where_there_is_no_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no manifest.parquet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mirror_too_large_for_a_page(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["report", store.root]) == 0
    monkeypatch.setattr(page, "LARGEST", 1000)
    assert main(["report", store.root]) == 2
    assert not store.exists(manifest.PAGE)  # the old page may show what was taken down since
    assert "no browser shows a page of so many variants" in capsys.readouterr().err


def test_runs_are_read_the_latest_first(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    summarise(store, 3)
    summarise(store, 4)
    summarise(store, 5, "[]")
    summarise(store, 6, "{")
    early = {"new": 1, "usable": 1, "unsupported": 0, "failed": 0, "seconds": 2.0}
    summarise(store, 7, json.dumps(early))
    store.write("runs/notes/summary.json", [b"{}"])
    first, second, third = run_files.read(store)
    assert [first.began, second.began, third.began] == [
        "2026-11-07 02:00", "2026-11-04 02:00", "2026-11-03 02:00",
    ]  # fmt: skip
    assert (first.models, first.stages) == (0, {})
    assert second.stages == {"fetch": 1.5, "validate": 2.0}
    assert len(caplog.records) == 2
    assert "summary.json is damaged and left out" in caplog.text


def test_a_run_leaves_its_seconds_by_stage(store: Store) -> None:
    entry = ModelEntry("timm", "net", "net", "", None)
    job = Job("20261124T020000Z-abc123", store.root)
    with TemporaryFile() as log:
        tally = Tally(job.run_id, EventLog(log), ())
        for seconds in ({"fetch": 1.0, "validate": 2.0}, {"fetch": 3.0}):
            tally.add(ModelSummary(entry, ("4",), (), 100, 400, seconds, "cpu"))
        ending = Run(
            job.run_id, tally.models, tally.new, 0, 0, tally.bytes_read, tally.bytes_written, 5.0,
            tally.stages,
        )  # fmt: skip
        tally.events.leave(store, job.run_id)
        run_files.write_summary(store, ending, "x", 2)
    events = store.read(f"runs/{job.run_id}/events.jsonl").decode().splitlines()
    assert [json.loads(event)["seconds"] for event in events] == [
        {"fetch": 1.0, "validate": 2.0}, {"fetch": 3.0},
    ]  # fmt: skip
    assert [json.loads(event)["bytes_read"] for event in events] == [100, 100]
    (left,) = run_files.read(store)
    assert left == ending
    assert (left.models, left.bytes_read, left.bytes_written) == (2, 200, 800)
    assert left.stages == {"fetch": 4.0, "validate": 2.0}


def test_a_page_in_a_bucket_is_opened_from_a_copy(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, opened = open_store(bucket), list[str]()

    def browse(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", browse)
    assert main(["report", bucket, "--open"]) == 2
    assert f"{bucket} has no page" in capsys.readouterr().err
    store.write("index.html", [b"<p>all of it"])
    for told in ("opened ", "there is no browser here; the page is "):
        assert main(["report", bucket, "--open"]) == 0
        file = Path(capsys.readouterr().out.removeprefix(told).strip())
        assert file.read_bytes() == b"<p>all of it"
    assert opened == [file.as_uri()] * 2


def test_a_page_that_cannot_be_written_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(key: str, chunks: object) -> None:
        raise OSError(28, "No space left on https://bob:s3cret@host")

    monkeypatch.setattr(store, "write", full)
    with caplog.at_level(logging.WARNING):
        page.leave(store)
    (line,) = caplog.messages
    assert line == "the mirror's page wasn't written: [Errno 28] No space left on https://host"


def test_s3_is_told_that_it_is_a_page(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS tells by the name. Other stores must be told, or serve the page as a download."""
    store, told = open_store(bucket), {}
    manifest.compact(store)
    call = store.fs.call_s3

    def listening(method: str, *arguments: Any, **given: Any) -> Any:
        if "Body" in given:
            told[given["Key"].rpartition("/")[2]] = given.get("ContentType")
        return call(method, *arguments, **given)

    monkeypatch.setattr(store.fs, "call_s3", listening)
    assert page.write(store) == f"{bucket}/index.html"
    store.write("notes.json", [b"{}"])
    assert told == {"index.html": "text/html; charset=utf-8", "notes.json": None}


def test_help_needs_none_of_it() -> None:
    program = (
        "import sys; from zooadapt.cli.main import main; main(['--help']); "
        "print({'matplotlib', 'jinja2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n")
    assert "report" in done.stdout


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def large() -> str:
    """A page with 8,000 variants of 2,000 models, and with a few other variants."""
    rows = [
        *many(8000),
        usable("odd.in1k", 12, bands=SENTINEL, scheme="nearest", license="mit"),
        usable("odd.in1k", 3, bands="R,G,Red Edge", scheme="rgb-only", license="mit", params=1),
        usable(
            "odd's",
            4,
            scheme="preserve",
            equivalent=False,
            equivalence_error=0.2,
            changed="the stem shifts every pixel; the scheme mean keeps the function",
        ),
        usable("own", 2, bands="A,B", scheme="nearest.1f0c23ab"),
        usable("own", 2, bands="A,B", scheme="rgb-only.1f0c23ab"),
    ]
    failures = [
        lacking("net0.in1k", 12, bands=SENTINEL, scheme="nearest"),
        lacking("csatv2", 1, status="unsupported", stage="stems", error="a fixed transform"),
    ]
    return rendered(rows, failures, [run(2), run(1)])


@contextmanager
def shown(browser: Browser, html: str, **options: Any) -> Iterator[Opened]:
    """The page in a browser. At the end it has loaded nothing else and logged no error."""
    with browsers.opened(browser, html, **options) as opened:
        yield opened
        assert opened.requests == ["/index.html"]
        assert opened.complaints == []


@pytest.fixture
def opened(chromium: Browser, large: str) -> Iterator[Opened]:
    with shown(chromium, large, viewport={"width": 1280, "height": 900}) as opened:
        yield opened


def catalogue(opened: Opened) -> Locator:
    return opened.page.locator("#catalogue")


ALL = "2,004 of 2,004 models: 8,005 variants in the mirror, 2 not there"


def column(section: Locator, key: str) -> list[str]:
    return section.locator(f"tbody .of-{key}").all_inner_texts()


def names(section: Locator) -> list[str]:
    """The models on the page, each with its zoo where there are several."""
    rows = section.locator("tbody tr:not(.detail) th").all()
    zoos = [row.locator("small").all_inner_texts() for row in rows]
    models = [row.locator(".name").inner_text() for row in rows]
    return [" ".join([model, *zoo]) for model, zoo in zip(models, zoos, strict=True)]


def count(section: Locator) -> str:
    return section.locator(".found").inner_text()


def copied(opened: Opened, search: str, what: str = "command") -> str:
    """What a Copy button copies of the first model that a search finds."""
    section = catalogue(opened)
    section.get_by_label("Search", exact=True).fill(search)
    name = section.locator("tbody .name").first
    if name.get_attribute("aria-expanded") == "false":
        name.click()
    section.get_by_role("button", name=f"Copy the {what} line").click()
    expect(opened.page.locator(".toast")).to_contain_text("Copied")
    return opened.clipboard()


def chips(section: Locator, model: str) -> dict[str, bool]:
    """A model's chips, and whether each is the one that the figures are of."""
    found = section.locator("tbody tr", has_text=model).first.locator(".chip").all()
    return {one.inner_text(): one.get_attribute("aria-pressed") == "true" for one in found}


def test_only_a_page_of_models_is_made(opened: Opened) -> None:
    section = catalogue(opened)
    assert count(section) == ALL
    assert section.locator("tbody tr").count() == 50
    following = section.get_by_role("button", name="Next")
    following.click()
    expect(section.locator(".place")).to_have_text("51–100 of 2,004")
    assert names(section)[0] == "net49.in1k"
    following.press("Enter")
    expect(section.locator(".place")).to_have_text("101–150 of 2,004")
    expect(following).to_be_focused()
    section.get_by_role("button", name="Previous").click()
    expect(section.locator(".place")).to_have_text("51–100 of 2,004")


def test_searching(opened: Opened) -> None:
    section = catalogue(opened)
    search = section.get_by_label("Search", exact=True)
    search.fill("NET77.")
    assert count(section) == "1 of 2,004 models: 4 variants in the mirror"
    assert names(section) == ["net77.in1k"]
    assert chips(section, "net77") == {"1": True, "4": False, "8": False, "25": False}
    search.fill("odd mit")
    assert column(section, "license") == ["mit"]
    search.fill("fixed transform")  # what a failure says
    assert names(section) == ["csatv2"]
    search.fill("nosuch")
    assert count(section) == "0 of 2,004 models: 0 variants in the mirror"
    section.get_by_role("button", name="Reset").click()
    expect(section.locator(".found")).to_have_text(
        "2,004 of 2,004 models: 8,005 variants in the mirror, 2 not there"
    )


@pytest.mark.parametrize(
    ("label", "choice", "found"),
    [("Channels", "25", "2,000 of 2,004 models: 2,000 variants in the mirror"),
     ("Bands", "sentinel2-l2a", "2 of 2,004 models: 1 variant in the mirror, 1 not there"),
     ("Bands", "without names", "2,002 of 2,004 models: 8,001 variants in the mirror, 1 not there"),
     ("Scheme", "rgb-only", "1 of 2,004 models: 1 variant in the mirror"),
     ("Licence", "mit", "1 of 2,004 models: 2 variants in the mirror"),
     ("Outputs", "changed", "1 of 2,004 models: 1 variant in the mirror"),
     ("State", "unsupported", "1 of 2,004 models: 0 variants in the mirror, 1 not there"),
     ("State", "failed", "1 of 2,004 models: 0 variants in the mirror, 1 not there")],
)  # fmt: skip
def test_choosing(opened: Opened, label: str, choice: str, found: str) -> None:
    section = catalogue(opened)
    section.get_by_label(label, exact=True).select_option(choice)
    assert count(section) == found


def test_the_figures_are_those_of_the_marked_variant(opened: Opened) -> None:
    section = catalogue(opened)
    section.get_by_label("Search", exact=True).fill("net77.")
    assert column(section, "macs") == ["0.1"]
    section.get_by_label("Channels", exact=True).select_option("8")
    assert chips(section, "net77") == {"1": False, "4": False, "8": True, "25": False}
    assert column(section, "macs") == ["0.8"]
    section.get_by_label("Channels", exact=True).select_option("")
    chip = section.get_by_role("button", name="25", exact=True)
    chip.click()
    assert column(section, "macs") == ["2.5"]
    expect(section.locator(".chip[aria-pressed=true]")).to_be_focused()
    assert "25 channels" in section.locator(".detail").inner_text()


def test_choosing_by_parameters(opened: Opened) -> None:
    section = catalogue(opened)
    section.get_by_label("at least, in millions").fill("100")
    section.get_by_label("at most, in millions").fill("101.5")
    section.get_by_label("Channels", exact=True).select_option("4")
    assert column(section, "params") == ["100 M", "101 M"]
    assert names(section) == ["net99.in1k", "net100.in1k"]


def test_sorting(opened: Opened) -> None:
    section = catalogue(opened)
    head = section.get_by_role("columnheader", name="Params")
    expect(head).to_have_attribute("aria-sort", "none")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert column(section, "params")[:2] == ["1", "1.0 M"]
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert column(section, "params")[0] == "2.0 G"
    section.get_by_role("columnheader", name="Model").get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "none")
    assert names(section)[:3] == ["csatv2", "net0.in1k", "net1.in1k"]
    last = section.get_by_role("columnheader", name="Error")
    last.get_by_role("button").click()
    last.get_by_role("button").click()
    assert column(section, "equivalence_error")[:2] == ["0.20\nchanged", "2.0e-6"]
    opened.page.evaluate("location.hash = '#sort=equivalence_error+down&page=41'")
    expect(section.locator(".place")).to_have_text("2,001–2,004 of 2,004")
    assert "–\nunsupported" in column(section, "equivalence_error")


def test_copying(opened: Opened) -> None:
    """A click copies the line that pulls the variant, or that loads it, and shows it."""
    line = f"zooadapt pull net77.in1k --chans 1 --mirror {MIRROR}"
    assert copied(opened, "net77.") == line
    assert opened.page.locator(".toast code").inner_text() == line
    loads = f'zooadapt.create_model("net77.in1k", in_chans=1, mirror="{MIRROR}")'
    assert copied(opened, "net77.", "Python") == loads


def test_the_copied_python_line_asks_for_the_variant(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(zooadapt, "create_model", lambda model, **of: asked.update(of, model=model))
    eval(copied(opened, "odd nearest", "Python"), {"zooadapt": zooadapt})
    assert asked == {
        "model": "odd.in1k", "bands": "sentinel2-l2a", "scheme": "nearest", "mirror": MIRROR,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("odd mit nearest", ["odd.in1k", "--bands", "sentinel2-l2a", "--scheme", "nearest"]),
        ("odd rgb-only", ["odd.in1k", "--bands", "R,G,Red Edge", "--scheme", "rgb-only"]),
        ("odd's", ["odd's", "--chans", "4", "--scheme", "preserve"]),
        ("1f0c23ab nearest", ["own", "--bands", "FILE.yaml", "--scheme", "nearest"]),
        ("1f0c23ab rgb", ["own", "--bands", "FILE.yaml", "--scheme", "rgb-only"]),
    ],
)
def test_what_is_copied_can_be_pasted(opened: Opened, search: str, words: list[str]) -> None:
    """`zooadapt pull` understands the copied line."""
    expected = ["zooadapt", "pull", *words, "--mirror", MIRROR]
    assert shlex.split(copied(opened, search)) == expected
    names = ["-h", "--help"]  # click keeps a command's own option for help, as it first was
    with pull.make_context("pull", expected[2:], help_option_names=names) as context:
        assert context.params["model"] == words[0]


def test_models_of_two_zoos_are_told_apart(chromium: Browser) -> None:
    rows = [usable("net", zoo="timm"), usable("net", zoo="torchvision"), usable("other")]
    with shown(chromium, rendered(rows)) as opened:
        section = catalogue(opened)
        assert names(section) == ["net timm", "net torchvision", "other timm"]
        line = "zooadapt pull net --chans 4 --zoo torchvision --mirror"
        assert copied(opened, "torchvision") == f"{line} {MIRROR}"
        assert "--zoo" not in copied(opened, "other")
        section.get_by_role("button", name="Reset").click()
        section.get_by_label("Zoo").select_option("torchvision")
        expect(section.locator(".found")).to_have_text("1 of 3 models: 1 variant in the mirror")


def test_copying_without_a_clipboard(chromium: Browser, large: str) -> None:
    """Over plain http, browsers have no clipboard."""
    with shown(chromium, large) as opened:
        opened.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        opened.page.evaluate(
            "document.addEventListener('copy', () => window.held = String(getSelection()) ||"
            " document.activeElement.value)"
        )
        section = catalogue(opened)
        section.get_by_role("button", name="net0.in1k").click()
        section.get_by_role("button", name="Copy the command line").click()
        expect(opened.page.locator(".toast")).to_contain_text("Copied")
        held = opened.page.evaluate("window.held")
        assert held == f"zooadapt pull net0.in1k --chans 1 --mirror {MIRROR}"


def test_an_open_model_says_all_of_its_variant(opened: Opened) -> None:
    section = catalogue(opened)
    section.get_by_label("Search", exact=True).fill("odd's")
    section.get_by_role("button", name="odd's").click()
    told = section.locator(".detail").inner_text()
    assert "the scheme mean keeps the function" in told
    assert "its outputs aren't the original's" in told
    section.get_by_label("Search", exact=True).fill("net0.in1k")
    section.get_by_role("button", name="net0.in1k").click()
    card = section.get_by_role("link", name="The original's page on the Hub")
    expect(card).to_have_attribute("href", "https://huggingface.co/timm/net0.in1k")
    section.locator(".chip.failed").click()
    assert "fetch: net0.in1k isn't there" in section.locator(".detail").inner_text()
    expect(section.get_by_role("button", name="Copy the command line")).to_have_count(0)


def test_the_url_keeps_what_is_chosen(chromium: Browser, large: str) -> None:
    """A reload, or a colleague with the URL, sees the same."""
    with browsers.opened(chromium, large, viewport={"width": 1280, "height": 900}) as opened:
        section = catalogue(opened)
        section.get_by_label("Channels", exact=True).select_option("8")
        section.get_by_label("at least, in millions").fill("7")
        section.get_by_role("columnheader", name="Params").get_by_role("button").click()
        section.get_by_role("button", name="Next").click()
        section.locator("tbody .name").nth(3).click()
        shown_before, told = names(section), section.locator(".detail").inner_text()
        opened.page.reload()
        assert names(section) == shown_before
        assert section.locator(".detail").inner_text() == told
        expect(section.locator(".place")).to_have_text("51–100 of 1,994")
        colleague = opened.page.context.new_page()
        colleague.goto(opened.page.url)
        assert names(colleague.locator("#catalogue")) == shown_before
        url = opened.page.url
        opened.page.get_by_role("link", name="Runs").click()  # a section's link is no choice
        assert names(section) == shown_before
        assert opened.page.url == url
        section.locator(".detail").locator("xpath=preceding-sibling::tr[1]").get_by_role(
            "button", name="25", exact=True
        ).click()  # a chip that the filter leaves out
        told = section.locator(".detail").inner_text()
        opened.page.reload()
        assert section.locator(".detail").inner_text() == told
        assert "25 channels" in told
        colleague.goto(opened.page.url.partition("#")[0] + "#model=timm%2Fnet150.in1k")
        colleague.reload()
        expect(colleague.locator(".name[aria-expanded=true]")).to_have_text("net150.in1k")


def test_an_empty_result_suggests(opened: Opened) -> None:
    section = catalogue(opened)
    section.get_by_label("Search", exact=True).fill("nett77")
    section.get_by_label("Channels", exact=True).select_option("25")
    none = section.locator(".none")
    assert "No model in this mirror matches." in none.inner_text()
    none.get_by_role("button", name="net77", exact=True).click()
    assert names(section)[0] == "net77.in1k"
    section.get_by_label("Search", exact=True).fill("csatv2")
    none.get_by_role("button", name="without channels: 1 model").click()
    assert names(section) == ["csatv2"]


def test_by_keyboard_alone(opened: Opened) -> None:
    """Tab reaches everything, and the focused element is visibly marked."""
    keyboard, active = opened.page.keyboard, "document.activeElement"
    keyboard.press("Tab")
    assert opened.page.evaluate(f"{active}.textContent") == "Skip to the catalogue"
    keyboard.press("Enter")
    keyboard.press("Tab")
    assert opened.page.evaluate(f"{active}.name") == "text"
    keyboard.type("net77.")
    seen = []
    for _ in range(40):
        keyboard.press("Tab")
        style = opened.page.evaluate(f"getComputedStyle({active}).outlineStyle")
        seen.append(opened.page.evaluate(f"{active}.textContent"))
        assert style != "none", seen
        if seen[-1] == "net77.in1k":
            keyboard.press("Enter")  # and the open model's name has the focus
        if seen[-1] == "Copy":
            break
    keyboard.press("Enter")
    expect(opened.page.locator(".toast")).to_contain_text("Copied")
    assert opened.clipboard().startswith("zooadapt pull net77.in1k --chans 1 ")


def test_every_control_and_table_has_a_name(opened: Opened) -> None:
    tree = opened.page.locator("body").aria_snapshot()
    unnamed = re.findall(
        r"- (?:textbox|searchbox|combobox|spinbutton|button|table|region|img|navigation)(?::.*)?$",
        tree, re.M,
    )  # fmt: skip
    assert not unnamed
    assert tree.count("- table ") == 6


def test_hostile_names_stay_text(chromium: Browser) -> None:
    names = ("license", "scheme", "bands", "zoo")
    rows = [usable(HOSTILE, 4, **dict.fromkeys(names, HOSTILE)), usable("--help\x1b[31m\n")]
    failure = lacking(HOSTILE, error=HOSTILE, scheme=HOSTILE)
    with shown(chromium, rendered(rows, [failure])) as opened:
        section = catalogue(opened)
        assert column(section, "license") == ["apache-2.0", HOSTILE, "unknown"]
        assert section.locator("tbody .name").nth(1).text_content() == HOSTILE
        assert section.locator("tbody small").nth(1).text_content() == HOSTILE
        assert opened.page.locator("img").count() == 0
        words = shlex.split(copied(opened, "onerror"))
        assert words[:4] == ["zooadapt", "pull", HOSTILE, "--bands"]
        line = copied(opened, "help")
        assert line.startswith("zooadapt pull --chans 4 --mirror ")
        assert line.endswith(r" -- $'--help\u001b[31m\u000a'")
        typed = subprocess.run(["bash", "-c", f"printf %s {line.split(' -- ')[1]}"],
                               capture_output=True, text=True, check=True)  # fmt: skip
        assert typed.stdout == "--help\x1b[31m\n"


@pytest.mark.parametrize("width", [320, 390, 800, 1600])
def test_no_width_makes_the_page_scroll_sideways(chromium: Browser, large: str, width: int) -> None:
    with shown(chromium, large, viewport={"width": width, "height": 800}) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_models_are_cards_and_can_be_sorted(chromium: Browser, large: str) -> None:
    with shown(chromium, large, viewport={"width": 390, "height": 800}) as opened:
        section = catalogue(opened)
        first = section.locator("tbody tr").first.bounding_box()
        assert first
        assert first["y"] + first["height"] < 800, "the first model is within the first screen"
        section.get_by_text("Filters", exact=True).click()
        section.get_by_label("Sort by").select_option(label="Params ↓")
        expect(section.locator("tbody .of-params").first).to_have_text("2.0 G")
        rows = section.locator("tbody tr").all()[:3]
        assert [box["x"] for box in map(Locator.bounding_box, rows) if box] == [16, 16, 16]
        assert opened.page.locator("figure text").first.evaluate(
            "text => text.getBoundingClientRect().height"
        ) > 9  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_is_legible(chromium: Browser, large: str, scheme: str) -> None:
    """Every text has the contrast of 4.5 that WCAG asks for, and every colour of the plots 3."""
    with shown(chromium, large, color_scheme=scheme) as opened:
        section = catalogue(opened)
        section.get_by_label("Channels", exact=True).select_option("8")  # other chips are paler
        section.locator("tbody .name").first.click()
        ratios = opened.page.evaluate(CONTRAST)
        assert min(ratio for ratio, _ in ratios["text"]) >= 4.5, sorted(ratios["text"])[:3]
        assert min(ratio for ratio, _ in ratios["fill"]) >= 3, sorted(ratios["fill"])[:3]
        dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


CONTRAST = """() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const [r, g, b] = parse(colour).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parse(colour)[3] !== 0) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = { text: [], fill: [] };
  for (const node of document.querySelectorAll("body *")) {
    const style = getComputedStyle(node);
    const shape = node.style.fill && node.style.fill.includes("series");
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest("svg")) {
      const kind = node.tagName === "text" ? "text" : shape ? "fill" : "";
      if (kind) found[kind].push([ratio(style.fill, behind(node)), node.outerHTML.slice(0, 90)]);
    } else if (text) {
      found.text.push([ratio(style.color, behind(node)), node.outerHTML.slice(0, 90)]);
    }
  }
  return found;
}"""
"""The contrast with the background: of every text, and of every shape in a series' colour."""
