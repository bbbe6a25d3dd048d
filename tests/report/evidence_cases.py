"""Evidence built by hand: every claim as it stands in the code, with effects that were drawn, not measured."""

import numpy as np

from allmasks.evidence.claim import Effect, Picture, Series, Text
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.findings import Evidence, Finding
from allmasks.evidence.judge import judge, verdict

DATASETS = ("digits", "breast_cancer")


def make_evidence(claims=CLAIMS, *, size=2.0, seeds=8, **changes):
    rng = np.random.default_rng(0)
    rows = [
        (
            claim,
            criterion,
            Effect(criterion.key, name, tuple(criterion.minimum * rng.normal(rng.normal(0, size), 0.3, seeds))),
        )
        for claim in claims
        for name in DATASETS
        for criterion in claim.criteria
    ]
    judged = judge([(criterion, reading) for _, criterion, reading in rows])
    x = np.linspace(1, 100, 12)
    bands = [
        Series(
            Text(f"line {i}", f"선 {i}"), x.tolist(), (y := x**0.5 + i).tolist(), (y - 0.5).tolist(), (y + 0.5).tolist()
        )
        for i in range(3)
    ]
    points = Series(
        Text("<b>points</b>", "점"), rng.normal(size=60).tolist(), rng.normal(size=60).tolist(), points=True
    )
    pictures = (
        Picture(Text("Bands", "띠"), Text("epoch", "에폭"), Text("loss", "손실"), bands, log_x=True, log_y=True),
        Picture(Text("Points", "점"), Text("a", "가"), Text("b", "나"), [points]),
        Picture(
            Text("Kinds", "종류"),
            Text("data", "데이터"),
            Text("loss", "손실"),
            [
                Series(Text(f"net {i}", f"망 {i}"), [0.0, 1.0], [1.0 + i, 2.0], [0.5 + i, 1.5], [1.25 + i, 2.5], True)
                for i in range(3)
            ],
            categories=[Text("first", "첫째"), Text("second", "둘째")],
        ),
    )
    findings = []
    for claim in claims:
        own = tuple(reading for (c, _, _), reading in zip(rows, judged, strict=True) if c is claim)
        findings.append(
            Finding(
                claim.number,
                claim.key,
                claim.title,
                claim.sentence,
                claim.section,
                claim.note,
                verdict(own),
                claim.criteria,
                own,
                pictures if claim.number % 3 == 0 else (),
                claim.comparative,
            )
        )
    fields = {
        "findings": tuple(findings),
        "datasets": DATASETS,
        "linear_datasets": ("diabetes", *DATASETS),
        "seeds": tuple(range(seeds)),
        "quick": False,
        "null": False,
        "n_tests": len(judged),
        "seconds": 12.3,
        "step_seconds": {"digits": {"none": 1e-3}},
    }
    return Evidence(**(fields | changes))
