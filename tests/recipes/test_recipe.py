"""Settings as keys: every leaf can be changed, is checked, and is offered when misspelled."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import UserError
from bedplate.models import build
from bedplate.recipes import find_recipe, list_recipes
from bedplate.recipes.recipe import FIXED, Recipe, folder_of, parse_overrides, settings_of, with_settings

RECIPES = sorted(list_recipes())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_described_and_has_few_keys(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name and list_recipes()[name].endswith(".")
    assert 1 <= len(settings_of(recipe)) <= 25
    assert not set(settings_of(recipe)) & set(FIXED)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_model_that_exists(name: str) -> None:
    import torch

    with torch.device("meta"):
        assert build(find_recipe(name).model).config == find_recipe(name).model


@pytest.mark.parametrize("name", RECIPES)
def test_settings_come_back_whole_through_json_and_through_text(name: str) -> None:
    recipe = find_recipe(name, {"steps": 7, "optimizer.lr": 0.5, "average": 0.5})
    settings = settings_of(recipe)
    assert with_settings(find_recipe(name), json.loads(json.dumps(settings))) == recipe
    words = [f"{key}={value}" for key, value in settings.items()]
    assert with_settings(find_recipe(name), parse_overrides(words)) == recipe


@given(
    steps=st.integers(1, 10**9),
    lr=st.floats(1e-9, 10, allow_nan=False),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    isolate=st.booleans(),
    corpus=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_any_value_comes_back(steps: int, lr: float, betas: tuple[float, float], isolate: bool, corpus: str) -> None:
    values: dict[str, Any] = {
        "steps": steps, "optimizer.lr": lr, "optimizer.betas": betas, "data.isolate": isolate, "data.corpus": corpus,
    }  # fmt: skip
    by_value = find_recipe("gpt2.quickstart", values)
    by_text = find_recipe("gpt2.quickstart", parse_overrides([f"{key}={value}" for key, value in values.items()]))
    assert by_value == by_text
    assert {key: settings_of(by_value)[key] for key in values} == values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "12", 12),
        ("optimizer.lr", "1e-3", 1e-3),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.betas", "0.8,0.9", (0.8, 0.9)),
        ("optimizer.betas", "(0.8, 1e-1)", (0.8, 0.1)),
        ("optimizer.betas", "0,0.5", (0.0, 0.5)),
        ("data.isolate", "true", True),
        ("data.isolate", "False", False),
        ("data.corpus", "a=b/12", "a=b/12"),
        ("data.corpus", "12", "12"),
        ("precision", "bf16", "bf16"),
    ],
)
def test_text_is_read_by_the_type_of_its_key(key: str, text: str, value: object) -> None:
    changed = settings_of(find_recipe("gpt2.pydocs", parse_overrides([f"{key}={text}"])))
    assert changed[key] == value and type(changed[key]) is type(value)
    others = settings_of(find_recipe("gpt2.pydocs"))
    assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in others.items() if k != key}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stepz", "3", "did you mean 'steps'"),
        ("optimizer.learning_rate", "3", "did you mean 'optimizer.lr'"),
        ("optimizer.rl", "3", "did you mean 'optimizer.lr'"),
        ("lr", "3", "optimizer.lr"),
        ("zzzz", "3", "choose from: average"),
        ("name", "x", "no key 'name'"),
        ("objective", "x", "no key 'objective'"),
        ("optimizer", "x", "no key 'optimizer'"),
        ("model.norm_eps", "1e-6", "fixed by the paper"),
        ("steps", "many", "whole number"),
        ("steps", "1.5", "whole number"),
        ("steps", "1e3", "whole number"),
        ("steps", "true", "whole number"),
        ("steps", "", "whole number"),
        ("steps", None, "whole number"),
        ("steps", "__import__('os')", "whole number"),
        ("optimizer.lr", "fast", "a number"),
        ("optimizer.lr", "0.1,0.2", "a number"),
        ("optimizer.lr", "nan", "a number"),
        ("optimizer.betas", "0.9", "2 numbers"),
        ("optimizer.betas", "0.9,0.95,0.99", "2 numbers"),
        ("optimizer.betas", "0.9,b", "2 numbers"),
        ("data.isolate", "yes", "true or false"),
        ("data.isolate", 1, "true or false"),
        ("data.corpus", 5, "data.corpus=5"),
        ("steps", "0", "from 1 up"),
        ("micro_batch_size", "-1", "from 1 up"),
        ("precision", "fp16", "did you mean 'bf16'"),
        ("precision", "half", "choose from: bf16, fp32"),
        ("model.num_heads", "5", "num_heads"),
        ("model.activation", "gelu", "fixed by the paper"),
        ("model.dropout", "1.0", "dropout"),
        ("seed", "-1", "seed=-1"),
        ("seed", str(2**63), "2**63"),
        ("average", "1.0", "below 1"),
        ("objective.z_loss", "-1", "from 0 up"),
        ("objective.label_smoothing", "1", "below 1"),
        ("optimizer.lr", "0", "above 0"),
        ("optimizer.lr", "1e999", "above 0"),
        ("optimizer.betas", "0.9,1.0", "up to, but not, 1"),
        ("optimizer.clip", "0", "above 0"),
        ("optimizer.weight_decay", "-0.1", "from 0 up"),
        ("schedule.warmup_steps", "-1", "from 0 up"),
        ("schedule.final_fraction", "1.5", "from 0 to 1"),
    ],
)
def test_what_is_wrong_is_named_with_a_way_out(key: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        find_recipe("gpt2.pydocs", {key: value})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "offered"),
    [("gpt2.pydoc", "gpt2.pydocs"), ("gpt2", "gpt2."), ("pydocs", ".pydocs"), ("", "bert.classify")],
)
def test_an_unknown_recipe(name: str, offered: str) -> None:
    with pytest.raises(UserError, match="there is no recipe") as caught:
        find_recipe(name)
    assert offered in caught.value.fix


def test_a_word_without_a_value() -> None:
    with pytest.raises(UserError, match="'steps' is not a setting; write key=value"):
        parse_overrides(["optimizer.lr=1", "steps"])


def test_runs_do_not_share_a_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe: Recipe = find_recipe("gpt2.tiny")
    for expected in ("runs/gpt2.tiny", "runs/gpt2.tiny-2", "runs/gpt2.tiny-3"):
        assert folder_of(recipe).as_posix() == expected
        folder_of(recipe).mkdir(parents=True)
