"""What each of two ranks does in `test_linear_biases_on_ranks.py`: BLOOM's layers split, its slopes with them."""

import torch

from bedplate.models.bloom import BLOOM, Config
from bedplate.train import ranks
from bedplate.train.parallel import Parallel, Work

if __name__ == "__main__":
    with ranks.joined():
        torch.manual_seed(0)
        model = BLOOM(Config(vocab_size=50, context_length=16, dim=24, num_layers=2, num_heads=6)).double()
        ids = torch.randint(50, (2, 12))
        expected = model(ids).detach()
        work = Work(model, parallel=Parallel(strategy="tp"))
        actual = work.inside(lambda: model(ids))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
