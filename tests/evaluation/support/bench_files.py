"""Small files in exactly the layout in which each benchmark is published, and the tasks that they hold."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

SIZE = (320, 240)


@dataclass(frozen=True)
class Expected:
    """What the first task of a benchmark is."""

    question: str
    answer: str
    family: str
    choices: frozenset[str] = frozenset()
    evidence: tuple[tuple[int, int, int, int], ...] = ()
    num_tasks: int = 2


def png(number: int = 0) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(path: Path, number: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))
    return path.name


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def vstar(folder: Path) -> Expected:
    """As in the repository of the hub: picture and note side by side, options within the text."""
    rows = []
    for number, (category, label) in enumerate((("direct_attributes", "B"), ("relative_position", "A"))):
        name = f"{category}/sa_{number}.jpg"
        (folder / category).mkdir(parents=True)
        (folder / name).write_bytes(png(number))  # the ending of a name tells nothing
        note = {
            "target_object": ["glove"],
            "bbox": [[10, 20, 30, 40]],
            "question": "?",
            "options": ["cotton", "rubber"],
        }
        (folder / name).with_suffix(".json").write_text(json.dumps(note))
        text = (
            "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
            "Answer with the option's letter from the given choices directly."
        )
        rows.append({"image": name, "text": text, "category": category, "label": label, "question_id": str(number)})
    (folder / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Expected(
        question="What is the material of the glove?",
        answer="cotton",
        family="direct_attributes",
        choices=frozenset({"rubber", "cotton", "kevlar", "leather"}),
        evidence=((10, 20, 40, 60),),
    )


def vstar_parquet(folder: Path) -> Expected:
    """As lmms-eval has it: no note, pictures as bytes."""
    rows = [
        {
            "image": {"bytes": png(number), "path": None},
            "text": "Is the cup left? (A) yes, it is (B) no",
            "category": "relative_position",
            "label": "A",
            "question_id": number,
        }
        for number in range(2)
    ]
    table(folder / "data" / "test-00000-of-00001.parquet", rows)
    return Expected("Is the cup left?", "yes, it is", "relative_position", frozenset({"yes, it is", "no"}))


def hrbench(size: str) -> Callable[[Path], Expected]:
    def write(folder: Path) -> Expected:
        rows = [
            {
                "index": number,
                "question": "What is the number on the boat?",
                "answer": "C",
                "category": "single",
                "A": "17",
                "B": "71",
                "C": "41",
                "D": "14",
                "cycle_category": str(number),
                "image": base64.b64encode(png(0)).decode(),
            }
            for number in range(4)
        ]
        for number, row in enumerate(rows):  # options in a circle
            texts = ["17", "71", "41", "14"]
            turned = texts[number:] + texts[:number]
            row |= dict(zip("ABCD", turned, strict=True)) | {"answer": "ABCD"[turned.index("41")]}
        table(folder / f"hr_bench_{size}.parquet", rows)
        return Expected(
            "What is the number on the boat?", "41", "single", frozenset({"17", "71", "41", "14"}), num_tasks=4
        )

    return write


def pope(folder: Path) -> Expected:
    """As the repository has it: JSON lines in files called .json, COCO's pictures beside them."""
    for setting, label in (("adversarial", "no"), ("random", "yes")):
        picture(folder / "val2014" / "COCO_val2014_000000310196.jpg")
        row = {
            "question_id": 1,
            "image": "COCO_val2014_000000310196.jpg",
            "text": "Is there a snowboard in the image?",
            "label": label,
        }
        (folder / f"coco_pope_{setting}.json").write_text(json.dumps(row) + "\n")
    return Expected("Is there a snowboard in the image?", "no", "adversarial")


def pope_parquet(folder: Path) -> Expected:
    rows = [
        {
            "id": str(number),
            "question_id": str(number),
            "question": "Is there a dog in the image?",
            "answer": answer,
            "image_source": "COCO_val2014_0",
            "image": {"bytes": png(number), "path": None},
            "category": "popular",
        }
        for number, answer in enumerate(("yes", "no"))
    ]
    table(folder / "data" / "test-00000-of-00001.parquet", rows)
    return Expected("Is there a dog in the image?", "yes", "popular")


def refcoco(folder: Path) -> Expected:
    rows = [
        {
            "question_id": "469306",
            "image": {"bytes": png(0), "path": None},
            "question": "Please carefully observe the area circled in the image and come up with a caption for it.",
            "answer": ["guy petting elephant", "foremost person", "green shirt"],
            "segmentation": [1.0, 2.0],
            "bbox": [103.93, 10.5, 135.3, 120.0],
            "iscrowd": 0,
            "file_name": "COCO_train2014_000000296747_0.jpg",
        }
    ]
    table(folder / "data" / "val-00000-of-00001.parquet", rows)
    return Expected(
        question="Where is this: guy petting elephant? Answer with its box, [left, top, right, bottom]. Boxes are "
        "[left, top, right, bottom] in pixels of the picture as you see it.",
        answer="103.93, 10.5, 239.23, 130.5",
        family="val",
        evidence=((103, 10, 240, 131),),
        num_tasks=3,
    )


