"""The first timm release that loads a variant, for each architecture with pretrained weights.

The table was read from the model lists in the wheels of timm 1.0.16 to 1.0.31. Where 1.0.16 can
build an architecture on the meta device, the names and shapes of its tensors were compared too:
they have changed for `mobilenetv5_300m` only, in 1.0.20.
"""

from fnmatch import fnmatchcase

LOCAL_DIR = "1.0.16"
"""The first release that loads a ``local-dir:`` folder, and so the first that loads a variant."""

PRUNED = ["ecaresnet50d_pruned", "ecaresnet101d_pruned", "efficientnet_b[123]_pruned"]
"""Architectures that timm builds in full and then cuts down. Cutting the stem needs ``first_conv``
in the config, and 1.0.31 is the first release that doesn't then adapt the stem again."""

_FIRST = {  # the first match counts
    "1.0.17": ["vit_*_patch16_rope_224", "vit_*_rope_ape_224", "vit_*_rope_mixed*_224"],
    "1.0.18": ["vit_pe_core_small_*", "vit_pe_core_tiny_*", "vit_pe_spatial_[blst]*"],
    "1.0.28": ["*_tipsv2", "vit_tiny_patch16_dinov3_qkvb"],
    "1.0.20": [
        "fastvit_mci3",
        "fastvit_mci4",
        "mobilenetv5_300m",
        "*_dinov3",
        "*_dinov3_qkvb",
        "vit_gigantic_patch14_clip_378",
    ],
    "1.0.23": ["csatv2*", "vit_dlittle_*", "vit_dpwee_*", "vit_dwee_*"],
    "1.0.27": ["gemma4_vit_*"],
    "1.0.29": ["cpubone_*", "lcnetv2_*", "lowformer_*", "*_lingbot"],
    "1.0.30": ["deepseek_vit_*", "efficientvim_*", "iformer_*", "qwen3_vit_*", "*_sapiens2"],
    "1.0.31": ["cspnext_*", "*_radio_v[34]", *PRUNED],
}


def min_timm(architecture: str) -> str:
    """The oldest timm release that builds the architecture and loads a variant of it."""
    return next(
        (release for release, globs in _FIRST.items() if _any_matches(architecture, globs)),
        LOCAL_DIR,
    )


def pruned(architecture: str) -> bool:
    """Whether timm builds the architecture full and then cuts it down."""
    return _any_matches(architecture, PRUNED)


def _any_matches(architecture: str, globs: list[str]) -> bool:
    return any(fnmatchcase(architecture, glob) for glob in globs)
