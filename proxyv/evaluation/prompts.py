"""From a benchmark's row to the text that is sent with its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from proxyv.domains import Declared, Text

CONTEXT = "{context}"


def _check_context(value: str) -> str:
    if value and CONTEXT not in value:
        raise ValueError(f"must say where the context goes by {CONTEXT}")
    return value


@dataclass
class PromptTemplate(Declared):
    """How a row becomes the user's text: prefix + context + question + options + suffix."""

    prefix: Text = ""
    suffix: Text = ""
    capitalize: bool = False  # first letter upper case, all others lower, as in lmms-eval's TextVQA
    strip: bool = False  # cut off the question's outer blanks
    remove: Text = ""  # cut out of the question, wherever it stands
    context: Annotated[Text, AfterValidator(_check_context)] = ""  # "Hint: {context}\n", of rows that have one
    options: Text = ""  # between question and options, which follow as lines "A. text"
    open_suffix: Text = ""  # in place of `suffix`, of rows without options

    def fill(self, question: str, context: str | None, options: Mapping[str, str]) -> str:
        """The user's text. `options`: letter → text."""
        question = question.strip() if self.strip else question
        question = question.replace(self.remove, "") if self.remove else question
        question = question.capitalize() if self.capitalize else question
        before = self.context.replace(CONTEXT, context) if context else ""
        lines = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        suffix = self.suffix if options or not self.open_suffix else self.open_suffix
        return f"{self.prefix}{before}{question}{self.options if options else ''}{lines}{suffix}"
