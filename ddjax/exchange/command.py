"""``ddjax set show|check|convert|import|export``: look at a distilled set, and bring sets in and out."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddjax.errors import ConfigError, DataError, choice

if TYPE_CHECKING:
    from ddjax.synset import DistilledSet

USAGE = """usage: ddjax set show|check|convert|import|export ...

  show SET                      what a set is, how it came to be, and how to train on it in PyTorch
  check SET                     hashes, shapes, ranges, class map, decode, bytes: every problem at once
  convert SET OUT               the same set as uint8 pixels or float32, in the newest schema
  import SRC OUT --preset NAME  read a set that others published; nothing in a file is ever run
  export SET OUT --to TARGET    folder, npz, hf, webdataset, torch

SET is the folder of a set, or of a run. `ddjax set import --help` and so on tell the flags."""

SHOW = """usage: ddjax set show SET [--recipe]

Prints what the manifest says, the class map, bytes by component, and the training recipe as a PyTorch program.
  --recipe   print the program alone: ddjax set show SET --recipe > train.py; it reads the file that
             `ddjax set export SET set.pt --to torch` writes"""

CHECK = """usage: ddjax set check SET

Checks the manifest against its JSON Schema and its hash, the files against their hashes, shapes, types, value range,
finite pixels, labels, class map, whitening, decode and bytes of each component. Every problem is told at once (exit
code 2)."""

CONVERT = """usage: ddjax set convert SET OUT [--dtype uint8|float32]

Writes the same set to the folder OUT in the newest schema, everything that its manifest says with it.
  --dtype float32   (pixel / 255 - mean) / std: exact, the way back gives the same pixels
  --dtype uint8     un-whitened, un-normalised, rounded to 0..255: what that loses is said
Without --dtype the numbers stay as they are. The set that is read is never changed."""

IMPORT = """usage: ddjax set import SRC OUT --preset NAME [flags]

Reads a set that others published and writes it to the folder OUT. SRC: a file, a folder, images.pt,labels.pt,lr.pt, or
TREE,STORE (class folders of pictures, and the soft labels of their views by epoch, as FKD stores them).
Nothing in a file is ever run; what is neither array, list, dict, number nor text is refused by name.
  --preset NAME       whose layout and pixel space it is:
{presets}
  --dataset CARD      the data set it was made from, for class names, mean and std, licence:
      {cards}
  --classes FILE      a line for each class, in label order (class names or WordNet ids), or a JSON list; of an object
                      {{"0": ["n01440764", "tench"], ...}} the first of each, by number
  --index I           which set of a VICO-style file (0 is the first)
  --data.train SPEC   the real images: a ZCA preset fits its transform on them
  --mean M,M,M --std S,S,S   of each channel, where neither preset nor card knows them
  --method NAME       who made it (FRePo, SRe2L, any text): a known name brings its citation. Only a VICO file's name,
                      res_DSA_…, tells it otherwise; a layout alone names nobody
  --seed N            of TREE,STORE: the seed that the release drew its order of images from (42 unless told)
Without --dataset, --classes is required, but for exports of ddjax (--preset ddjax)."""

EXPORT = """usage: ddjax set export SET OUT --to TARGET

Writes the set at OUT, which must not be there yet (an empty folder may be).
  --to folder       OUT/CLASS/NUMBER.png, classes.txt, manifest.json
  --to npz          OUT, for np.load: every bit
  --to hf           OUT/, for datasets.load_dataset: parquet and a dataset card (needs pyarrow: pip install 'ddjax[hf]')
  --to webdataset   OUT, a tar of NUMBER.png, .cls, .json, and OUT.manifest.json
  --to torch        OUT, for torch.load(OUT, weights_only=True): every bit, with soft labels
PNG is lossless for uint8 sets; what a target cannot hold is said. Of a run whose soft labels are stored view by view,
the mean over the views goes with the images."""

OWN = "ddjax"  # the preset of what `ddjax set export` wrote


class Given(NamedTuple):
    """A command line: what stands without a flag, and the flags' values (True for a flag that takes none)."""

    plain: list[str]
    flags: dict[str, str]


