"""A variant's card for the Hugging Face Hub, and how to cite it.

Both are made from the variant's row and its config.json when they are asked for. No mirror stores
them: a variant's folder is named by its content, and a licence, say, can be stated otherwise later.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from zooadapt import bands
from zooadapt.bands import short
from zooadapt.errors import redact
from zooadapt.names import SECTION
from zooadapt.proof import verdict
from zooadapt.types import TOLERANCE, ProofResult, Row
from zooadapt.urls import card as page_of

KNOWN_LICENSES = frozenset(
    [
        "afl-3.0",
        "agpl-3.0",
        "apache-2.0",
        "apple-amlr",
        "apple-ascl",
        "artistic-2.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "fair-noncommercial-research-license",
        "gemma",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "intel-research",
        "isc",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "lppl-1.3c",
        "mit",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "odbl",
        "odc-by",
        "ofl-1.1",
        "openmdw-1.0",
        "openrail",
        "openrail++",
        "osl-3.0",
        "pddl",
        "postgresql",
        "unlicense",
        "wtfpl",
        "zlib",
    ]
)
"""Names that the Hub knows, from its documentation ("Licenses"). Another is stated as `other`, with
its name and where it is explained."""

_TASKS = {
    "ForImageClassification": "image-classification",
    "ForSemanticSegmentation": "image-segmentation",
    "ForUniversalSegmentation": "image-segmentation",
    "ForObjectDetection": "object-detection",
    "ForDepthEstimation": "depth-estimation",
}
"""The Hub's names for what a class of transformers does, by the end of the class's name."""
PLACE = "OWNER/NAME"
"""Stands for the repository in a card that isn't pushed."""


@dataclass(frozen=True)
class Stated:
    """What the source of a model states beside its weights."""

    papers: tuple[str, ...] = ()
    """URLs."""
    datasets: tuple[str, ...] = ()
    """Ids of datasets on the Hub."""
    dois: tuple[str, ...] = ()
    """DOIs of the model's repository."""

    @staticmethod
    def of(config: Mapping[str, Any], tags: Sequence[str] = ()) -> "Stated":
        """What timm's config and the Hub's tags state, such as ``arxiv:1512.03385``."""
        cfg = config.get("pretrained_cfg") or {}
        ids = cfg.get("paper_ids") or ()
        papers = [ids] if isinstance(ids, str) else [*ids]
        found: dict[str, list[str]] = {"arxiv": [], "dataset": [], "doi": []}
        for tag in [*papers, *tags]:
            kind, _, value = str(tag).partition(":")
            if kind.lower() in found and value not in found[kind.lower()]:
                found[kind.lower()].append(value)
        urls = [f"https://arxiv.org/abs/{number}" for number in found["arxiv"]]
        return Stated(tuple(urls), tuple(found["dataset"]), tuple(found["doi"]))


def text(row: Row, config: Mapping[str, Any], stated: Stated, place: str = PLACE) -> str:
    """The card of a variant, which lies in the Hub's repository `place`, as Markdown."""
    front = yaml.safe_dump(metadata(row, config, stated), sort_keys=False, allow_unicode=True)
    parts = (
        f"# {row['model']} for {_channels(row)}",
        _what(row, config),
        _reads(config),
        "## What was proved",
        _proof(row),
        "## Load it",
        _loading(row, config, place),
        "## Licence",
        _license(row),
        "## Cite",
        f"Cite the authors of the original first.\n\n```text\n{citation(row, stated)}\n```",
    )
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def metadata(row: Row, config: Mapping[str, Any], stated: Stated) -> dict[str, Any]:
    """The card's front matter. Its keys are those that the Hub knows, and `bands`."""
    names = config[SECTION]["bands"]
    sensor = short(row["bands"])
    base = page_of(row["source_uri"]).removeprefix("https://huggingface.co/")
    library = _library(row, config)
    tags = ["zooadapt", library, f"{row['in_chans']}-channel", *([sensor] if names else [])]
    content = {
        **_stated_license(row),
        "library_name": library,
        "pipeline_tag": _task(row, config),
        "base_model": base,
        "base_model_relation": "finetune" if base else "",
        "datasets": list(stated.datasets),
        "tags": list(dict.fromkeys(tag for tag in tags if "," not in tag)),
        "bands": list(names),
    }
    return {key: value for key, value in content.items() if value}


def citation(row: Row, stated: Stated, mirror: str = "") -> str:
    """How to cite a variant: one line each for the original, what it rests on, and the variant."""
    parts = [f"{row['model']} ({row['zoo']})", _source(row), f"sha256 {row['source_sha256']}"]
    lines = [f"original: {', '.join(part for part in parts if part)}"]
    lines += [f"paper: {url}" for url in stated.papers]
    lines += [f"model DOI: https://doi.org/{doi}" for doi in stated.dois]
    lines += [f"trained on: https://huggingface.co/datasets/{name}" for name in stated.datasets]
    made = f"adapted: to {_channels(row)} under the scheme {row['scheme']} by zooadapt "
    lines.append(f"{made}{row['zooadapt_version']}, sha256 {row['sha256']}")
    if mirror and row["run_id"]:
        lines.append(f"mirror: {redact(mirror)}/manifest@{row['run_id']}")
    return "\n".join(lines)


