"""The vectors of the documentation are those that are drawn, by the command too."""

from pathlib import Path

from allmasks.cli import main


def test_the_page_and_the_command_agree(capsys):
    assert main(["doctor", "--vectors"]) == 0
    told = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "test-vectors.md").read_text(encoding="utf-8")
    assert told.strip() in page
    assert len(told.splitlines()) == 4
