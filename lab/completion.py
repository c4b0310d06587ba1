"""lab completion bash|zsh: the shell's script, and the candidates that it asks for. Light: reads `lab.key_index` and file names.

Hydra's own completion knows `python FILE` and a script's first word only: not `python -m`, nor `lab train`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lab import key_index
from lab.commands import COMMANDS, named
from lab.paths import PACKAGE

USAGE = """usage: lab completion bash|zsh

Print the script that completes commands, groups, options, keys and their legal values at <TAB>. To have it in every new shell:

  echo 'eval "$(lab completion bash)"' >> ~/.bashrc
  echo 'eval "$(lab completion zsh)"' >> ~/.zshrc
"""
SCRIPTS = {
    "bash": r"""_lab() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="${COMP_WORDBREAKS//[^=:]/}"
    local word="${line##*[[:space:]]}" kept=""
    mapfile -t COMPREPLY < <(lab completion query "$line" 2>/dev/null)
    # readline puts a candidate in place of what stands behind the last of these
    [[ -n $breaks ]] && kept="${word%"${word##*[$breaks]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -F _lab lab
""",
    "zsh": r"""_lab() {
    local -a candidates
    candidates=(${(f)"$(lab completion query "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"})
    compadd -S '' -- ${(M)candidates:#*[=./]}
    compadd -- ${candidates:#*[=./]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _lab lab
""",
}
"""A candidate that ends in `=`, `.` or `/` is not all of its word: no space follows."""

HYDRA_FLAGS = ("-m", "--multirun", "-cn", "--config-name", "--cfg", "--resolve", "--package", "--info", "--hydra-help")
FOLDERS = ("--runs-dir", "--out", "--folder", "--plugins", "--cache-dir", "--to")
"""Flags before a path."""


def main() -> int:
    """Command-line entry point."""
    match sys.argv[1:]:
        case ["query", line]:
            print("\n".join(candidates(line)))
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell], end="")
        case ["-h" | "--help"]:
            print(USAGE, end="")
        case _:
            print(USAGE, end="", file=sys.stderr)
            return 2
    return 0


def candidates(line: str) -> list[str]:
    """What the last word of a command line, up to the cursor, may become."""
    *before, word = [*line.split(), *([""] if line[-1:].isspace() else [])]
    return sorted({one for one in proposed(before[1:], word) if one.startswith(word)})


def proposed(before: Sequence[str], word: str) -> Iterator[str]:
    """Candidates behind the words of a command; some do not begin with the word."""
    command = named(before)
    previous = before[-1] if before else ""
    if command is None:
        yield from (name.split()[len(before)] for name in COMMANDS if name.split()[: len(before)] == list(before))
    elif word.startswith("-"):
        yield from flags(command)
    elif previous in ("-cn", "--config-name"):
        yield from key_index.load()["sweeps"]
    elif previous == "--run":
        yield from runs(before)
    elif previous in FOLDERS:
        yield from files(word)
    else:
        for what in COMMANDS[command].takes:
            yield from taken(what, before[len(command.split()) :], word)


def taken(what: str, before: Sequence[str], word: str) -> Iterator[str]:
    """Candidates of one kind (`Command.takes`). before: the command's own words."""
    kind, *rest = what.split()
    if kind == "words":
        yield from rest
    elif kind == "runs" and not any(one == "--run" or "=" not in one for one in before):
        yield from runs(before)
    elif kind == "files" and (rest or not before):
        yield from files(word)
    elif kind == "keys":
        yield from (one for one in overrides(before, word) if not rest or one.startswith(f"{rest[0]}."))
    elif kind == "curation":
        from lab.curate import CURATE

        yield from overrides(before, word, CURATE)


def overrides(before: Sequence[str], word: str, door: key_index.Door = key_index.TRAIN) -> Iterator[str]:
    """Groups, options, keys and values in Hydra's grammar, signs before a key and comma-separated values among it."""
    index = key_index.load(door)
    groups, known_keys = (index[what] | index["hydra"][what] for what in ("groups", "keys"))
    sign = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word[len(sign) :].partition("=")
    if not equals:
        yield from (f"{sign}{one}" for one in (*(f"{group}=" for group in groups), *keys(known_keys, key)))
        return
    known = known_keys.get(key, {"words": (*groups.get(key, ()), *own_options(before, key)), "is_list": False, "is_path": False})
    settled = value[: len(value) - len(re.split(r"[\[,]", value)[-1])] or ("[" if known["is_list"] else "")
    given = re.split(r"[\[,]", settled)
    yield from (f"{sign}{key}={settled}{one}" for one in known["words"] if one not in given)
    if known["is_path"]:
        yield from (f"{sign}{key}={one}" for one in files(value))


def keys(known: Iterable[str], begun: str) -> Iterator[str]:
    """Sections and keys of none of them; of a section that is begun, its keys."""
    for key in known:
        section, dot, _ = key.partition(".")
        yield f"{section}." if dot and "." not in begun else f"{key}="


def own_options(before: Sequence[str], group: str) -> list[str]:
    """The options of a group in the folders that the line names as `plugins`, of which nothing is imported."""
    given = next((word.partition("=")[2] for word in before if word.startswith("plugins=")), "")
    return [path.stem for folder in given.strip("[]").split(",") if folder for path in Path(folder, "conf", group).glob("*.yaml")]


def flags(command: str) -> Iterator[str]:
    """The flags that a command's module gives to argparse, read off its source, which need not be imported."""
    yield "--help"
    module, _, takes = COMMANDS[command]
    yield from HYDRA_FLAGS if command == "train" else ()
    yield from ("--run",) if "runs" in takes else ()
    source = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    yield from re.findall(r'add_argument\((?:"-\w+", )?"(--[\w-]+)"', source)


def runs(before: Sequence[str]) -> Iterator[str]:
    """Identities of the runs that are here."""
    folder = next((after for flag, after in zip(before, before[1:], strict=False) if flag == "--runs-dir"), "runs")
    yield from (path.parent.name for path in Path(folder).glob("*/run.json"))


def files(begun: str) -> Iterator[str]:
    """Paths that begin so, folders with a slash; names with spaces are left out, which shells would take apart."""
    folder, _, name = begun.rpartition("/")
    inside = Path(os.path.expanduser(folder or ("/" if begun.startswith("/") else ".")))
    for path in inside.iterdir() if inside.is_dir() else ():
        if path.name.startswith(name) and path.name.startswith(".") == name.startswith(".") and " " not in path.name:
            yield begun[: len(begun) - len(name)] + path.name + ("/" if path.is_dir() else "")


if __name__ == "__main__":
    sys.exit(main())