def _source(row: Row) -> str:
    """Where the original is from; "" for a file on somebody's machine: others can't get it."""
    uri = redact(row["source_uri"])
    return uri if "://" in uri and not uri.startswith("file:") else ""


def _channels(row: Row) -> str:
    count = f"{row['in_chans']} channel{'s' * (row['in_chans'] != 1)}"
    return f"{count} ({short(row['bands']).replace(',', ', ')})" if row["bands"] else count


def _library(row: Row, config: Mapping[str, Any]) -> str:
    """The library that loads the folder, by the Hub's name; else zooadapt itself."""
    if row["min_timm"]:
        return "timm"
    return "transformers" if config.get("model_type") else "zooadapt"


def _task(row: Row, config: Mapping[str, Any]) -> str:
    """The Hub's name for what the model does; "" where that isn't known."""
    if row["min_timm"]:
        return "image-classification" if row["num_classes"] else "image-feature-extraction"
    (name,) = config.get("architectures") or ("",)
    return next((task for end, task in _TASKS.items() if name.endswith(end)), "")


def _stated_license(row: Row) -> dict[str, str]:
    name = row["license"]
    if not name:
        return {}
    if name in KNOWN_LICENSES:
        return {"license": name}
    link = page_of(row["source_uri"]) or _source(row)
    return {"license": "other", "license_name": name, **({"license_link": link} if link else {})}


def _what(row: Row, config: Mapping[str, Any]) -> str:
    page = page_of(row["source_uri"])
    original = f"[{row['model']}]({page})" if page else row["model"]
    before = len(config[SECTION]["source"]["bands"])
    return (
        f"{original}, which reads {before} channels, was given another first layer, for "
        f"{_channels(row)}. No weight was trained: each weight that reads the image was multiplied "
        f"by a matrix of channels (scheme `{row['scheme']}`), and all others are the original's, "
        f"bit for bit. Train it on your own images before you rely on what it says of them."
    )


def _reads(config: Mapping[str, Any]) -> str:
    """A table: each channel, and what it reads of the original's; this is the matrix M in words."""
    section = config[SECTION]
    originals = [band["name"] for band in section["source"]["bands"]]
    named = [name or f"channel {number}" for number, name in enumerate(originals)]
    columns = zip(*section["matrix"], strict=True)
    reads = [bands.mixture(named, column) or "nothing: it starts at zero" for column in columns]
    names = section["bands"] or range(len(reads))
    rows = [f"| {name} | {read} |" for name, read in zip(names, reads, strict=True)]
    head = f"| {'band' if section['bands'] else 'channel'} | reads of the original |"
    return "\n".join([head, "| --- | --- |", *rows])


def _proof(row: Row) -> str:
    result = ProofResult.of(row)
    if result.proof == "none":
        return "Nothing was run. Every stored bit was compared with the original's."
    where = f"on {row['checked_on']} with torch {row['torch_version']}"
    figures = (
        f"The stored weights were run {where}, on an image of noise, and compared with the "
        f"original on the mixed image. The outputs differ by {result.equivalence_error:.1e} of how "
        f"far another image moves them (limit {TOLERANCE:g}). A first layer that is wrong on "
        f"purpose gives {result.control_error:.2g}."
    )
    if result.equivalent:
        return figures
    return f"**It computes another function than the original:** {verdict.said(result)}. {figures}"


def _loading(row: Row, config: Mapping[str, Any], place: str) -> str:
    blocks = [_python("import zooadapt", _by_zooadapt(row))]
    library = _library(row, config)
    if library == "timm":
        call = f'model = timm.create_model("hf-hub:{place}", pretrained=True)'
        blocks.insert(0, _python("import timm", call))
    elif library == "transformers":
        (name,) = config["architectures"]
        call = f'model = {name}.from_pretrained("{place}")'
        blocks.insert(0, _python(f"from transformers import {name}", call))
    else:
        blocks[0] += "\n\nNo other library opens this folder."
    return "\n\n".join([*blocks, *_statistics(row)])


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _by_zooadapt(row: Row) -> str:
    """The call that makes the same variant, or loads it from a mirror."""
    target = {"bands": short(row["bands"])} if row["bands"] else {"in_chans": row["in_chans"]}
    asked = {**target, "scheme": row["scheme"].partition(".")[0]}
    options = ", ".join(f"{name}={json.dumps(value)}" for name, value in asked.items())
    return f"model = zooadapt.create_model({json.dumps(row['model'])}, {options})"


def _statistics(row: Row) -> Iterator[str]:
    if row["input_mean"] is not None:
        mean, std = (
            ", ".join(f"{value:.4g}" for value in row[name]) for name in ("input_mean", "input_std")
        )
        size = f"{row['input_height']} × {row['input_width']}"
        yield (
            f"Images of {size} pixels, scaled to 0…1, minus the mean ({mean}), divided by the "
            f"standard deviation ({std})."
        )


def _license(row: Row) -> str:
    if row["license"]:
        return f"The original is under {row['license']}, and so is this copy."
    return "The source states no licence."
