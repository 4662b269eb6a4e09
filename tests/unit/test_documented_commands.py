"""Every command in the documents' shell blocks is real: scripts exist, arguments parse, recipes load, names exist."""

import importlib.util
import os
import re
import shlex

import pytest

from proxyv.cli.main import make_parser, parse_overrides
from proxyv.config import load_recipe
from proxyv.evaluation.benchmarks import list_names
from proxyv.files import CHECKOUT
from proxyv.sources.source import source_names

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "eval/README.md",
    *sorted(f"docs/{p.name}" for p in CHECKOUT.glob("docs/*.md")),
]
# What else stands at the beginning of a line: the shell's own words and other programs.
OTHERS = {
    *("cd", "source", "trap", "wait", "[", "export", "for", "do", "done", "run=$!"),
    *("git", "hf", "pre-commit", "ruff", "pytest", "scontrol", "nvidia-smi", "pip"),
}
RECIPE_COMMANDS = ("train", "check-data", "show-sample", "profile", "bench", "sweep")


def commands(text):
    """The simple commands of a document's shell blocks, as lists of words."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|"):
                    if words:
                        yield words
                    words = []
                elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                    words.append(word)


def problem(words):
    """What is wrong with one command; None where nothing is."""
    head, *rest = words
    if head == "torchrun":
        return problem(["python", *rest[rest.index("-m") :]]) if "-m" in rest else "no -m"
    if head == "do" and rest:
        head, *rest = rest
    if head in ("python", "python3") and rest[:1] == ["-m"]:
        head, rest = rest[1], rest[2:]
        if head == "proxyv" or not head.startswith("proxyv"):
            return problem([head, *rest]) if head == "proxyv" else None
        return None if importlib.util.find_spec(head) else f"no module {head}"
    if head.startswith("scripts/"):
        if not os.access(CHECKOUT / head, os.X_OK):
            return f"no script {head}"
        return wrong_arguments(["train", *rest]) if head.startswith("scripts/train/") else None
    if head == "proxyv":
        return wrong_arguments(rest)
    for option, file in zip(rest, rest[1:], strict=False):
        if head == "pip" and option in ("-r", "-c") and not (CHECKOUT / file).is_file():
            return f"no file {file}"
    return None if head in OTHERS else f"what is '{head}'?"


def wrong_arguments(arguments):
    try:
        args, rest = make_parser().parse_known_args(arguments)
    except SystemExit:
        return "arguments that do not parse"
    if rest and not args.overridable:
        return f"unknown option {rest[0]}"
    overrides = parse_overrides(rest)
    for word in (getattr(args, "recipe", None), *getattr(args, "paths", [])):
        if isinstance(word, str) and word.startswith(("configs/", "eval/")):
            found = list(CHECKOUT.glob(re.sub(r"\$\w+", "*", word)))  # a loop's variable stands for anything
            if not found:
                return f"no file {word}"
            if args.command in RECIPE_COMMANDS and found[0].suffix == ".yaml":
                load_recipe(found[0], overrides)  # another test loads every shipped recipe
    known = {"suite": [*list_names("suites"), *list_names("benchmarks")]}
    known["names"] = [*source_names(), *known["suite"]]
    for option, words in known.items():
        given = getattr(args, option, None)
        for word in [given] if isinstance(given, str) else given or []:
            if word not in words and not word.isupper() and "$" not in word:
                return f"{option}: unknown '{word}'"
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_the_documents_is_real(document):
    found = list(commands((CHECKOUT / document).read_text(encoding="utf-8")))
    problems = {shlex.join(words): problem(words) for words in found}
    assert {command: said for command, said in problems.items() if said} == {}
    assert found or document == "eval/README.md"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("scripts/no_such.sh x", "no script"),
        ("proxyv evall x", "do not parse"),
        ("proxyv eval x --suit synthetic", "unknown option --suit"),
        ("proxyv eval x --suite synthetik", "suite: unknown"),
        ("proxyv data fetch chartqq", "names: unknown"),
        ("proxyv train configs/recipes/none.yaml", "no file"),
        ("python -m proxyv.experiments.none", "no module"),
        ("A=1 B=2 proxyv nonsense | tee log", "do not parse"),
        ("true && scripts/no_such.sh", "what is 'true'"),
        ("pip install -r none.txt", "no file none.txt"),
    ],
)
def test_a_command_that_is_not_real_is_noticed(line, said):
    found = [problem(words) for words in commands(f"```bash\n{line}\n```")]
    assert any(said in one for one in found if one)


def test_a_wrong_override_is_noticed():
    words = next(commands("```bash\nproxyv train configs/recipes/tiny-full.yaml \\\n  --sed 1  # a comment\n```"))
    with pytest.raises(ValueError, match="unknown key 'sed'"):
        problem(words)
