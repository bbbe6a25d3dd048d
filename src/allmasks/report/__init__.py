"""The audit to read: a page of text for the terminal, one self-contained HTML file for the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allmasks.diagnose import Audit

__all__ = ["write"]


def write(audit: Audit, path: str | Path, lang: str = "en") -> Path:
    """Write one self-contained HTML file that opens offline; returns its path.

    Parameters
    ----------
    audit : what `am.audit` returned.
    path : the file to write. It appears complete or not at all; a file that is there is replaced.
    lang : "en" or "ko".

    Raises
    ------
    ValueError : a language that the report does not speak.
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError : the path cannot be written.
    """
    from allmasks.files import check_writable, write_text
    from allmasks.report.html import render_html

    check_writable(path, "report")
    return write_text(path, render_html(audit, lang))
