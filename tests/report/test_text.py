"""Numbers keep the digits their error allows; every message has its Korean."""

import gettext
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allmasks.language import translator
from allmasks.report.text import clean, explanation, glossary, number, said, with_error
from allmasks.results import GUARANTEES, Note
from report.cases import make_audit
from report.messages import CATALOG, source_messages


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.23138, 0.00061, "0.2314 ± 0.0006"),
        (0.23138, 0.0143, "0.231 ± 0.014"),
        (0.23138, 0.0096, "0.23 ± 0.01"),
        (0.5, 0.5, "0.5 ± 0.5"),
        (12.3456, 1.2, "12.3 ± 1.2"),
        (12345.6, 42.0, "(1.235 ± 0.004)e4"),
        (0.1845859, 1.5e-6, "0.1845859 ± 1.5e-6"),
        (0.1845859, 4e-6, "0.184586 ± 4e-6"),
        (18.0, 2e-15, "18 ± 2e-15"),
        (0.1234567891, 2.4e-16, "0.12345679 ± 2e-16"),
        (-0.0, 0.0, "0 ± 0"),
        (0.25, 0.0, "0.25 ± 0"),
        (1.2e-7, 3e-8, "(1.2 ± 0.3)e-7"),
        (1e-17, 2e-15, "(0 ± 2)e-15"),
        (-0.0421, 0.003, "-0.042 ± 0.003"),
        (0.25, math.nan, "0.25 ± ?"),
        (math.nan, 0.1, "–"),
        (math.inf, 0.1, "inf ± 0.1"),
    ],
)
def test_value_digits_follow_the_error(value, error, shown):
    assert with_error(value, error) == shown


@given(st.floats(-1e9, 1e9), st.floats(1e-12, 1e6))
def test_what_is_shown_is_true(value, error):
    shown = with_error(value, error)
    number_text = r"(-?[\d.]+(?:e[-+]?\d+)?)"
    match = re.fullmatch(rf"\(?{number_text} ± {number_text}\)?(?:e(-?\d+))?", shown)
    assert match, shown
    scale = 10.0 ** int(match[3] or 0)
    # Half a unit of the error's last digit, or the eighth digit of the value.
    assert abs(float(match[1]) * scale - value) <= 0.51 * error + 1e-7 * abs(value)
    assert float(match[2]) * scale == pytest.approx(error, rel=0.5)


def test_numbers_alone():
    assert number(math.nan) == "–"
    assert number(-0.0) == "0"
    assert number(0.182144) == "0.18214"


def test_control_characters_are_spelled_out():
    assert clean("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert clean("층.드롭") == "층.드롭"


def test_every_message_has_its_korean_and_none_is_stale():
    pofile = pytest.importorskip("babel.messages.pofile", reason="babel reads the catalog's source")
    with CATALOG.open("rb") as file:
        catalog = pofile.read_po(file, locale="ko", abort_invalid=True)
    translated = {message.id: message.string for message in catalog if message.id}
    messages = source_messages()
    assert len(messages) > 80
    assert messages == set(translated)
    fields = re.compile(r"\{(\w+)")
    for english, korean in translated.items():
        assert korean.strip(), english
        assert sorted(fields.findall(english)) == sorted(fields.findall(korean)), english
    with CATALOG.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert {english: compiled.gettext(english) for english in translated} == translated


def test_the_guarantees_are_those_of_the_results():
    from allmasks.report.text import _GUARANTEE_WORDS

    assert _GUARANTEE_WORDS == GUARANTEES


def test_empty_messages_stay_empty():
    assert translator("ko")("") == ""


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match="lang must be one of en, ko, got 'fr'"):
        translator("fr")


def test_the_explanation_is_built_from_the_numbers():
    audit = make_audit()
    assert explanation(audit, "en") == audit.explanation
    korean = explanation(audit, "ko")
    assert "학습 모드(마스크 평균)에서 0.2314 ± 0.0006" in korean
    assert "0.049만큼 높은 것은" in korean
    assert "0.3만큼 낮추는데" in explanation(make_audit(eval_mode_loss=0.53138), "ko")
    assert "변하는 마스크가 없으므로" in explanation(make_audit(per_site=()), "ko")


def test_notes_are_translated_and_plain_sentences_kept():
    template = "{site} ({kind}) does not keep the mean: eval mode is not the loss at its mean mask."
    note = Note(template, site="drop{x}", kind="alpha_dropout")
    assert said(note, translator("en")) == note
    assert said(note, translator("ko")).startswith("drop{x} (alpha_dropout): 평균을 보존하지 않으므로")
    assert said("something else", translator("ko")) == "something else"
    assert said(Note("{site} is random", site="a\x1b[2Jb"), translator("ko")) == "a\\x1b[2Jb is random"


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_glossary_has_every_term(lang):
    terms = glossary(translator(lang))
    assert len(terms) == 6
    assert all(term and meaning for term, meaning in terms)
