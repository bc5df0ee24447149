"""Figures of the DeepEyes paper (arXiv 2505.14362 v3, tables 1 to 4), and what others measured for the same weights.

In percent, to be shown beside figures of one's own. Read from a transcript of the paper: check a cell before you cite.
Ours are measured otherwise where the report says so: options shuffled, answers judged by rules first.
"""

from __future__ import annotations

QWEN, DEEPEYES, AGAIN = "Qwen2.5-VL-7B (paper)", "DeepEyes-7B (paper)", "DeepEyes-7B (measured by others)"

PAPER: dict[str, dict[str, str]] = {
    "vstar": {
        QWEN: "71.2 (attribute 73.9, spatial 67.1)",
        DEEPEYES: "90.1 (attribute 91.3, spatial 88.2)",
        AGAIN: "83.3 to 85.9; 84.3 to 85.9 with shuffled options",
    },
    "hrbench-4k": {
        QWEN: "68.8 (single 85.2, cross 52.2)",
        DEEPEYES: "75.1 (single 91.3, cross 59.0)",
        AGAIN: "73.0, 73.2",
    },
    "hrbench-8k": {QWEN: "65.3 (single 78.8, cross 51.8)", DEEPEYES: "72.6 (single 86.8, cross 58.5)", AGAIN: "69.5"},
    "mme-realworld-lite": {QWEN: "42.3", DEEPEYES: "53.2"},
    "refcoco": {QWEN: "89.1", DEEPEYES: "89.8"},
    "refcoco+": {QWEN: "82.6", DEEPEYES: "83.6"},
    "refcocog": {QWEN: "86.1", DEEPEYES: "86.7"},
    "pope": {
        QWEN: "85.9 (adversarial 85.9, popular 86.5, random 87.2)",
        DEEPEYES: "87.7 (adversarial 84.0, popular 87.5, random 91.8)",
    },
    "mathvista": {QWEN: "68.3", DEEPEYES: "70.1"},
    "mathverse": {QWEN: "45.6", DEEPEYES: "47.3"},
    "visualprobe-easy": {AGAIN: "60.1"},
    "visualprobe-medium": {AGAIN: "29.8"},
    "visualprobe-hard": {AGAIN: "35.1"},
}
