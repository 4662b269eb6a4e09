"""The other rows of the README's "Add your own", walked through in a copy of the checkout: a family, a benchmark, a
recipe and a data set are added as the row says, and the tests that it names find them. (test_add_a_method.py does the
method.)"""

import re
import shutil
from collections import Counter

import pytest

from tests.warm import python

pytestmark = pytest.mark.slow

FAMILY = """

FAMILIES["arcee"] = Family()
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
from proxyv.constants import IMAGE_TOKEN


class TableReader(Reader):
    """Lines of `image TAB question TAB answer`."""

    format = "tsv"

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


# Path in the checkout → what is added to that file.
ADDED = {
    "proxyv/model/families.py": FAMILY,
    "configs/llm/afm-4.5b.yaml": LLM,
    "eval/benchmarks/menus.yaml": BENCHMARK,
    "configs/recipes/tiny-uniform-9.yaml": RECIPE,
    "proxyv/data/readers.py": READER,
    "configs/data/menus.yaml": DATA,
    "tests/contract/readers/tsv.yaml": EXAMPLE,
}


@pytest.fixture(scope="module")
def checkout(repo, tmp_path_factory):
    """A copy of the checkout with everything above added."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "golden")
    for part in ("proxyv", "configs", "eval", "tests"):
        shutil.copytree(repo / part, folder / part, ignore=ignored)
    shutil.copy(repo / "pyproject.toml", folder)
    for path, text in ADDED.items():
        with (folder / path).open("a", encoding="utf-8") as file:
            file.write(text)
    return folder


def run_tests(checkout, *arguments):
    command = ["-m", "pytest", *arguments, "-p", "no:xdist", "-p", "no:cacheprovider"]
    return python(*command, folder=checkout, environment={"PYTHONPATH": str(checkout)}, timeout=500)


@pytest.fixture(scope="module")
def passed(checkout):
    """The tests of what was added, run once; call it with words: how many tests with these words in their names
    passed, by file."""
    files = ["unit/model/test_model.py", "unit/model/test_inference.py"]
    files += [f"contract/test_{name}.py" for name in ("families", "support", "configs", "benchmarks", "readers")]
    words = "(arcee and not flex) or afm-4.5b or menus or tiny-uniform-9 or tsv"
    done = run_tests(checkout, *(f"tests/{file}" for file in files), "-k", words, "-v")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    names = re.findall(r"^tests/(\S+\.py)::(.*) PASSED", done.stdout, re.M)
    return lambda *words: Counter(file for file, name in names if any(word in name for word in words))


def test_family(passed):
    """Model, inference and support tests run over it; its shapes fit the paper's recipe."""
    counts = passed("arcee", "llm/afm-4.5b.yaml")
    assert counts["unit/model/test_model.py"] >= 10 and counts["unit/model/test_inference.py"] >= 1
    assert counts["contract/test_support.py"] == 6 and counts["contract/test_configs.py"] == 1
    assert counts["contract/test_families.py"] >= 6


def test_a_family_whose_parts_are_not_stated_fails(checkout):
    """As if Granite's layers were Llama's: its residual multiplier is not said."""
    with (checkout / "proxyv/model/families.py").open("a", encoding="utf-8") as file:
        file.write('\nFAMILIES["granite"] = Family(logits=scaled)\n')
    case = "tests/contract/test_families.py::test_every_method_with_all_fields_at_once[granite]"
    done = run_tests(checkout, case, "-q")
    assert done.returncode == 1
    assert re.search(r"granite, \w+: not what Hugging Face's own LLM computes; does the family's entry", done.stdout)


def test_benchmark(passed):
    assert passed("[menus]")["contract/test_benchmarks.py"] == 2


def test_recipe(passed):
    assert passed("recipes/tiny-uniform-9.yaml") == {"contract/test_configs.py": 1}


def test_data_set(passed):
    """The reader keeps the contract, and the part that names it loads."""
    assert passed("[tsv]", "[menus]")["contract/test_readers.py"] == 6
    assert passed("data/menus.yaml") == {"contract/test_configs.py": 1}
