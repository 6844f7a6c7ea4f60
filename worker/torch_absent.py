"""Keeps torch out of a worker's process where it is installed; knows nothing else."""

import logging
import sys
from typing import Final

ADVICE: Final = "PyTorch was not found"
"""Beginning of transformers' warning that torch is missing, as it is meant to be in a worker."""


def keep_torch_out() -> None:
    """Have transformers not import torch, which would take seconds and 300 MB.

    Without effect where transformers is imported already.
    """
    if "transformers" in sys.modules:
        return
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    logging.getLogger("transformers").addFilter(lambda record: not record.getMessage().startswith(ADVICE))
