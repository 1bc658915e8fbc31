"""Using a trained model: text from prompts."""

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.complete import generate, stream
from bedplate.generate.constrain import Constraint, Grammar
from bedplate.generate.engine import Engine, Request, Token, Update
from bedplate.generate.sample import Sampling
from bedplate.generate.speculative import Speculation
from bedplate.generate.text import Generation

__all__ = [
    "Beams",
    "Constraint",
    "Engine",
    "Generation",
    "Grammar",
    "Request",
    "Sampling",
    "Speculation",
    "Token",
    "Update",
    "beam_search",
    "generate",
    "stream",
]
