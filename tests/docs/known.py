"""What can be known of a command without running it: that its target, subcommand, options and settings exist."""

import importlib.util
import re
import shlex
import subprocess

import click

from cli.main import main
from settings import PREFIX, Settings
from tests.conftest import ROOT

_ENDS = set(";|&\n")
_HERE_DOCUMENT = re.compile(r"(?ms)<<-?\s*(['\"]?)(\w+)\1[^\n]*\n.*?\n\s*\2$")


def commands_of(script: str) -> list[list[str]]:
    """The words of every command of a shell script; nothing of it is expanded."""
    without = _HERE_DOCUMENT.sub("", script)
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)(^|\s)#.*$", "", without))
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=";|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= _ENDS:
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def check_command(words: list[str]) -> None:
    """Fail where a command of ours, or what it is given, is not there; what is not ours is let through."""
    while words and (setting := re.fullmatch(r"(\w+)=.*", words[0], re.DOTALL)):
        check_setting(setting[1])
        words = words[1:]
    program = words[0].rpartition("/")[2] if words else ""
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        ran = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    elif program == "vitrine":
        check_vitrine(words[1:])
    elif program.startswith("python") and words[1:2] == ["-m"]:
        assert importlib.util.find_spec(words[2]) is not None, f"there is no module {words[2]}"


def check_setting(name: str) -> None:
    """Fail where a name looks like a setting and is none; `VITRINE_X_` stands for all that begin so."""
    known = [f"{PREFIX}{field.upper()}" for field in Settings.model_fields]
    if name.startswith(PREFIX):
        assert any(entry == name or (name.endswith("_") and entry.startswith(name)) for entry in known), name


def check_vitrine(words: list[str]) -> None:
    """Fail where `vitrine WORDS` has a subcommand, option or argument that the command line does not know."""
    command: click.Command = main
    context = click.Context(main, info_name="vitrine")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{context.command_path} has no command {words[0]!r}"
        context = click.Context(found, info_name=words[0], parent=context)
        command, words = found, words[1:]
    try:
        _, left, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        raise AssertionError(f"{context.command_path}: {error.format_message()}") from error
    assert not left, f"{context.command_path} takes no {left}"
