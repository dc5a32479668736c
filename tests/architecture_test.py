"""The rules of the design's "Never", as far as a machine sees them: imports, sizes, names, words.

Everything is read from the syntax tree; nothing of the package is imported. Each test gathers all
offences before it fails.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ddjax"
FILES = sorted(PACKAGE.rglob("*.py"))
OURS = sorted(path for folder in ("ddjax", "configs", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60
LONGER: dict[str, str] = {}  # "file" or "file:function" -> why it may be longer
BAD_NAMES = {"utils.py", "common.py", "helpers.py", "misc.py"}

KERNELS_MAY = {"jax", "numpy", "jaxtyping", "ddjax.types", "ddjax.kernels"}
KERNELS_MAY |= {"collections", "dataclasses", "functools", "itertools", "math", "typing"}
SELECT_MAY = {"sklearn", "warnings"}
ONLY_IN = {
    "flax": ("models/",),
    "orbax": ("checkpoint.py",),
    "matplotlib": ("report.py",),
    "PIL": ("data/", "report.py", "exchange/pixels.py"),  # these two write PNG, they read no picture
    "simplejpeg": ("data/",),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "pyarrow": ("data/", "exchange/hub.py", "exchange/own.py"),
    "tyro": ("config/",),
    "transformers": ("models/",),
    "torch": (),
    "torchvision": (),
    "tensorflow": (),
    "random": (),
}
BARRED = {  # room -> rooms that it does not know
    "models": "config data methods checkpoint log mesh train teachers launch report exchange",
    "data": "models methods checkpoint mesh train teachers launch report exchange",
    "methods": "config data models mesh checkpoint log files teachers launch report exchange",
    "exchange": "config methods models mesh checkpoint teachers distill evaluate judge launch report",
    "config": "mesh checkpoint distill teachers evaluate launch report",
    "distill.py": "methods config evaluate launch report",  # the loop knows no method's name
    "train.py": "methods config evaluate launch report",
}
METHODS_NEVER = {"time", "datetime", "logging", "pathlib", "os", "io", "json", "rich", "shutil"}
CODE_IN_DATA = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
NUMPY_MAY = {"Generator", "Philox", "SeedSequence", "default_rng", "get_state"}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    """The path as one says it: ``kernels/conv.py`` in the package, ``tests/…`` beside it."""
    inside = path.is_relative_to(PACKAGE)
    return path.relative_to(PACKAGE if inside else ROOT).as_posix()


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every dotted name that a file imports, at any depth, in any function."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}"}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(dotted: str, parents: Iterable[str]) -> bool:
    return any(dotted == p or dotted.startswith(f"{p}.") for p in parents)


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """Where, the dotted name as written, and the node, of every call."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield f"{name(path)}:{node.lineno}", ast.unparse(node.func), node


def none(offences: Iterable[str]) -> None:
    found = sorted(set(offences))
    assert not found, "\n" + "\n".join(found)


def room(path: Path) -> str:
    return name(path).partition("/")[0]


def test_the_walk_sees_the_package():
    assert {"types.py", "errors.py", "config/groups.py", "methods/base.py"} <= set(map(name, FILES))
    assert any(within(n, ["flax"]) for path in FILES for n in imports(path))
    assert {"tests/architecture_test.py", "configs/digits.py"} <= set(map(name, OURS))


def test_kernels_import_only_arithmetic_and_read_no_file():
    kernels = [path for path in FILES if room(path) == "kernels"]
    none(
        f"{name(path)} imports {n}"
        for path in kernels
        for n in imports(path) - {"ddjax"}
        if not within(n, KERNELS_MAY | (SELECT_MAY if path.name == "select.py" else set()))
    )
    files = re.compile(r"open|print|.*\.(open|read_text|read_bytes|write_text|load|save)")
    none(f"{at} {call}" for p in kernels for at, call, _ in calls(p) if files.fullmatch(call))


def test_libraries_stay_in_their_rooms():
    none(
        f"{name(path)} imports {n}; allowed in: {', '.join(rooms) or 'no file'}"
        for path in FILES
        for n in imports(path)
        for library, rooms in ONLY_IN.items()
        if within(n, [library]) and not name(path).startswith(rooms)
    )


def test_rooms_do_not_reach_into_each_other():
    none(
        f"{name(path)} imports {n}"
        for path in FILES
        for n in imports(path)
        if within(n, [f"ddjax.{other}" for other in BARRED.get(room(path), "").split()]) or n.startswith(".")
    )


