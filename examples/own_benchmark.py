"""A benchmark of your own: photos/plates/plates.jsonl. `visualzoom bench own_benchmark:PLATES --data photos`"""

from visualzoom.envs.tasks.row_schema import Row
from visualzoom.evaluation.benchmarks import Benchmark, Hub, Place


def plate_row(row: Row, place: Place) -> Row:
    """{"photo": "car.jpg", "plate": "B 1234", "country": "D"} as a row of the plain schema (docs/data.md)."""
    return {
        "image": row.get("photo"),
        "question": "What is on the number plate?",
        "answer": row.get("plate"),
        "family": row.get("country"),
    }


PLATES = Benchmark(
    name="plates",
    kind="perception",
    paper="none",
    layout="ours",
    hub=Hub(repo="me/plates", include=("*",)),
    files=("plates.jsonl",),
    columns=(),
    plain=plate_row,
)
