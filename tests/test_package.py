"""The package as a whole: its index, its import, its errors, its rules."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vivit_lab
from vivit_lab import errors

ROOT = Path(vivit_lab.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "vivit_lab.") if module.name != "vivit_lab.__main__"
)


def test_the_index_is_complete_sorted_and_true():
    assert sorted(vivit_lab.__all__) == sorted(set(vivit_lab.__all__))
    assert set(vivit_lab.__all__) - {"__version__"} == set(vivit_lab._HOME)
    for name in vivit_lab.__all__:
        value = getattr(vivit_lab, name)
        home = "_version" if name == "__version__" else vivit_lab._HOME[name]
        assert getattr(importlib.import_module(f"vivit_lab.{home}"), name) is value
        assert name in dir(vivit_lab)
    with pytest.raises(AttributeError, match="module 'vivit_lab' has no attribute 'VivitModle'"):
        vivit_lab.VivitModle  # noqa: B018


def test_type_checkers_see_the_same_index():
    seen = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            seen |= {name.asname: node.module.removeprefix("vivit_lab.") for name in node.names}
        elif isinstance(node, ast.Assign):
            assert set(ast.literal_eval(node.value)) == set(vivit_lab.__all__)
    assert seen == {**vivit_lab._HOME, "__version__": "_version"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_an_index_of_documented_names(name):
    module = importlib.import_module(name)
    if name in ("vivit_lab._version",) or not hasattr(module, "__all__"):
        assert module.__file__.endswith(("__init__.py", "_version.py"))  # packages hold a docstring only
        return
    assert len(set(module.__all__)) == len(module.__all__)  # the linter keeps them sorted
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public} has no docstring"


def test_importing_is_quick_and_pulls_in_nothing_heavy():
    code = (
        "import sys, vivit_lab; print([m for m in ('torch', 'av', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_methods_and_records_do_not_import_media_packages():
    code = (
        "import sys, vivit_lab.attribution.rollout, vivit_lab.attribution.raw, vivit_lab.families.vivit\n"
        "print([m for m in ('av', 'matplotlib', 'plotly', 'transformers', 'typer', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_error_tree_is_the_one_drawn_in_its_docstring():
    drawn = {}
    for line in errors.__doc__.splitlines():
        if "(" in line and "──" in line:
            name, base = line.split("──", 1)[1].strip().split(")")[0].split("(")
            drawn[name] = base
    for name, base in drawn.items():
        error = getattr(errors, name)
        assert base in {parent.__name__ for parent in error.__mro__}, name
        assert issubclass(error, errors.VivitLabError), name
    documented = {
        line.strip(" ├└│─").split("(")[0].split(" ")[0] for line in errors.__doc__.splitlines() if line.strip()
    }
    assert set(errors.__all__) <= documented


def test_tests_mirror_the_package():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders <= {path.name for path in (ROOT.parent / "tests").iterdir() if path.is_dir()}


def test_no_module_raises_a_bare_built_in():
    bare = {"ValueError", "RuntimeError", "TypeError", "KeyError", "Exception", "MemoryError", "ImportError"}
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                caught_at_once = path.name == "hub.py" and node.exc.func.id == "ValueError"
                allowed = path.name == "outputs.py" and node.exc.func.id == "KeyError"  # a mapping's own protocol
                assert node.exc.func.id not in bare or caught_at_once or allowed, f"{path}:{node.lineno}"
