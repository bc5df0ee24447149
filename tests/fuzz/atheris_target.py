"""Coverage-guided search for a text that does harm: the same check as benchmarks/fuzz.py, on texts that atheris makes.

    python tests/fuzz/atheris_target.py -max_total_time=60            begins with texts of our own
    python tests/fuzz/atheris_target.py -max_total_time=60 FOLDER     begins with the files in FOLDER, keeps finds there

The flags are libFuzzer's. A text that does harm is kept as a file named crash-*; give that file to see it again. Needs
`pip install atheris`, which nothing else does.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np

with atheris.instrument_imports(include=["visualzoom"]):
    from visualzoom.envs.testing.harm import HarmCheck
    from visualzoom.envs.testing.hostile_texts import hostile_texts

    CHECK = HarmCheck.of_all()  # imports the dialects and tools by name

NUM_SEEDS = 300


def one_text(data: bytes) -> None:
    """Bytes that are no UTF-8 become halves of surrogate pairs."""
    CHECK.check(data.decode("utf-8", "surrogateescape"))


def seeds(folder: Path) -> Path:
    """A folder of short texts to begin with."""
    short = (text for text in hostile_texts(np.random.default_rng(0)) if len(text) < 1000)
    for number, text in enumerate(itertools.islice(short, NUM_SEEDS)):
        (folder / f"{number:04}").write_bytes(text.encode("utf-8", "surrogatepass"))
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        corpus = [] if given else [str(seeds(Path(folder)))]
        atheris.Setup([*sys.argv, *corpus], one_text)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
