"""Keeps torch out of a worker's process where it is installed; knows nothing else."""

import logging
import sys
from typing import Final

ADVICE: Final = "PyTorch was not found"
"""How transformers begins to say that it misses torch, which is no news to a worker."""


def keep_torch_out() -> None:
    """For a process that has not imported transformers yet, which would import torch: seconds and 300 MB."""
    if "transformers" in sys.modules:
        return
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    logging.getLogger("transformers").addFilter(lambda record: not record.getMessage().startswith(ADVICE))
