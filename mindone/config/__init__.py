"""Dataclasses to YAML and to the command line: one tree of dataclasses per command is the only schema.

A setting (leaf) is identified by its dotted path, ``train.batch_size``. Its flat name ``batch_size`` means it, too, if
no other leaf has that name. So ``--train.batch_size 4``, ``--batch_size 4``, ``--batch-size=4`` and
``train.batch_size=4`` are the same; a recipe (YAML) may nest, dot or flatten its keys. The command line beats recipes,
a later recipe beats an earlier one, and all beat the defaults. Attribute docstrings are the help texts. An alias of one
letter is an option with one dash, too: ``-m``. A dict leaf is
given whole (``--mask_ratios "{identity: 0.9, random: 0.1}"``) or by entry (``--mask_ratios.random 0.1``).

The root dataclass may have the class variables of `Settings`. Any dataclass of the tree may have a method ``check()``
that raises `SettingError` (with `require` and `require_at_least`), which then says in which file and line the setting
was given.

Types of leaves: ``bool, int, float, str, Any, Literal, list, tuple, dict``, unions of them, and

- `FilePath`: text that is a path. If it begins with ``./`` or ``../`` it starts at the recipe it stands in (on the
  command line: at the current folder), and ``~/`` is the home folder. All else stays as it is, such as
  ``hpcai-tech/OpenSora-STDiT-v3``. `FilePaths` is several of them, separated by ``;``.
- `AnyFloat`: a number that may be infinite or not a number, which other numbers may not.
- ``Annotated[dict[str, Any], Entries(Schema)]``: a dict whose entries have the names and types of a dataclass.
"""

from mindone.config.build import load, parse, resolve, save_config, to_yaml
from mindone.config.checks import SettingError, about, check, naming_sources, require, require_at_least
from mindone.config.command_line import arguments
from mindone.config.help import descriptions
from mindone.config.names import Names
from mindone.config.schema import AnyFloat, Entries, FilePath, FilePaths, Leaf, Settings, leaves
from mindone.config.values import typed_entries

__all__ = [
    "AnyFloat",
    "Entries",
    "FilePath",
    "FilePaths",
    "Leaf",
    "Names",
    "SettingError",
    "Settings",
    "about",
    "arguments",
    "check",
    "descriptions",
    "leaves",
    "load",
    "naming_sources",
    "parse",
    "require",
    "require_at_least",
    "resolve",
    "save_config",
    "to_yaml",
    "typed_entries",
]
