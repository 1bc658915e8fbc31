"""How good translations are: BLEU (Papineni et al. 2002) as sacrebleu computes it, with its signature as receipt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bedplate.generate.beam import Beams, beam_search, gnmt
from bedplate.generate.complete import generate
from bedplate.generate.prompt import prompt_ids
from bedplate.generate.sample import Sampling

GROUP = 32  # sentences that are searched together
MORE = 50  # tokens that a translation may be longer than its source (Vaswani et al. 2017, section 6.1)


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """A corpus score from 0 to 100."""

    score: float
    brevity_penalty: float
    signature: str  # everything that decides the number, in sacrebleu's notation


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """Cased, with sacrebleu's own tokenizer (13a), one reference a sentence."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(score=result.score, brevity_penalty=result.bp, signature=str(metric.get_signature()))


def translate(
    model: Any, tokenizer: Any, sources: Sequence[str], *, width: int = 4, length_penalty: float = 0.6
) -> list[str]:
    """Translations by a beam search as in the Transformer's paper; a width of 1 takes the likeliest token each time."""
    if width == 1:
        longest = max(len(tokenizer.encode(source)) for source in sources)
        limit = min(longest + MORE, model.config.context_length - 1)
        found = generate(model, tokenizer, sources, max_new_tokens=limit, sampling=Sampling(temperature=0))
        return [each.text for each in found]
    ids = [prompt_ids(model, tokenizer, source, keep=0, truncate=False) for source in sources]
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    beams = Beams(width=width, length_penalty=length_penalty, penalty=gnmt)
    texts = [""] * len(ids)
    for first in range(0, len(order), GROUP):
        places = order[first : first + GROUP]
        limit = min(len(ids[places[-1]]) + MORE, model.config.context_length - 1)
        searches = beam_search(
            model, [ids[place] for place in places], max_new_tokens=limit, beams=beams,
            end_ids=[tokenizer.end_id], vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        for place, (best, *_) in zip(places, searches, strict=True):
            texts[place] = tokenizer.decode([each for each in best.ids if each != tokenizer.end_id])
    return texts
