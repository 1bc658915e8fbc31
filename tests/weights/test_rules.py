"""Rules that no model of their own tests, there and back."""

import torch

from bedplate.weights.rules import SplitPerHead


def test_rows_that_take_turns_for_each_head() -> None:
    """BLOOM's order (heads, 3, head_dim): for 2 heads of 4, rows 0-3 are the first head's queries, 4-7 its keys."""
    rule = SplitPerHead("h.*.qkv.weight", "blocks.*.{query,key,value}.weight", heads="num_heads", number=2)
    theirs = {"h.3.qkv.weight": torch.arange(24.0)[:, None].expand(-1, 8).clone(), "other": torch.zeros(1)}
    tensors = dict(theirs)
    ours = dict(rule.load(tensors))
    assert list(tensors) == ["other"]
    rows = {name: value[:, 0].tolist() for name, value in ours.items()}
    assert rows == {
        "blocks.3.query.weight": [0, 1, 2, 3, 12, 13, 14, 15],
        "blocks.3.key.weight": [4, 5, 6, 7, 16, 17, 18, 19],
        "blocks.3.value.weight": [8, 9, 10, 11, 20, 21, 22, 23],
    }
    ((name, back),) = rule.save(ours)
    assert name == "h.3.qkv.weight" and torch.equal(back, theirs[name]) and not ours
