from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.config import find_config, load_config
from training.train import make_parser

README = Path(__file__).parents[2] / "training" / "README.md"
LAUNCHED = re.findall(
    r"^accelerate launch (.*) -m training\.train (.*)$", README.read_text("utf-8"), re.MULTILINE
)
COMMANDS = re.findall(r"^python -m (training\.\w+)(.*)$", README.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_command_of_the_readme_is_understood(
    module: str, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(module)
    make_parser = getattr(command, "make_parser", None)
    if make_parser is not None:
        make_parser().parse_args(shlex.split(arguments))
        return
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    options = re.findall(r"--\w[\w-]*", arguments)
    printed = capsys.readouterr().out
    assert all(option in printed for option in options)


def list_arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from list_arguments(part)
        else:
            yield action


@pytest.mark.parametrize("module", sorted({module for module, _ in COMMANDS}))
def test_help_tells_what_an_option_is_without_being_given(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([])
    for action in list_arguments(parsers[0]):
        has_default = action.default not in (None, "", argparse.SUPPRESS) and action.nargs != 0
        if has_default and action.default != []:
            assert "default: " in str(action.help), action.option_strings


def test_launched_commands_are_understood() -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    assert len(LAUNCHED) == 4
    for options, arguments in LAUNCHED:
        parsed = launch.launch_command_parser().parse_args([*shlex.split(options), "a_script"])
        assert parsed.multi_gpu
        config = load_config(find_config(make_parser().parse_args(shlex.split(arguments)).config))
        assert config.run.batch_size % parsed.num_processes == 0


def test_readme_shows_every_command() -> None:
    folder = README.parent
    commands = {
        f"training.{path.stem}"
        for path in folder.glob("*.py")
        if "__main__" in path.read_text("utf-8")
    }
    assert commands == {module for module, _ in COMMANDS}


def test_files_named_in_the_readme_exist() -> None:
    text = README.read_text("utf-8")
    named = re.findall(r"\]\(([^)]+)\)", text)
    assert named
    assert not [name for name in named if not (README.parent / name).exists()]
