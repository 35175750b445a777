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
from zooadapt.errors import UsageError, redact
from zooadapt.names import SECTION
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
    """Ids of data sets on the Hub."""
    dataset_dois: tuple[str, ...] = ()
    """DOIs of these data sets."""
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
        urls = tuple(f"https://arxiv.org/abs/{number}" for number in found["arxiv"])
        return Stated(papers=urls, datasets=tuple(found["dataset"]), dois=tuple(found["doi"]))


def text(
    row: Row, config: Mapping[str, Any], stated: Stated, place: str = PLACE, license: str = ""
) -> str:
    """The card of a variant, which lies in the Hub's repository `place`, as Markdown.

    `license` is what whoever shares it states, where the source states none.
    """
    facts = metadata({**row, "license": row["license"] or license}, config, stated)
    front = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    parts = (
        f"# {row['model']} for {_channels(row)}",
        _what(row, config),
        _reads(config),
        "## How it was compared",
        _proof(row),
        "## Load it",
        _loading(row, config, place),
        "## Licence",
        _license(row, license),
        "## Cite",
        f"Cite the authors of the original first.\n\n```text\n{citation(row, stated)}\n```",
    )
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def is_ours(text: str) -> bool:
    """Whether a README is a card that zooadapt wrote."""
    return text.startswith("---\n") and "\n- zooadapt\n" in text.partition("\n---\n")[0]


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
    lines += [f"data set DOI: https://doi.org/{doi}" for doi in stated.dataset_dois]
    made = f"adapted: to {_channels(row)} under the scheme {row['scheme']} by zooadapt "
    lines.append(f"{made}{row['zooadapt_version']}, sha256 {row['sha256']}")
    if mirror and row["run_id"]:
        lines.append(f"mirror: {redact(mirror)}/manifest@{row['run_id']}")
    return "\n".join(lines)


def _source(row: Row) -> str:
    """Where the original is from; "" for somebody's own place, which is nobody else's business."""
    public = ("hf://", "package://", *(["https://"] if row["zoo"] == "torchvision" else []))
    return redact(row["source_uri"]) if row["source_uri"].startswith(public) else ""


def _channels(row: Row) -> str:
    count = f"{row['in_chans']} channel{'s' * (row['in_chans'] != 1)}"
    return f"{count} ({short(row['bands']).replace(',', ', ')})" if row["bands"] else count


def _library(row: Row, config: Mapping[str, Any]) -> str:
    """The library that loads the folder, by the Hub's name; else zooadapt itself."""
    if row["min_timm"]:
        return "timm"
    if row["zoo"] == "torchvision":
        return "torchvision"
    return "transformers" if config.get("model_type") else "zooadapt"


def _task(row: Row, config: Mapping[str, Any]) -> str:
    """The Hub's name for what the model does; "" where that isn't known."""
    if row["min_timm"]:
        return "image-classification" if row["num_classes"] else "image-feature-extraction"
    name = (config.get("architectures") or [""])[0]
    return next((task for end, task in _TASKS.items() if name.endswith(end)), "")


def _stated_license(row: Row) -> dict[str, str]:
    name = row["license"]
    if not name:
        return {}
    if name in KNOWN_LICENSES:
        return {"license": name}
    is_link = name.startswith(("http://", "https://"))
    link = name if is_link else page_of(row["source_uri"])
    stated = {"license": "other", "license_name": "other" if is_link else name}
    return stated | ({"license_link": link} if link else {})


def _what(row: Row, config: Mapping[str, Any]) -> str:
    page = page_of(row["source_uri"])
    original = f"[{row['model']}]({page})" if page else row["model"]
    before = len(config[SECTION]["source"]["bands"])
    gain = " The gain of the first layer was set anew." if row["scheme"] == "preserve" else ""
    return (
        f"The original, {original}, takes {before} channels. Its first layer was replaced by one "
        f"for {_channels(row)}: the layer's weights were multiplied by a matrix, under the rule "
        f"(scheme) `{row['scheme']}`.{gain} No weight was trained. All other weights are the "
        f"original's, bit for bit. Nothing was measured on images of your sensor: fine-tune the "
        f"model on them before you trust its predictions.\n\n"
        f"It was made by zooadapt {row['zooadapt_version']}, which adapts pretrained image models "
        f"to any number of channels. The table shows from which filters of the original each "
        f"channel's filters are made, and with which factor."
    )


