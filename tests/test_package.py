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
from vivit_lab._index import names_in

ROOT = Path(vivit_lab.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "vivit_lab.") if module.name != "vivit_lab.__main__"
)


INDEXED = sorted(".".join(path.parent.relative_to(ROOT.parent).parts) for path in ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("package", INDEXED)
def test_the_index_is_complete_sorted_and_true(package):
    module, homes = importlib.import_module(package), names_in(package)
    assert module.__all__ == sorted(homes)
    for name, home in homes.items():
        value = getattr(module, name)
        if home != package:
            assert getattr(importlib.import_module(home), name) is value
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'VivitModle'"):
        module.VivitModle  # noqa: B018


def test_a_name_that_moved_says_where_it_is():
    with pytest.raises(AttributeError, match=r"no attribute 'sweep_heads'; it is vivit_lab\.bulk\.sweep_heads"):
        vivit_lab.sweep_heads  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'InputError'; it is vivit_lab\.errors\.InputError"):
        vivit_lab.InputError  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_an_index_of_documented_names(name):
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
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
