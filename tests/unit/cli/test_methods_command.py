"""`proxyv methods`: the catalogue as text, as JSON and in a document."""

import json

import pytest

from proxyv.cli import main
from proxyv.methods import method_classes
from tests.warm import python

METHOD = '''"""Keep the first vision token of each crop. Paper: a control, after arXiv 2502.11501. Deviations: none."""

from dataclasses import dataclass
from typing import ClassVar

from proxyv.model.method import Method


@dataclass(frozen=True)
class First(Method):
    name: ClassVar[str] = "first"

    def tokens_per_crop(self, tokens):
        return 1
'''


def test_text_has_a_row_for_every_method(capsys):
    main(["methods"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["method", "acts", "training"]
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == sorted(method_classes())
    (visionzip,) = [line for line in lines if line.startswith("visionzip ")]
    assert "before the LLM  training-free  cls_attention, keys" in visionzip
    assert "https://arxiv.org/abs/2412.04467  The patches that the tower's CLS token attends to" in visionzip


def test_json(capsys):
    main(["methods", "--json"])
    methods = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["methods"]}
    assert methods["vistog"]["approximate"] and methods["vistog"]["trained"]
    assert methods["proxyv"]["file"] == "proxyv/methods/proxyv.py"


def test_into_a_document(capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: list (x) -->\n<!-- end of table -->\nb\n")
    main(["methods", "--into", f"{page}#list"])
    assert capsys.readouterr().out == f"{page}\n"
    assert "| [m3](proxyv/methods/m3.py) | before the LLM | trained | grid |" in page.read_text()
    with pytest.raises(SystemExit):
        main(["methods", "--into", f"{page}#other"])
    assert "has no place '<!-- table: other" in capsys.readouterr().err


def test_methods_of_other_folders_are_listed(repo, tmp_path):
    (tmp_path / "first.py").write_text(METHOD)
    (tmp_path / "second.py").write_text(METHOD.replace('"first"', '"second"').split("\n", 1)[1])
    done = python("-m", "proxyv", "methods", "--json", folder=repo, environment={"PROXYV_METHODS": str(tmp_path)})
    methods = {entry["name"]: entry for entry in json.loads(done.stdout)["methods"]}
    first, second = methods["first"], methods["second"]
    assert first["one_line"] == "Keep the first vision token of each crop."
    assert (first["arxiv"], first["place"]) == ("2502.11501", "before the LLM")
    assert first["file"] == (tmp_path / "first.py").as_posix()
    assert (second["one_line"], second["arxiv"], second["link"]) == ("", None, None)