def test_methods_know_no_clock_no_file_and_no_log():
    methods = [path for path in FILES if room(path) == "methods"]
    none(f"{name(p)} imports {n}" for p in methods for n in imports(p) if within(n, METHODS_NEVER))
    none(f"{at} {call}" for p in methods for at, call, _ in calls(p) if call in ("open", "print"))


def test_files_and_functions_are_small_and_well_named():
    none(f"{name(path)}: say what is in it" for path in OURS if path.name in BAD_NAMES)
    for path in OURS:
        if name(path).startswith("tests/"):
            assert path.name == "conftest.py" or path.name.endswith("_test.py"), name(path)
    sources = [path for path in OURS if not name(path).startswith("tests/")]
    sizes = {name(path): path.read_text().count("\n") for path in sources}
    none(f"{n}: {s} lines" for n, s in sizes.items() if s > MAX_FILE and n not in LONGER)
    functions = {
        f"{name(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    none(f"{n}: {s} lines" for n, s in functions.items() if s > MAX_FUNCTION and n not in LONGER)


def test_every_file_and_public_name_says_what_it_is():
    none(f"{name(p)}" for p in FILES if tree(p).body and not ast.get_docstring(tree(p)))
    none(
        f"{name(path)}: {node.name} has no docstring"
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    )


def test_randomness_comes_from_keys_alone():
    drawn = re.compile(r"(?:np|numpy)\.random\.(\w+)")
    for path in OURS:
        for at, call, node in calls(path):
            found = drawn.fullmatch(call)
            assert not found or found[1] in NUMPY_MAY, f"{at} {call}"
            assert node.args or not found or found[1] != "default_rng", f"{at} {call}() unseeded"
    none(
        f"{at} {call}"
        for path in FILES
        for at, call, node in calls(path)
        if name(path) != "keys.py"
        and (drawn.fullmatch(call) or call in ("jax.random.key", "jax.random.PRNGKey"))
        # a literal key is a placeholder of the right shape, from which nothing is drawn
        and not (node.args and isinstance(node.args[0], ast.Constant))
    )


def test_no_exception_is_passed_over():
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                at = f"{name(path)}:{node.lineno}"
                assert node.type is not None, f"{at} bare except"
                caught = ast.unparse(node.type)
                done = [s for s in node.body if not isinstance(s, ast.Pass)]
                done = [s for s in done if not ast.unparse(s).startswith(("'", '"', "..."))]
                assert done, f"{at} except {caught}: passed over"
                broad = {"Exception", "BaseException"} & set(re.findall(r"\w+", caught))
                raises = any(isinstance(s, ast.Raise) for s in ast.walk(node))
                uses = node.name and any(isinstance(s, ast.Name) and s.id == node.name for s in ast.walk(node))
                assert not broad or raises or uses, f"{at} except {caught}: the error is lost"
        assert "contextlib.suppress" not in imports(path), f"{name(path)} suppresses"
    none(at for p in FILES for at, call, _ in calls(p) if call.endswith("contextlib.suppress"))


def test_nothing_read_may_run_code():
    readers = {"data/unpickle.py"}  # the restricted reader, which admits arrays only
    none(
        f"{name(path)} imports {n}"
        for path in FILES
        for n in imports(path)
        if within(n, CODE_IN_DATA) and name(path) not in readers
    )
    for path in FILES:
        for at, call, node in calls(path):
            assert call not in ("eval", "exec"), f"{at} {call}"
            for word in node.keywords:
                value = getattr(word.value, "value", None)
                assert word.arg != "allow_pickle" or value is False, f"{at} allow_pickle"


def test_no_dispatch_by_a_name_from_the_configuration():
    for path in FILES:
        modules = {n.rpartition(".")[2] for n in imports(path)}
        for at, call, node in calls(path):
            assert call not in ("globals", "__import__"), f"{at} {call}"
            if call == "getattr" and isinstance(node.args[0], ast.Name):
                literal = isinstance(node.args[1], ast.Constant)
                assert literal or node.args[0].id not in modules, f"{at} getattr on a module"


def test_no_pmap_and_no_mesh_of_unknown_axes():
    for path in FILES:
        for at, call, node in calls(path):
            last = call.rpartition(".")[2]
            assert last not in ("pmap", "xmap"), f"{at} {call}"
            typed = any(word.arg == "axis_types" for word in node.keywords)
            assert last != "make_mesh" or typed, f"{at} make_mesh without axis_types"


def test_no_path_of_one_machine():
    pattern = re.compile(r"""["'\s](/home/|/root/|/Users/|/work/|C:\\)""")
    others = [path for path in OURS if path != Path(__file__).resolve()]
    none(name(path) for path in others if pattern.search(path.read_text()))
