"""Using a trained model: text from prompts."""

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.engine import Generation, generate, stream
from bedplate.generate.sample import Sampling

__all__ = ["Beams", "Generation", "Sampling", "beam_search", "generate", "stream"]
