"""The server: the same answers as the functions, to this machine alone, and a sentence where something is wrong."""

import json

import pytest

pytest.importorskip("starlette", reason="pip install 'allmasks[lab]'")
pytest.importorskip("httpx", reason="starlette's test client needs it")

from starlette.testclient import TestClient

from allmasks.lab import chapter, chapters
from allmasks.lab.app import make_app
from allmasks.lab.document import LARGEST, answers, file_name, static_page
from allmasks.lab.payload import payload


@pytest.fixture(scope="module")
def client():
    return TestClient(make_app("ko", 2), base_url="http://127.0.0.1")


def test_it_opens_the_chapter_that_was_asked_for(client):
    response = client.get("/")
    assert response.url.path == "/all-masks"
    assert 'lang="ko"' in response.text
    assert "connect-src 'self'" in response.text


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_answers_are_the_functions(client, lang):
    found = chapter(2)
    told = client.get(f"/answer/all-masks?lang={lang}&p=0.25&d=4&loss=squared_error").json()
    settings = found.settle({"p": 0.25, "d": 4, "loss": "squared_error"})
    assert told == json.loads(json.dumps(payload(found, found.compute(settings), settings, lang)))
    steps = client.get(f"/steps/all-masks?lang={lang}&p=0.25&d=4&loss=squared_error").text.splitlines()
    assert [json.loads(line) for line in steps] == [told]


def test_what_cannot_be_is_said(client):
    for address, told in (
        ("/answer/all-masks?p=1", "p must lie in 0 … 0.95, got 1"),
        ("/answer/nothing", "there is no chapter 'nothing'"),
        ("/all-masks?lang=fr", "lang must be one of en, ko, got 'fr'"),
        ("/favicon.ico", "there is no chapter 'favicon.ico'"),
        ("/answer/all-masks?evil=<script>", "there is no 'evil'"),
    ):
        response = client.get(address)
        assert response.status_code == 400
        assert told in response.json()["error"]


def test_another_name_for_this_machine_is_refused():
    """A page of another site that has its name point here is not answered."""
    assert TestClient(make_app(), base_url="http://evil.example").get("/one-mask").status_code == 400


@pytest.mark.parametrize("key", ["one-mask"])
def test_static_pages_hold_every_answer(key):
    found = chapter(key)
    text = static_page(found, "en")
    assert len(text.encode()) < LARGEST
    assert "connect-src" not in text
    told = answers(found, "en")
    sizes = [len(control.stops) for control in found.controls]
    assert len(told) == sizes[0] * sizes[1] * sizes[2]
    i = 5 * sizes[1] * sizes[2] + 3 * sizes[2] + 1
    settings = {c.key: c.stops[j] for c, j in zip(found.controls, (5, 3, 1), strict=True)}
    assert told[i] == payload(found, found.compute(settings), settings, "en")


def test_files_have_names_of_their_own():
    names = [file_name(found, lang) for found in chapters() for lang in ("en", "ko")]
    assert len(set(names)) == len(names)
    assert names[:2] == ["01-one-mask.html", "01-one-mask.ko.html"]
