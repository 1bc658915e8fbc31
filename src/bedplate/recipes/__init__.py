"""What to train and how, as Python functions that return a `Recipe`. `bedplate train gpt2.pydocs` names one of them."""

from bedplate.recipes.recipe import Recipe, find_recipe, list_recipes
from bedplate.recipes.run import load_run
from bedplate.recipes.text import Text

__all__ = ["Recipe", "Text", "find_recipe", "list_recipes", "load_run"]
