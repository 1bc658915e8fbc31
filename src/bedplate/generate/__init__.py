"""Using a trained model: text from prompts."""

from bedplate.generate.engine import Generation, generate, stream
from bedplate.generate.sample import Sampling

__all__ = ["Generation", "Sampling", "generate", "stream"]
