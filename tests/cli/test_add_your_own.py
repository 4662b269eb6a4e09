"""The other rows of the README's "Add your own", walked through in a copy of the checkout: a family, a benchmark, a
recipe and a data set are added as the row says, and the tests that it names find them. (test_add_a_method.py does the
method.)"""

import os
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FAMILY = """
from transformers.models.arcee.modeling_arcee import ArceeDecoderLayer

FAMILIES["arcee"] = Family(ArceeDecoderLayer, separate)
"""
LLM = """
llm:
  pretrained: arcee-ai/AFM-4.5B
  chat_template: qwen
  config:
    model_type: arcee
    vocab_size: 128004
    hidden_size: 2560
    intermediate_size: 18432
    num_hidden_layers: 36
    num_attention_heads: 20
    num_key_value_heads: 4
    max_position_embeddings: 65536
    rms_norm_eps: 1.0e-5
    rope_parameters: {rope_type: default, rope_theta: 10000.0}
    bos_token_id: 128000
    eos_token_id: 128003
    pad_token_id: 128003
"""
BENCHMARK = """
name: menus
title: Menus
data: benchmarks/menus.parquet
split: validation
columns: {id: key, image: photo, question: question, answers: prices}
max_new_tokens: 16
metrics: [relaxed_accuracy]
main: relaxed_accuracy
"""
RECIPE = """
parts: [tiny-full.yaml, ../method/uniform.yaml]
method: {tokens: 9}
"""
READER = '''

class TableReader(Reader):
    """Lines of `image TAB question TAB answer`."""

    def read(self) -> datasets.Dataset:
        lines = self.file.read_text(encoding="utf-8").splitlines()[: self.spec.limit]
        for number, line in enumerate(lines):
            if line.count("\\t") != 2:
                raise UserError(f"{self.where(str(number))} must be three fields between tabs")
        columns = zip(*(line.split("\\t") for line in lines), strict=True)
        return datasets.Dataset.from_dict(dict(zip(("image", "question", "answer"), map(list, columns), strict=False)))

    def sample(self, row: dict[str, Any]) -> Sample:
        question = {"role": "user", "content": f"{IMAGE_TOKEN}\\n{row['question']}"}
        answer = {"role": "assistant", "content": row["answer"]}
        return Sample(row["question"], self.name, (self.images / row["image"],), (question, answer))

    def lengths(self) -> list[int]:
        return [len(question.split()) + 1 for question in self.table["question"]]


READERS["tsv"] = TableReader
'''
DATA = """
data:
  menus: {reader: tsv, path: menus.tsv, images: photos}
"""
EXAMPLE = r"""
path: menus.tsv
text: "one.png\thow much is soup\t4\ntwo.png\twhat is cheapest\ttea\n"
images: [1, 1]
bad: "one.png\tno answer\n"
bad_name: record '2'
"""


@pytest.fixture(scope="module")
def checkout(repo, tmp_path_factory):
    """A copy of what the tests of this file need of the checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "golden", "results")
    for part in ("proxyv", "configs", "eval", "tests"):
        shutil.copytree(repo / part, folder / part, ignore=ignored)
    shutil.copy(repo / "pyproject.toml", folder)
    return folder


def passed(checkout, words, *files):
    """Run the tests whose names hold the words; returns how many passed of each file."""
    command = [sys.executable, "-m", "pytest", *files, "-k", words, "-v", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    names = re.findall(r"^(\S+\.py)::.* PASSED", done.stdout, re.M)
    return {file: names.count(file) for file in files}


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_family(checkout):
    """Model, inference and support tests run over it; its shapes fit the paper's recipe."""
    append(checkout / "proxyv" / "model" / "families.py", FAMILY)
    (checkout / "configs" / "llm" / "afm-4.5b.yaml").write_text(LLM)
    files = [f"tests/unit/model/test_{name}.py" for name in ("model", "inference")]
    contract = ["tests/contract/test_support.py", "tests/contract/test_configs.py"]
    counts = passed(checkout, "(arcee and not flex) or afm-4.5b", *files, *contract)
    assert all(counts.values()) and counts["tests/unit/model/test_model.py"] >= 10


def test_benchmark(checkout):
    (checkout / "eval" / "benchmarks" / "menus.yaml").write_text(BENCHMARK)
    assert list(passed(checkout, "menus", "tests/contract/test_benchmarks.py").values()) == [2]


def test_recipe(checkout):
    (checkout / "configs" / "recipes" / "tiny-uniform-9.yaml").write_text(RECIPE)
    assert list(passed(checkout, "tiny-uniform-9", "tests/contract/test_configs.py").values()) == [1]


def test_data_set(checkout):
    append(checkout / "proxyv" / "data" / "readers.py", READER)
    (checkout / "configs" / "data" / "menus.yaml").write_text(DATA)
    (checkout / "tests" / "contract" / "readers" / "tsv.yaml").write_text(EXAMPLE)
    counts = passed(checkout, "tsv or menus", "tests/contract/test_readers.py", "tests/contract/test_configs.py")
    assert list(counts.values()) == [6, 1]
