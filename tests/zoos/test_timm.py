"""timm's zoo beside other uses of timm in the same process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors.torch
import timm
import torch

from tests.support import fine_tuned
from zooadapt.zoos import timm as zoo


def test_other_threads_load_weights_while_rules_are_asked_for(tmp_path: Path) -> None:
    """timm's own loader is replaced for that, but only for the thread that asks."""
    folder = fine_tuned.write(tmp_path / "net", num_classes=5)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    loaded: list[torch.nn.Module] = []

    def create() -> torch.nn.Module:
        with ThreadPoolExecutor(1) as pool:
            loaded.append(pool.submit(fine_tuned.loaded, folder).result())
        model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return model

    zoo._loading_rules(create)
    assert torch.equal(loaded[0].get_parameter("fc.weight"), stored["fc.weight"])


def test_several_threads_ask_at_once(tmp_path: Path) -> None:
    folders = [fine_tuned.write(tmp_path / f"net{n}", seed=n, num_classes=5) for n in range(4)]

    def asked(folder: Path) -> bool:
        return zoo._loading_rules(
            lambda: timm.create_model(f"local-dir:{folder}", pretrained=True)
        )[1]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(asked, folders * 4))
