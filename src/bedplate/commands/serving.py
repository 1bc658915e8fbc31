"""Commands that serve: serve."""

import argparse
import json
from pathlib import Path

from bedplate.commands.options import Command, above_zero, add_weights, positive


def serve(options: argparse.Namespace) -> int:
    """Serve models over HTTP in OpenAI's wire format, until Ctrl-C or SIGTERM."""
    import torch

    from bedplate.nn.linear import kernels
    from bedplate.serve.app import Service
    from bedplate.serve.run import open_models, read_keys, serve, take_port
    from bedplate.serve.texts import Limits

    keys = read_keys(options.api_keys) if options.api_keys else []
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    with take_port(options.host, options.port) as listener:
        shape = {"slots": options.slots, "queue_length": options.queue}
        models = open_models(options.targets, **shape, dtype=dtype, weights=options.weights)
        limits = Limits(max_tokens=options.max_tokens, seconds=options.timeout)
        service = Service(models, limits=limits, keys=keys, largest_body=options.max_body)
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        held = f", {options.weights} weights" if options.weights else ""
        held += ", compiled kernels" if kernels() else ""
        chosen = f"{options.precision}{held}, {torch.get_num_threads()} threads, {options.slots} slots"
        print(f"Serving {', '.join(models)} at {address} ({chosen}, {options.queue} may wait)")
        for name, served in models.items():
            if served.template.plain:
                print(f"{name} has no chat template: it completes texts, and has not been taught to answer")
        example = json.dumps({"model": next(iter(models)), "prompt": "The open function", "max_tokens": 40})
        print(f"Try: curl {address}/v1/completions -H 'Content-Type: application/json' -d '{example}'", flush=True)
        serve(service, listener, drain_seconds=options.drain)
    print("Stopped.")
    return 0


def register(command: Command) -> None:
    """Add this command and its options."""
    default = "(default: %(default)s)"
    one = command(serve)
    one.add_argument("targets", nargs="+", metavar="model", help="runs, folders, shipped names or hub ids")
    one.add_argument("--host", default="127.0.0.1", help=f"0.0.0.0 lets other machines in {default}")
    one.add_argument("--port", type=int, default=8000, metavar="N", help=f"0 = any free one {default}")
    one.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", metavar="P", help="fp32 (default) or bf16"
    )
    add_weights(one)
    one.add_argument("--slots", type=positive, default=8, metavar="N", help=f"requests at a time, a model {default}")
    one.add_argument("--queue", type=int, default=256, metavar="N", help=f"requests that may wait, a model {default}")
    one.add_argument("--max-tokens", type=positive, default=4096, metavar="N", help=f"of a request {default}")
    one.add_argument(
        "--timeout", type=above_zero, default=600, metavar="S", help=f"seconds a request may take {default}"
    )
    one.add_argument(
        "--max-body", type=positive, default=2**20, metavar="N", help=f"bytes a request may have {default}"
    )
    one.add_argument("--api-keys", type=Path, metavar="FILE", help="only for who sends one of these keys, one a line")
    one.add_argument(
        "--drain", type=above_zero, default=30, metavar="S", help=f"seconds to finish after SIGTERM {default}"
    )
