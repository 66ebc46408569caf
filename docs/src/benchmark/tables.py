"""The benchmark page's three tables, in Markdown, from the JSON that `selfsup bench --methods` writes: `tables.py study.json`."""

import json
import statistics
import sys

TABLES = {
    "On CIFAR-10": {
        "kNN": "knn", "linear": "linear", "linear, 10 a class": "linear_10", "linear, 100 a class": "linear_100",
        "fine-tuned, 100 a class": "finetune_100",
    },
    "Behind earlier layers": {
        "kNN, layer2": "knn:layer2", "layer3": "knn:layer3", "end": "knn", "linear, layer2": "linear:layer2",
        "layer3 ": "linear:layer3", "end ": "linear",
    },
    "On other images": {
        "kNN, clothes": "knn@fashion-mnist", "linear, clothes": "linear@fashion-mnist", "kNN, sketches": "knn@sketches",
        "linear, sketches": "linear@sketches",
    },
}


def cell(values: list[float]) -> str:
    if not values:
        return "–"
    percent = [100 * value for value in values]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.1f}{spread}"


def main(path: str) -> None:
    runs = [run for run in json.load(open(path))["outcomes"] if run["top1"]]
    rows = list(dict.fromkeys(run["row"] for run in runs))
    for title, columns in TABLES.items():
        print(f"## {title}\n\n| top-1, % | {' | '.join(name.strip() for name in columns)} |\n|---|{'--:|' * len(columns)}")
        for row in rows:
            of = [run["top1"] for run in runs if run["row"] == row]
            cells = [cell([top1[key] for top1 in of if top1.get(key) is not None]) for key in columns.values()]
            if cells[0] != "–":
                print(f"| {row} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main(sys.argv[1])