def parse(
    argv: Sequence[str], command: str, plain: Sequence[str], flags: Sequence[str], bare: Sequence[str] = ()
) -> Given:
    """``argv`` as `Given`: exactly the names of ``plain``, any of ``flags``; ``ConfigError`` for all else."""
    known, found, values = [f"--{name}" for name in (*flags, *bare)], [], {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            found.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in known:
            raise ConfigError(choice(f"set {command}: flag", name, known or ["--help"]))
        if name in values:
            raise ConfigError(f"set {command}: {name} is given twice.")
        if name[2:] in bare:
            values[name] = "yes"
        elif equals or words:
            values[name] = value if equals else words.pop(0)
        else:
            raise ConfigError(f"set {command}: {name} lacks its value.")
    if len(found) != len(plain):
        few = f"lacks {', '.join(plain[len(found) :])}" if len(found) < len(plain) else f"has {found[-1]!r} too much"
        hint = f" Several files are one word: {','.join(found[:-1])}." if plain[0] == "SRC" and few[:3] == "has" else ""
        raise ConfigError(
            f"set {command} {few};{hint} allowed: ddjax set {command} {' '.join(plain)} {' '.join(known)}"
        )
    return Given(found, {name[2:]: value for name, value in values.items()})


def fresh(out: str, argument: str = "OUT") -> Path:
    """A folder to write: not there yet, or empty, and one that can be made; else ``ConfigError``."""
    from ddjax.rundir import check_writable, is_empty

    place = Path(out)
    if not out.strip():
        raise ConfigError(f"{argument} = {out!r} has no name; allowed: a new folder, or an empty one.")
    if place.exists() and not (place.is_dir() and is_empty(place)):
        raise ConfigError(f"{argument} = {out!r} is there already; allowed: a new folder, or an empty one.")
    check_writable(place, argument)
    return place


def _with_labels(given: str) -> "tuple[DistilledSet, DistilledSet, list[str]]":
    """The set; as networks see it, with the soft labels that its run stores where it has none itself; what to know."""
    from ddjax.exchange.stored import mean_labels
    from ddjax.synset import DistilledSet, find

    stored = DistilledSet.load(given)
    made = stored.decoded()
    logits, notes = (None, []) if made.soft else mean_labels(find(given), len(made), len(made.class_names))
    return stored, (made if logits is None else dataclasses.replace(made, label_logits=logits)), notes


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _show(argv: Sequence[str]) -> int:
    """``ddjax set show SET``."""
    from ddjax.exchange import stored
    from ddjax.exchange.describe import facts
    from ddjax.exchange.recipe import recipe
    from ddjax.synset import find

    given = parse(argv, "show", ["SET"], [], ["recipe"])
    own, made, notes = _with_labels(given.plain[0])
    if "recipe" not in given.flags:
        folder = find(given.plain[0])
        print(facts(own, given.plain[0], stored.components(own, folder), stored.told(own, folder)))
        _say(f"in the program below and in exports {note}" for note in notes)
        print(f"\n# PyTorch; first: ddjax set export {given.plain[0]} set.pt --to torch\n")
    print(recipe(made), end="")
    return 0


def _check(argv: Sequence[str]) -> int:
    """``ddjax set check SET``: the set's files, and the soft labels of the run that it lies in."""
    from ddjax import setcheck, storage
    from ddjax.exchange import stored
    from ddjax.synset import DistilledSet, find

    given = parse(argv, "check", ["SET"], [])
    folder = find(given.plain[0])
    where = f"set = {str(folder)!r}"
    setcheck.refuse(where, [*setcheck.folder(folder, where)[2], *stored.problems(folder)])
    made = DistilledSet.load(folder)
    n, h, w, d = made.images.shape
    tiles = f", canvases of {made.factor}x{made.factor} tiles: {n * made.factor**2} for networks" * (made.factor > 1)
    print(
        f"{folder}: sound. {n} images {h}x{w}x{d} {made.images.dtype} ({made.space}){tiles}, "
        f"{len(made.class_names)} classes; {storage.told(stored.components(made, folder))}."
    )
    labels = stored.told(made, folder)
    if labels:
        print(f"stored labels: {labels}.")
    return 0


def _convert(argv: Sequence[str]) -> int:
    """``ddjax set convert SET OUT``."""
    from ddjax.exchange.convert import convert
    from ddjax.exchange.stored import recorded
    from ddjax.synset import DistilledSet, find

    given = parse(argv, "convert", ["SET", "OUT"], ["dtype"])
    made, notes = convert(DistilledSet.load(given.plain[0]), given.flags.get("dtype"))
    place = fresh(given.plain[1])
    print(recorded(made, find(given.plain[0])).save(place))
    _say(notes)
    return 0


def _export(argv: Sequence[str]) -> int:
    """``ddjax set export SET OUT --to TARGET``."""
    from ddjax.exchange import export as target

    given = parse(argv, "export", ["SET", "OUT"], ["to"])
    if "to" not in given.flags:
        raise ConfigError(f"set export lacks --to; allowed: {', '.join(target.TARGETS)}.")
    if given.flags["to"] not in target.TARGETS:
        raise ConfigError(choice("export --to", given.flags["to"], target.TARGETS))
    out = target.destination(Path(given.plain[1]), given.flags["to"])
    stored, made, notes = _with_labels(given.plain[0])
    notes += target.export(made, out, given.flags["to"], target.decoding(stored))
    print(out)
    _say(notes)
    return 0


def _import(argv: Sequence[str]) -> int:
    """``ddjax set import SRC OUT --preset NAME``."""
    from ddjax import storage
    from ddjax.exchange import own, stored
    from ddjax.exchange.importing import import_set
    from ddjax.exchange.presets import PRESETS

    names = ["preset", "dataset", "classes", "index", "data.train", "mean", "std", "method", "seed"]
    given, allowed = parse(argv, "import", ["SRC", "OUT"], names), [*PRESETS, OWN]
    flags = given.flags
    if "preset" not in flags:
        raise ConfigError(f"set import lacks --preset, the layout and pixel space; allowed: {', '.join(allowed)}.")
    if flags["preset"] not in allowed:
        raise ConfigError(choice("--preset", flags["preset"], allowed))
    place = fresh(given.plain[1])
    if flags["preset"] == OWN:
        told = [name for name in flags if name != "preset"]
        if told:
            raise ConfigError(f"--{told[0]} does not go with --preset {OWN}: an export says all that itself.")
        made = own.read(given.plain[0])
    else:
        options = {
            "preset": flags["preset"], "card": flags.get("dataset"), "index": _whole("index", flags),
            "class_names": _classes(flags["classes"]) if "classes" in flags else None, "train": flags.get("data.train"),
            "constants": _constants(flags.get("mean"), flags.get("std")), "method": flags.get("method"),
            "seed": _whole("seed", flags),
        }  # fmt: skip
        try:
            made = import_set(given.plain[0], **options)
        except DataError as error:
            raise DataError(f"{error}{own.recognised(given.plain[0])}") from None
    print(made.save(place))
    n, h, w, d = made.images.shape
    kept = storage.told(storage.components(made))
    print(f"{n} images {h}x{w}x{d}, {made.space}; {len(made.class_names)} classes; {kept}.")
    labels = stored.told(made, place)
    if labels:
        print(f"stored labels: {labels}.")
    source = made.meta.get("source")
    _say(source.get("notes") or [] if isinstance(source, dict) else [])
    return 0


def _whole(name: str, flags: dict[str, str]) -> int | None:
    text = flags.get(name)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"--{name} = {text!r} is no whole number; allowed: 0, 1, 2, ...")
    return None if text is None else int(text)


