"""`visualzoom export`: a trained model as a plain folder of whole weights, which transformers opens without us or peft.

Law: what is exported gives the probabilities of the model that it was made from (beyond rounding): an adapter is added
to the weights that it belongs to.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visualzoom.training.config import MachineConfig, UsageError
from visualzoom.training.models import model_folder, quiet_loading, settings_of

SETTINGS = Path("trainer") / "config.json"
"""How the model was shown images and asked; `eval` and `ask` do it the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a model as a plain folder of whole weights; adapters are merged into theirs."""

    model: str
    """A run folder, a folder with a checkpoint or an adapter, tiny, or a hub id."""
    out: Path
    """New folder."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights; without it that of the run that trained them. Adapters are merged in float32 before."""


def run_export(config: ExportConfig) -> int:
    """Open, merge, write."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UsageError(f"--out {config.out}: this exists and is no empty folder; choose another")
    folder = model_folder(config.model)

    from visualzoom.agents.model_lora import is_adapted, merge_lora
    from visualzoom.training.assemble import DTYPES, open_model

    quiet_loading()
    opened = open_model(config.model, MachineConfig())
    if is_adapted(opened.model.module):
        merge_lora(opened.model.module)
    settings = settings_of(config.model, folder)
    opened.model.module.to(DTYPES[config.dtype or settings.machine.dtype])
    config.out.mkdir(parents=True, exist_ok=True)
    opened.save(config.out, coordinates=opened.renderer.coordinates)
    if (folder / SETTINGS).is_file():
        (config.out / SETTINGS).parent.mkdir()
        shutil.copy(folder / SETTINGS, config.out / SETTINGS)
    print(f"saved: {config.out}")
    return 0
