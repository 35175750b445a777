"""The time that a model takes, by the size of its checkpoint: for estimates before the work begins.

jobs/README.md says where the figures come from.
"""

PER_GPU = 2
"""Validators that share a GPU: one reads its model back while the other runs its own."""
_BUILDING = 0.2
"""Seconds of a CPU to build a model for its proof, see `reader.parameter_counts`."""
_OPERATIONS = 400
"""Floating point operations per parameter and image."""
GPU_SPEED = 1e13
"""Floating point operations that a GPU does in a second, in float32 without TF32; assumed."""
_CPU_SPEED = 8e10
"""Floating point operations that a core of a CPU does in a second, as measured on one machine."""
_CPU_A_MODEL = 1.0
"""Seconds of a CPU that a model takes besides its bytes and its passes; assumed."""
_CPU_A_BYTE = 0.8e-9
"""Seconds of a CPU to read and hash a byte of a checkpoint, as measured on one machine."""
_CPU_A_WRITTEN_BYTE = 2.2e-9
"""Seconds of a CPU to hash, write and compare a byte of a variant, as measured on one machine."""


def cpu_seconds(size: int, variants: int) -> float:
    """Seconds of a CPU for a checkpoint of `size` bytes and its variants, without proofs."""
    return _CPU_A_MODEL + size * (_CPU_A_BYTE + variants * _CPU_A_WRITTEN_BYTE)


def proof_seconds(size: int, variants: int) -> float:
    """Seconds of a core to prove the variants on a CPU."""
    return building_seconds(variants) + operations(size, variants) / _CPU_SPEED


def gpu_seconds(size: int, variants: int) -> float:
    """Seconds for which a GPU is held to prove the variants of a checkpoint of `size` bytes."""
    return building_seconds(variants) / PER_GPU + running_seconds(size, variants)


def building_seconds(variants: int) -> float:
    """Seconds that a validator takes to build the base and each variant."""
    return _BUILDING * (1 + variants)


def running_seconds(size: int, variants: int) -> float:
    """Seconds that a GPU takes to run the images of all proofs."""
    return operations(size, variants) / GPU_SPEED


def operations(size: int, variants: int) -> float:
    """Floating point operations of a model's proofs: three passes of the base, one a variant."""
    return _OPERATIONS * (size / 4) * (3 + variants)
