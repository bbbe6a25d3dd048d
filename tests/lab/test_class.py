"""For a class: the worksheet and its check, notebooks that run, and what the command says."""

import json
import re
import sys

import pytest

from allmasks.cli import main
from allmasks.lab import chapter, chapters
from allmasks.lab.notebooks import notebook, plotly_figure
from allmasks.lab.worksheet import check, worksheet


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_filled_worksheet_is_checked(tmp_path, capsys, lang):
    file = tmp_path / "sheet.md"
    assert main(["lab", "--worksheet", str(file), "--lang", lang]) == 0
    text = file.read_text(encoding="utf-8")
    assert text.count("____") == len(chapters())
    assert main(["lab", "--check", str(file), "--lang", lang]) == 1
    for found in chapters():
        text = text.replace("____", f"{found.question.answer():.6g}", 1)
    file.write_text(text, encoding="utf-8")
    assert main(["lab", "--check", str(file), "--lang", lang]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] in ("11 of 11 right", "11개 가운데 11개가 맞습니다")


def test_what_is_written_is_understood_or_said():
    text = worksheet()
    for number, answer in ((1, "0,8"), (2, "63"), (3, "many"), (11, " 3 ")):
        text = text.replace(f"Answer {number}: ____", f"Answer {number}: {answer}")
    found = {one.chapter.number: one for one in check(text)}
    assert [found[i].right for i in (1, 2, 3, 4, 11)] == [True, False, False, False, True]
    assert found[2].sentence.startswith("Not yet. Set d")
    assert found[3].sentence == "'many' is no number"
    assert found[4].sentence.startswith("no answer yet")
    with pytest.raises(ValueError, match="write a worksheet with --worksheet FILE first"):
        check("# notes")


def test_the_command_refuses_in_a_sentence(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe\x00")
    for arguments, told in (
        (["--chapter", "99"], "there is no chapter '99'"),
        (["--lang", "fr"], "--lang must be en or ko"),
        (["--port", "70000"], "--port must lie in 0"),
        (["--out", str(file)], "is not a folder"),
        (["--check", str(file)], "no text in UTF-8"),
        (["--check", str(tmp_path / "none")], "No such file"),
        (["--check", str(file), "--worksheet", "x"], "exclude each other"),
        (["--worksheet", str(tmp_path / "no" / "x.md")], "does not exist"),
    ):
        assert main(["lab", *arguments]) == 2, arguments
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys, missing):
    for name in [n for n in sys.modules if n == "allmasks.lab.app" or n.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["lab", "--no-browser", "--port", "0"]) == 2
    assert f"needs {missing}: pip install 'allmasks[lab]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 3, 11])
def test_notebooks_run_and_show_what_the_page_shows(number, capsys):
    found = chapter(number)
    told = json.loads(json.dumps(notebook(found, "ko")))
    assert told["nbformat"] == 4
    assert len({cell["id"] for cell in told["cells"]}) == len(told["cells"])
    namespace = {"__name__": "notebook"}
    for cell in told["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), found.key, "exec"), namespace)
    assert namespace["answer"].sentence == found.compute().sentence
    assert found.compute().sentence.ko in capsys.readouterr().out


def test_notebooks_are_never_overwritten(tmp_path, capsys):
    assert main(["lab", "--edit", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.en.ipynb"))) == len(chapters())
    assert main(["lab", "--edit", "--out", str(tmp_path)]) == 2
    assert "may have been changed" in capsys.readouterr().err


def test_a_notebooks_picture_is_plotlys_own():
    steps = chapter(7).steps({"width": 4})
    figure = plotly_figure(next(steps))
    steps.close()
    assert figure["data"][0]["type"] == "heatmap"
    assert not re.search(r'"@(?!\w+\.)', json.dumps(figure))
    plotly = pytest.importorskip("plotly.graph_objects")
    for number in (1, 2, 3, 5, 6, 11):
        plotly.Figure(plotly_figure(chapter(number).compute(), "ko"))
