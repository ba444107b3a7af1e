"""The recipe of `report`: shared sections, and what to compare with."""

from typing import Literal

from pydantic import Field

from mlcompress.recipe.base import Section
from mlcompress.recipe.sections import Shared


class ReportSection(Section):
    """What a report compares with, and the files it is written to."""

    baseline: str = Field(default="first", description="`first`, or the path of one of the reported files")
    formats: list[Literal["html", "md", "json", "xml"]] = Field(
        default=[],
        description="also written, beside -o and with its name: `-o r.html` and [md] give r.html and r.md",
    )
    title: str = Field(
        default="Model report", min_length=1, description="heading of the HTML and Markdown report"
    )


class ReportRecipe(Shared):
    """Recipe of `mlcompress report`. `gate` is applied to the last file, compared with the baseline."""

    report: ReportSection = ReportSection()
