"""The page of text: the numbers, the width, and no markup or color that was not asked for."""

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from allmasks.report import render_text, show
from report.cases import make_audit, make_site


def test_the_numbers_stand_with_their_errors(sampled):
    text = render_text(sampled)
    for line in [
        "expected loss         0.23138 ± 0.00061 nats",
        "guarantee             statistical (Monte Carlo standard error)",
        "weight-scaling loss   0.18214 nats",
        "penalty               0.04924 ± 0.00061 nats (21.28 ± 0.21 % of the loss)",
        "1,024 masks an example",
        "0.02112 ± 0.00030",
        "0.00407 ± 0.00061",
        "off the best estimate",
        "3.2 s, seed 0",
    ]:
        assert line in text
    assert " ".join(sampled.explanation.split()) in " ".join(text.split())


def test_exact_results_say_so(exact):
    text = render_text(exact)
    assert "0.23138 ± 2e-15 nats" in text
    assert "exact (round-off bound)" in text
    assert "off the exact value" in text


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(sampled, lang, width):
    lines = render_text(sampled, lang, width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in "".join(lines)


def test_numbers_are_whole_beside_long_names():
    name = "transformer.encoder.layers.11.attention.output.dropout"
    text = render_text(make_audit(names=(name, "b", "c")), width=80)
    assert "0.00801 ± 0.00030   0.00921 ± 0.00020" in text
    assert "…" not in text


def test_korean(sampled):
    text = render_text(sampled, "ko")
    for words in ["기대 손실", "0.23138 ± 0.00061 nats", "가중치 스케일링 손실", "페널티", "몬테카를로 표준 오차"]:
        assert words in text


def test_names_are_not_markup(hostile):
    text = render_text(hostile)
    assert "<script>alert(1)</script>" in text
    assert "[red]y[/red]" in text


def test_names_cannot_drive_the_terminal():
    text = render_text(make_audit(model_name="a\x1b[2Jb", names=("x\ny", "z")))
    assert "\x1b" not in text
    assert "a\\x1b[2Jb" in text
    assert "x\\ny" in text


def test_color_only_where_the_console_has_it(sampled):
    colored = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    show(sampled, colored)
    assert "\x1b[1m" in colored.file.getvalue()


def test_without_any_random_site():
    sites = (make_site("drop", p=0.0),)
    text = render_text(make_audit(sites=sites, per_site=(), convergence=(), interaction=0.0))
    assert "drop" in text
    assert "–" in text
    assert "interaction" not in text
    assert "converges" not in text
    assert "No dropout site was met." in render_text(make_audit(sites=(), per_site=(), convergence=()))


def test_what_cannot_be_controlled_is_named():
    sites = (make_site("lstm", controllable=False, reason="its masks are drawn inside a fused kernel"),)
    text = render_text(make_audit(sites=sites, per_site=()))
    assert "lstm cannot be controlled: its masks are drawn inside a fused kernel" in text


def test_unknown_errors_are_called_unknown(sampled):
    text = render_text(make_audit(interaction_error=math.nan, penalty_share=math.nan))
    assert "± unknown" in text
    assert "% of the loss" not in text
    assert "nan" not in text


def test_the_audit_represents_itself(sampled):
    assert repr(sampled) == render_text(sampled)