def mathvista(folder: Path) -> Expected:
    common: dict[str, Any] = {
        "image": "images/1.jpg",
        "metadata": {"task": "figure question answering", "category": "general-vqa"},
    }
    rows: list[dict[str, Any]] = [
        {
            "pid": "1",
            "question": "What is the spring compressed by?",
            "decoded_image": {"bytes": png(0), "path": "1.jpg"},
            "choices": None,
            "unit": "m",
            "precision": 1.0,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
        },
        {
            "pid": "2",
            "question": "Which is larger?",
            "decoded_image": {"bytes": png(1), "path": "2.jpg"},
            "choices": ["left", "right"],
            "unit": None,
            "precision": None,
            "answer": "right",
            "question_type": "multi_choice",
            "answer_type": "text",
        },
    ]
    table(folder / "data" / "testmini-00000-of-00001-725687bf7a18d64b.parquet", [row | common for row in rows])
    return Expected(
        "What is the spring compressed by? (Unit: m) Answer with a number of 1 decimals.",
        "1.2",
        "figure question answering",
    )


def mme(folder: Path) -> Expected:
    """As made for lmms-eval."""
    rows = [
        {
            "index": number,
            "bytes": base64.b64encode(png(number)).decode(),
            "question": "What is the color of the car?",
            "multi-choice options": [
                "(A) Red",
                "(B) Blue",
                "(C) Green",
                "(D) White",
                "(E) It is not shown.",
            ],
            "answer": "D",
            "category": "Perception/OCR",
            "l2-category": "advert",
        }
        for number in range(2)
    ]
    table(folder / "data" / "train-00000-of-00001.parquet", rows)
    return Expected(
        "What is the color of the car?",
        "White",
        "Perception/OCR",
        frozenset({"Red", "Blue", "Green", "White", "It is not shown."}),
    )


def mme_json(folder: Path) -> Expected:
    """As the repository has it."""
    rows = []
    for number in range(2):
        picture(folder / "imgs" / f"{number}.png", number)
        rows.append(
            {
                "Question_id": f"perception/OCR/{number}",
                "Image": f"imgs/{number}.png",
                "Text": "What is written?",
                "Question Type": "Multiple Choice",
                "Answer choices": ["(A) one", "(B) two"],
                "Ground truth": "B",
                "Category": "advert",
                "Subtask": "OCR",
                "Task": "Perception",
            }
        )
    (folder / "MME_RealWorld_Lite.json").write_text(json.dumps(rows))
    return Expected("What is written?", "two", "Perception", frozenset({"one", "two"}))


def visualprobe(level: str) -> Callable[[Path], Expected]:
    def write(folder: Path) -> Expected:
        name = f"VisualProbe_{level.capitalize()}"
        picture(folder / "images" / "0.jpg")
        rows = [
            {
                "problem": "<image>\nWhat is the number?",
                "solution": "555-1234",
                "images": [f"{name}/images/0.jpg"],
            },
            {"problem": "<image>Which shop?", "solution": "Zara", "images": ["images/0.jpg"]},
        ]
        (folder / "val.json").write_text(json.dumps(rows))
        return Expected("What is the number?", "555-1234", folder.name)

    return write


def mathverse(folder: Path) -> Expected:
    common: dict[str, Any] = {"problem_index": "1", "question_type": "multi-choice", "metadata": {"split": "testmini"}}
    rows: list[dict[str, Any]] = [
        {
            "sample_index": "1",
            "problem_version": "Text Dominant",
            "question": "As shown, find the angle.\nChoices:\nA:30°\nB:45°\nC:60°\nD:90°",
            "image": {"bytes": png(0), "path": "a.png"},
            "answer": "C",
        },
        {
            "sample_index": "2",
            "problem_version": "Vision Only",
            "question": "What is x?",
            "image": {"bytes": png(1), "path": "b.png"},
            "answer": "4",
        },
        {
            "sample_index": "3",
            "problem_version": "Text Only",
            "question": "What is x?",
            "image": None,
            "answer": "4",
        },
    ]
    table(folder / "testmini.parquet", [row | common for row in rows])
    return Expected("As shown, find the angle.", "60°", "Text Dominant", frozenset({"30°", "45°", "60°", "90°"}))


WRITERS: dict[str, Callable[[Path], Expected]] = {
    "vstar": vstar,
    "vstar/parquet": vstar_parquet,
    "hrbench-4k": hrbench("4k"),
    "hrbench-8k": hrbench("8k"),
    "pope": pope,
    "pope/parquet": pope_parquet,
    "refcoco": refcoco,
    "refcoco+": refcoco,
    "refcocog": refcoco,
    "mathvista": mathvista,
    "mme-realworld-lite": mme,
    "mme-realworld-lite/json": mme_json,
    "visualprobe-easy": visualprobe("easy"),
    "visualprobe-medium": visualprobe("medium"),
    "visualprobe-hard": visualprobe("hard"),
    "mathverse": mathverse,
}
"""By benchmark, and form of its files where there are two."""
