"""What every file of proxyv/cli/commands must keep, found by looking in the folder."""

import subprocess
import sys

import pytest

import proxyv.cli.commands
from proxyv.cli import main
from proxyv.cli.commands import COMMANDS, command_name
from proxyv.files import CHECKOUT

FOLDER = CHECKOUT / "proxyv" / "cli" / "commands"
every_command = pytest.mark.parametrize("command", COMMANDS, ids=command_name)


def test_every_file_is_listed():
    files = {f"{proxyv.cli.commands.__name__}.{file.stem}" for file in FOLDER.glob("*.py")}
    assert {command.__name__ for command in COMMANDS} == files - {f"{proxyv.cli.commands.__name__}.__init__"}
    assert len(set(COMMANDS)) == len(COMMANDS)


def test_help_lists_the_commands_in_order(capsys):
    main([])
    words = capsys.readouterr().out.split()
    places = [words.index(command_name(command), words.index("command", 5)) for command in COMMANDS]
    assert places == sorted(places)


@every_command
def test_help_has_an_example_and_says_json_where_figures_are_printed(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command_name(command), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert f"example: proxyv {command_name(command)} " in shown
    assert ("--json print figures as JSON" in shown) == command.PRINTS_FIGURES
    assert ("--json" in command.EXAMPLE) <= command.PRINTS_FIGURES


# The arguments that commands cannot do without.
REQUIRED = {
    "data": ["list"],
    "eval": ["m"],
    "rescore": ["r"],
    "compare": ["r", "s"],
    "mir": ["m", "--pairs", "p"],
    "generate": ["m", "--prompt", "q"],
    "report": ["r"],
    "methods": [],
    "convert": ["s", "t"],
    "merge": ["s", "t"],
    "export": ["m", "t"],
    "doctor": [],
}


def test_commands_that_take_no_fields_of_a_recipe():
    assert {command_name(command) for command in COMMANDS if not command.OVERRIDABLE} == set(REQUIRED)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("unknown", [["--foo", "1"], ["--foo"]], ids=" ".join)
def test_an_unknown_option_is_refused_in_one_line(capsys, name, unknown):
    """For the other commands it is a field of the recipe, refused by name when the recipe is read."""
    with pytest.raises(SystemExit) as stop:
        main([name, *REQUIRED[name], *unknown])
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out) == (2, "")
    assert shown.err == f"proxyv {name}: unknown option '--foo'; see `proxyv {name} --help`\n"


def test_an_unknown_field_of_a_recipe_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", str(CHECKOUT / "configs" / "recipes" / "tiny-full.yaml"), "--foo", "1"])
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out, len(shown.err.splitlines())) == (2, "", 1)
    assert "unknown key 'foo'" in shown.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], "proxyv train: the following arguments are required: recipe; see `proxyv train --help`"),
        (["eval", "x", "--limit", "few"], "proxyv eval: argument --limit: invalid int value: 'few'; see `proxyv eval"),
        (["trian"], "proxyv: argument command: invalid choice: 'trian'"),
        (["train", "r.yaml", "again"], "proxyv train: unexpected argument 'again'; write overrides as --field.sub"),
        (["train", "r.yaml", "--seed"], "proxyv train: option '--seed' needs a value: --seed VALUE"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_and_exit_code_2(capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.out == ""
    assert len(shown.err.splitlines()) == 1 and shown.err.startswith(line)


def test_help_needs_neither_torch_nor_transformers():
    code = (
        "import sys, proxyv.cli; proxyv.cli.main([]); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.splitlines()[-1] == "[]"
