"""Requests that no server should take, by what is wrong with them."""

BODY = 300_000  # bytes that the server takes
POISON = {
    "not JSON": b"{",
    "no body": b"",
    "not an object": b"[1]",
    "deep nesting": b'{"model": "gpt2-tiny", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "NaN bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": NaN}}',
    "infinite bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": 1e999}}',
    "biases by name": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"x": 1}}',
    "lone surrogate": b'{"model": "gpt2-tiny", "prompt": "\\ud800"}',
    "surrogate as name": b'{"model": "\\udfff", "prompt": "a"}',
    "surrogate as field": b'{"model": "gpt2-tiny", "prompt": "a", "\\udfff": 1}',
    "a path as name": b'{"model": "../../etc/passwd", "prompt": "a"}',
    "an endless number": b'{"model": "gpt2-tiny", "prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "a large seed": b'{"model": "gpt2-tiny", "prompt": "a", "seed": 99999999999999999999}',
    "a negative id": b'{"model": "gpt2-tiny", "prompt": [-1]}',
    "an unknown id": b'{"model": "gpt2-tiny", "prompt": [99999]}',
    "many stops": b'{"model": "gpt2-tiny", "prompt": "a", "stop": [' + b'"x",' * 50_000 + b'"x"]}',
    "an empty stop": b'{"model": "gpt2-tiny", "prompt": "a", "stop": ""}',
    "text as number": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": "5"}',
    "no tokens": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": 0}',
    "many choices": b'{"model": "gpt2-tiny", "prompt": "a", "n": 100000}',
    "a long prompt": b'{"model": "gpt2-tiny", "prompt": "' + b"word " * 9000 + b'"}',
    "a bad schema": b'{"model": "gpt2-tiny", "messages": [], "response_format": {"type": "json_schema"}}',
    "invalid UTF-8": b'{"model": "gpt2-tiny", "prompt": "\xff"}',
    "too large": b" " * (BODY + 1),
}
