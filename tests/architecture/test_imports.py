"""Imports point one way, heavy ones wait, and the reference libraries stay where things are compared."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from tests.architecture.tree import ROOT, SOURCE, imports, name_of, parse, room, sources

# Left may import right; never leftwards, and not sideways between rooms that share a place, unless SIDEWAYS says so.
ORDER = (
    "cli __main__ studio > commands > console show export > experiments > recipes serve bench verify language_model"
    " > evaluate > train retrieve > objectives adapt generate > models > weights data"
    " > nn > files > errors papers __init__"
)
RANK = {name: rank for rank, names in enumerate(ORDER.split(" > ")) for name in names.split()}
SIDEWAYS = {
    ("__main__", "cli"): "it is the other way to start the command line",
    ("language_model", "recipes"): "a run folder is opened by the recipe that made it",
    ("bench", "recipes"): "a recipe is planned before it runs",
    ("verify", "language_model"): "a target is whatever load opens",
    ("serve", "language_model"): "a target is whatever load opens",
}
# Downwards, but still not allowed: who needs these is handed them.
KEPT_APART = {("train", "objectives"), ("train", "models"), ("train", "generate"), ("objectives", "models")}
# A model uses another one only as a part of it, or is that one with fewer connections: user -> used.
COMPOSED: dict[str, set[str]] = {"gpt3": {"gpt2"}}

REFERENCES = {"transformers", "tiktoken", "diffusers", "peft", "trl", "timm", "gensim", "sentence_transformers"}
LIBRARY = {"torch", "numpy", "safetensors", "tokenizers", "jaxtyping"}  # may be imported where a module begins
PRINTING = {"rich"}  # the same in console.py, which commands import when they run
KERNELS = {"numba", "llvmlite"}  # the same in nn/fast/, which nn/linear.py imports at the first token
SERVING = {"fastapi", "starlette", "pydantic", "uvicorn"}  # the same in serve/, which its command imports
BY_NAME = {  # where a module may be found by its name
    "errors.py": "optional libraries",
    "models/__init__.py": "MODEL_TYPES",
    "recipes/recipe.py": "recipe names of the command line",
    "experiments/experiment.py": "paper names of the command line",
}
DISTRIBUTIONS = {
    "huggingface-hub": "huggingface_hub",
    "lm-eval": "lm_eval",
    "llama-cpp-python": "llama_cpp",
}  # where the name to install is not the name to import


def rooms_imported(path):
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "bedplate" and len(parts) > 1 and parts[1] in RANK:
            yield line, parts[1]


def required():
    """Libraries that are imported through errors.require."""
    calls = [node for path in sources() for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "require"]
    return {call.args[0].value.split(".")[0] for call in named}


def test_every_room_has_its_place_in_the_order():
    assert {room(path) for path in sources()} <= set(RANK)


# The package itself, __init__.py, imports on first use only: see test_help_needs_no_torch.
@pytest.mark.parametrize("path", sources()[1:], ids=name_of)
def test_imports_point_one_way(path):
    own = room(path)
    for line, other in rooms_imported(path):
        down = RANK[own] < RANK[other] and (own, other) not in KEPT_APART
        assert own == other or down or (own, other) in SIDEWAYS, f"{name_of(path)}:{line} {own} must not import {other}"


@pytest.mark.parametrize("path", sorted((SOURCE / "models").glob("*.py")), ids=name_of)
def test_models_import_each_other_only_by_composition(path):
    if path.stem == "__init__":
        return
    for line, name in imports(path):
        parts = name.split(".")
        if parts[:2] == ["bedplate", "models"]:
            allowed = COMPOSED.get(path.stem, set())
            assert parts[2] in allowed, f"{name_of(path)}:{line} imports {name}, which COMPOSED does not list"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_reference_libraries_are_only_compared_with(path):
    # verify has a row that compares with the reference library where it happens to be installed.
    if room(path) in {"bench", "verify"}:
        names = {name.split(".")[0] for _, name in imports(path, module_level=True)}
    else:
        names = {name.split(".")[0] for _, name in imports(path)}
    assert not names & REFERENCES


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    allowed = LIBRARY | set(sys.stdlib_module_names) | {"bedplate"}
    allowed |= {"console": PRINTING, "serve": SERVING}.get(room(path), set())
    allowed |= KERNELS if path.parent.name == "fast" else set()
    for line, name in imports(path, module_level=True):
        assert name.split(".")[0] in allowed, f"{name_of(path)}:{line} import {name} inside the function that needs it"


def test_the_command_line_begins_light():
    light = set(sys.stdlib_module_names)
    for path in (SOURCE / "cli.py", *(SOURCE / "commands").glob("*.py")):
        for line, name in imports(path, module_level=True):
            own = name.startswith(("bedplate.commands", "bedplate.errors", "bedplate.__version__"))
            assert own or name.split(".")[0] in light, f"{name_of(path)}:{line} import {name} inside the command"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_modules_are_found_by_name_in_few_places(path):
    dynamic = [name for _, name in imports(path) if name in {"importlib", "importlib.import_module"}]
    assert not dynamic or path.relative_to(SOURCE).as_posix() in BY_NAME


def test_dependencies_are_those_that_the_code_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    extras = ("data", "constrain", "wandb", "mlflow", "gguf", "llama", "eval")
    declared = sum((optional[extra] for extra in extras), project["dependencies"])
    names = {re.match(r"[\w-]+", line).group() for line in declared}
    imported = {name.split(".")[0] for path in sources() for _, name in imports(path)} | required()
    own = set(sys.stdlib_module_names) | REFERENCES | {"bedplate"}
    assert {DISTRIBUTIONS.get(name, name) for name in names} == imported - own


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_annotations_are_objects(path):
    assert "__future__.annotations" not in {name for _, name in imports(path)}  # would blind the shape checks


@pytest.mark.parametrize(
    "code",
    [
        "import bedplate",
        "import bedplate.papers",
        "import bedplate.cli, contextlib\nwith contextlib.suppress(SystemExit): bedplate.cli.main(['--help'])",
    ],
    ids=["import", "papers", "help"],
)
def test_help_needs_no_torch(code):
    heavy = "{'torch', 'numpy', 'tokenizers', 'matplotlib', 'pydantic', 'rich', 'huggingface_hub', 'tensorboard'}"
    check = f"\nimport sys\nloaded = {heavy} & set(sys.modules)\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True, text=True)
