"""The lab's last chapter reads what the full run of the evidence found: its table in docs/evidence.md, as JSON.

python tools/verdicts.py        writes src/allmasks/lab/verdicts.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE, OUT = ROOT / "docs" / "evidence.md", ROOT / "src" / "allmasks" / "lab" / "verdicts.json"
ROW = re.compile(r"^\| (\d+) \| .*? \| \*\*(.*?)\*\* \| (.*) \|$", re.M)
READING = re.compile(r"([\w.-]+) (-?[\d.e+-]+) \[(-?[\d.e+-]+), (-?[\d.e+-]+)\](?: ([✓✗]))?")
SAYS = {"✓": "for", "✗": "against", "": "nothing"}


def read(text: str) -> list[dict[str, Any]]:
    """Each claim's number, verdict and readings: criterion, data set, effect, interval and what it says."""
    found = []
    for number, verdict, cell in ROW.findall(text):
        readings = []
        for part in cell.split("<br>"):
            letter = part.split("**")[1]
            for dataset, mean, low, high, mark in READING.findall(part):
                row = {"criterion": letter, "dataset": dataset, "says": SAYS[mark]}
                readings.append(row | {"effect": float(mean), "low": float(low), "high": float(high)})
        found.append({"number": int(number), "verdict": verdict, "readings": readings})
    return found


if __name__ == "__main__":
    OUT.write_text(json.dumps(read(TABLE.read_text(encoding="utf-8")), indent=0) + "\n", encoding="utf-8")
