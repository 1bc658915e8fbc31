"""bedplate: the foundation-model canon as working, fast, verified software."""

import os

# Before torch starts its threads: spinning OpenMP workers make a step on a busy machine 4 to 10 times slower.
# A very short spin (some 10 microseconds) keeps that, and spares decoding a sleep and a wake-up per layer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Import `load` on first use, so that `import bedplate` stays free of torch."""
    if name == "load":
        from bedplate.language_model import load

        return load
    raise AttributeError(f"module 'bedplate' has no attribute {name!r}")
