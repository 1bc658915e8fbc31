"""Tokenizers: text to ids and back."""

from bedplate.data.tokenize.folder import load_tokenizer
from bedplate.data.tokenize.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
