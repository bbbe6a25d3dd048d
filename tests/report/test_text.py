"""Numbers keep the digits their error allows; every message has its Korean."""

import gettext
import math
import re

import pytest

from allmasks.diagnose.audit import explain
from allmasks.language import translator
from allmasks.report.text import clean, glossary, number, said
from allmasks.results import Note
from report.cases import make_audit
from report.messages import CATALOG, source_messages


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


def test_empty_messages_stay_empty():
    assert translator("ko")("") == ""


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match="lang must be one of en, ko, got 'fr'"):
        translator("fr")


def test_the_explanation_is_said_in_korean():
    audit, _ = make_audit(), translator("ko")
    assert said(audit.explanation, str) == audit.explanation
    korean = said(audit.explanation, _)
    assert "학습 모드(마스크 평균)에서 0.23138 ± 0.00061" in korean
    assert "0.049만큼이 드롭아웃의 비용" in korean
    assert "0.3만큼 낮추는데" in said(explain(0.23, 0.0006, 0.53, -0.3, random=True), _)
    assert "변하는 마스크가 없으므로" in said(explain(0.23, 0.0, 0.23, 0.0, random=False), _)


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