def _constants(mean: str | None, std: str | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if (mean is None) != (std is None):
        raise ConfigError(f"--{'std' if std is None else 'mean'} is missing; allowed: --mean and --std, or neither.")
    if mean is None or std is None:
        return None
    try:
        means, stds = (tuple(float(part) for part in text.split(",")) for text in (mean, std))
    except ValueError as error:
        told = f"--mean {mean} --std {std}: {error}; allowed: a number for each channel, as 0.5,0.5,0.5."
        raise ConfigError(told) from None
    return means, stds


def _classes(file: str) -> list[str]:
    """The class names of a file: a line each, or a JSON list."""
    path = Path(file)
    if not path.is_file():
        raise DataError(f"--classes = {file!r} is no file; allowed: a file with a line for each class, in label order.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if text.lstrip()[:1] in ("[", "{") else [line.strip() for line in text.splitlines()]
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"--classes = {file!r} is no list of class names: {error}.") from None
    names = _by_number(names, file) if isinstance(names, dict) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"--classes = {file!r}: a JSON list of other things than text; allowed: class names.")
    return [name for name in names if name]


def _by_number(listed: dict[str, object], file: str) -> list[str]:
    """The names of ``{"0": ["n01440764", "tench"], ...}`` (the first of each), ``{"0": NAME}`` or ``{NAME: 0}``."""
    count = len(listed)
    if listed and all(type(value) is int for value in listed.values()):
        listed = {str(number): name for name, number in listed.items()}
    absent = next((i for i in range(count) if str(i) not in listed), None)
    if absent is not None or not listed:
        what = f"has {count} entries, none of them of number {absent}" if listed else "is empty"
        raise DataError(f'--classes = {file!r}: the JSON object {what}; allowed: "0": NAME, "1": NAME, ... or a list.')
    found = [listed[str(i)] for i in range(len(listed))]
    names = [value[0] if isinstance(value, list) and value else value for value in found]
    odd = next((i for i, name in enumerate(names) if not isinstance(name, str) or not name.strip()), None)
    if odd is not None:
        raise DataError(f"--classes = {file!r}: number {odd} is {found[odd]!r:.60}; allowed: a name, or [WNID, NAME].")
    return [str(name).strip() for name in names]


def _import_help() -> str:
    from ddjax.data.cards import CARDS
    from ddjax.exchange.presets import PRESETS

    lines = [f"      {name:<12}{preset.about}" for name, preset in PRESETS.items()]
    lines.append(f"      {OWN:<12}what `ddjax set export` wrote")
    return IMPORT.format(presets="\n".join(lines), cards=", ".join(CARDS))


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], Callable[[], str]]] = {
    "show": (_show, lambda: SHOW),
    "check": (_check, lambda: CHECK),
    "convert": (_convert, lambda: CONVERT),
    "import": (_import, _import_help),
    "export": (_export, lambda: EXPORT),
}


def main(argv: Sequence[str]) -> int:
    """``ddjax set COMMAND ...``; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        raise ConfigError(choice("set: command", argv[0], COMMANDS))
    command, told = COMMANDS[argv[0]]
    if "-h" in argv or "--help" in argv:
        print(told())
        return 0
    return command(argv[1:])