def _reads(config: Mapping[str, Any]) -> str:
    """A table: each channel, and what it reads of the original's; this is the matrix M in words."""
    section = config[SECTION]
    originals = [band["name"] for band in section["source"]["bands"]]
    named = [name or f"channel {number}" for number, name in enumerate(originals)]
    columns = zip(*section["matrix"], strict=True)
    reads = [bands.mixture(named, column) or "none: it starts at zero" for column in columns]
    names = section["bands"] or range(len(reads))
    rows = [f"| {name} | {read} |" for name, read in zip(names, reads, strict=True)]
    head = f"| {'band' if section['bands'] else 'channel, from 0'} | filters of the original |"
    return "\n".join([head, "| --- | --- |", *rows])


def _proof(row: Row) -> str:
    result = ProofResult.of(row)
    if result.proof == "none":
        return "Nothing was run. Every stored bit was compared with the original's."
    where = f"on {row['checked_on']} with torch {row['torch_version']}"
    error = f"{result.equivalence_error:.1e}" if result.equivalence_error else "0"
    what = "outputs" if result.proof == "forward" else "first layer's outputs"
    figures = (
        f"The stored weights were run {where}, on an image of noise. The original was run on the "
        f"same image, mixed to its own channels by the matrix. The largest difference of the "
        f"{what} was {error} (limit {TOLERANCE:g}). The unit is the largest "
        f"change of the original's outputs between two test images. As a control, a first layer "
        f"that was made wrong on purpose differed by {result.control_error:.2g}."
    )
    if result.equivalent:
        return figures
    why = result.changed or "its first layer standardises its weight, or shifts every pixel"
    advice = "Use that scheme, or fine-tune" if "the scheme " in why else "Fine-tune"
    return (
        f"**This variant does not give the original's outputs:** {why}. {advice} the model before "
        f"you use it. {figures}"
    )


def _loading(row: Row, config: Mapping[str, Any], place: str) -> str:
    blocks, library = list[str](), _library(row, config)
    if library == "timm":
        call = f'model = timm.create_model("hf-hub:{place}", pretrained=True)'
        blocks.append(_python("import timm", call))
    elif library == "transformers":
        name = config["architectures"][0]
        call = f'model = {name}.from_pretrained("{place}")'
        blocks.append(_python(f"from transformers import {name}", call))
    elif library == "torchvision":
        blocks.append(_python(*_BY_TORCHVISION.format(place=place).splitlines()))
    if call := _by_zooadapt(row):
        made = "zooadapt can make the same variant from the original weights:"
        blocks.append(f"{made}\n\n{_python('import zooadapt', call)}")
    return "\n\n".join([*blocks, *_statistics(row)])


_BY_TORCHVISION = """\
import json, torch, torchvision
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

folder = snapshot_download("{place}")
config, tensors = json.load(open(folder + "/config.json")), load_file(folder + "/model.safetensors")
model = torchvision.models.get_model(config["architecture"], **config["model_args"])
for stem in config["stems"]:
    model.get_submodule(stem.removesuffix(".weight")).weight = torch.nn.Parameter(tensors[stem])
state = model.state_dict()
state.update(tensors)
model.load_state_dict(state)"""


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _by_zooadapt(row: Row) -> str:
    """The call that makes the same variant anywhere; "" where there is none.

    Checkpoints of one's own have no name elsewhere, and bands of one's own file no meaning.
    """
    if row["zoo"] not in ("timm", "torchvision") or "." in row["scheme"]:
        return ""
    target: dict[str, Any] = {"in_chans": row["in_chans"]}
    if row["bands"]:
        target = {"bands": short(row["bands"])}
        try:
            bands.parse(target["bands"])
        except UsageError:  # a part of a preset
            return ""
    model = row["model"] if row["zoo"] == "timm" else f"{row['zoo']}/{row['model']}"
    asked = {**target, "scheme": row["scheme"]}
    options = ", ".join(f"{name}={json.dumps(value)}" for name, value in asked.items())
    return f"model = zooadapt.create_model({json.dumps(model)}, {options})"


def _statistics(row: Row) -> Iterator[str]:
    if row["input_mean"] is not None:
        mean, std = (
            ", ".join(f"{value:.4g}" for value in row[name]) for name in ("input_mean", "input_std")
        )
        size = f"{row['input_height']} × {row['input_width']}"
        yield (
            f"## Prepare the images\n\nResize the images to {size} pixels. Scale their values to "
            f"0…1. Subtract the mean of each channel ({mean}). Divide by its standard deviation "
            f"({std}). Give the channels in the order of the table above."
        )


def _license(row: Row, given: str) -> str:
    if row["license"] == "other":
        return "The source states a licence of its own: see the original's page."
    if row["license"]:
        return f"The source states the licence {row['license']} for the original."
    shared = f" The person who shared this copy states {given}." if given else ""
    return f"The source states no licence for the original.{shared}"
