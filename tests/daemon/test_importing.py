"""What is imported at the start of a process is never looked through for garbage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from upframe.daemon.__main__ import COMMANDS, make_parser


def told_by(program: str) -> list[str]:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_what_comes_in_meanwhile_is_walked_through_neither_then_nor_later() -> None:
    program = """
import gc
from upframe.daemon.startup import collector_resting
walks = []
gc.callbacks.append(lambda phase, _: walks.append(phase))
with collector_resting():
    kept = [[] for _ in range(100_000)]
print(len(walks), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1_000, gc.isenabled())
"""
    assert told_by(program) == ["0", "True", "True", "True"]


def test_a_command_keeps_what_it_has_imported_and_a_caller_of_main_keeps_nothing() -> None:
    program = """
import gc, sys
from upframe.daemon.__main__ import main
before = gc.get_freeze_count()
print(main(["jobs"]), gc.get_freeze_count() - before)
sys.argv = ["upframe", "jobs"]
print(main(), gc.get_freeze_count() - before > 10_000, gc.isenabled())
"""
    assert told_by(program) == ["64", "0", "64", "True", "True"]


@pytest.mark.parametrize("begin", ["enable", "disable"])
def test_the_collector_is_left_as_it_was_also_by_an_import_that_fails(begin: str) -> None:
    program = f"""
import gc
from contextlib import suppress
from upframe.daemon.startup import collector_resting
gc.{begin}()
with suppress(ImportError), collector_resting():
    import upframe.daemon.nothing
print(gc.isenabled())
"""
    assert told_by(program) == [str(begin == "enable")]


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_no_command_and_no_large_library(option: str) -> None:
    program = f"""
import sys
from upframe.daemon.__main__ import main
try:
    main(["{option}"])
except SystemExit as end:
    large = {{"torch", "av", "numpy", "rich"}} & sys.modules.keys()
    commands = [name for name in sys.modules if name.startswith("upframe.daemon.cli.")]
    print(end.code, sorted(large), commands)
"""
    assert told_by(program)[-3:] == ["0", "[]", "[]"]


@pytest.mark.parametrize("option", ["--help", "--unknown"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_help_and_wrong_options_of_a_command_load_neither_it_nor_a_large_library(
    command: str, option: str
) -> None:
    program = f"""
import sys
from upframe.daemon.__main__ import COMMANDS, main
try:
    main(["{command}", "{option}"])
except SystemExit:
    pass
large = {{"torch", "av", "numpy", "rich"}} & sys.modules.keys()
print(sorted(large), [name for name in COMMANDS if f"upframe.daemon.cli.{{name}}" in sys.modules])
"""
    assert told_by(program)[-2:] == ["[]", "[]"]


def test_a_command_loads_its_own_module_alone() -> None:
    program = """
import sys
from upframe.daemon.__main__ import COMMANDS, main
main(["serve", "--config", "/nowhere.toml"])
print(*(name for name in COMMANDS if f"upframe.daemon.cli.{name}" in sys.modules))
"""
    assert told_by(program)[-1:] == ["serve"]


def test_help_names_every_command_whatever_is_loaded() -> None:
    text = make_parser(["jobs"]).format_help()
    assert all(f"\n    {name}" in text for name in COMMANDS)
