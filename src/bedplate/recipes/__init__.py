"""What to train and how, as Python functions that return a `Recipe`. `bedplate train gpt2.pydocs` names one of them."""

from bedplate.recipes.prepare import load_run
from bedplate.recipes.recipe import Recipe, Text, find_recipe, list_recipes

__all__ = ["Recipe", "Text", "find_recipe", "list_recipes", "load_run"]
