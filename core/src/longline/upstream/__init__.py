"""All that the core needs of other libraries beyond their documentation: a file for each library.

No other file of the core touches such a name. `ASSUMPTIONS` says in words what is relied on, with the version that it was read in;
the tests hold each against the installed library. Importing this package imports none of the libraries.
"""

from __future__ import annotations

from longline.upstream import accelerate, bitsandbytes, datasets, gguf, peft, transformers, trl
from longline.upstream.assumption import Assumption, every, reads
from longline.upstream.versions import TESTED, untested

__all__ = [
    "ASSUMPTIONS",
    "SOURCES",
    "TESTED",
    "Assumption",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "every",
    "gguf",
    "peft",
    "reads",
    "transformers",
    "trl",
    "untested",
]

ASSUMPTIONS: tuple[Assumption, ...] = (
    *transformers.ASSUMPTIONS,
    *gguf.ASSUMPTIONS,
    *bitsandbytes.ASSUMPTIONS,
    *peft.ASSUMPTIONS,
    *accelerate.ASSUMPTIONS,
    *datasets.ASSUMPTIONS,
    *trl.ASSUMPTIONS,
)
"""Everything undocumented that the core calls, sets, or overrides in a class of its own."""
SOURCES = {**transformers.SOURCES, **peft.SOURCES}
"""Classes whose fields are read from their source, without importing them: where that is."""
