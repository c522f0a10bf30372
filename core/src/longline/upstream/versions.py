"""The releases that the tests ran with, and what is installed outside of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

# Below them trl 1.15 has another fused head, peft 0.18 lacks a module that transformers 5.23 imports, datasets 5.0 wants
# an older huggingface_hub than the rest, and gguf 0.17.0 needs sentencepiece.
TESTED: dict[str, str] = {
    "accelerate": ">=1.10.1,<1.16",
    "bitsandbytes": ">=0.49,<0.51",
    "datasets": ">=5.1,<5.3",
    "gguf": ">=0.17.1,<0.20",
    "peft": ">=0.19,<0.22",
    "transformers": ">=5.23,<5.25",  # with 5.22 two CPU ranks hang under FSDP2
    "trl": ">=1.16,<1.17",
}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""


def untested(tested: Mapping[str, str] = TESTED) -> list[str]:
    """What is installed outside of the tested ranges: `trl 1.17.0 (tested: >=1.16,<1.17)`. What is absent is left out."""
    from packaging.specifiers import SpecifierSet

    found = []
    for name, versions in tested.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if not SpecifierSet(versions).contains(installed, prereleases=True):
            found.append(f"{name} {installed} (tested: {versions})")
    return found
