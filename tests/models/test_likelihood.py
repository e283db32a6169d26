"""Log-likelihoods of sentences against one forward pass per token, and against minicons."""

import math
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForMaskedLM

from harness.models import is_causal
from harness.models.gpt import GPT
from harness.models.likelihood import SentenceLikelihood
from harness.models.ltg_bert import LTGBert

VOCABULARY, START, END, MASK = 60, 2, 3, 4
POSITIONS = 24
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@cache
def make_models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    gpt2 = GPT2Config(
        vocab_size=VOCABULARY, n_positions=POSITIONS, n_layer=2, n_embd=32, n_head=2, bos_token_id=2, eos_token_id=2
    )
    sizes = {"vocab_size": VOCABULARY, "positions": POSITIONS, "layers": 2, "width": 32, "heads": 2, "dropout": 0.1}
    bert = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS + 2}
    return {
        "our GPT": GPT(**sizes).eval(),
        "GPT-2": GPT2LMHeadModel(gpt2).eval(),
        "LTG-BERT": LTGBert(**sizes, hidden=64).eval(),
        "BERT": BertForMaskedLM(BertConfig(**bert)).eval(),
        "RoBERTa": RobertaForMaskedLM(RobertaConfig(**bert, pad_token_id=1)).eval(),
    }


CAUSAL, MASKED = ["our GPT", "GPT-2"], ["LTG-BERT", "BERT", "RoBERTa"]


@pytest.fixture(scope="module")
def sentences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in (3, 9, 4, 1, 9, 3, 17, 9)]


def make_likelihood(name: str, batch_tokens: int = 4096) -> SentenceLikelihood:
    if name in MASKED:
        return SentenceLikelihood(make_models()[name], (START,), (END,), MASK, batch_tokens)
    return SentenceLikelihood(make_models()[name], (START,), batch_tokens=batch_tokens)


@torch.no_grad()
def reference_likelihood(name: str, sentence: list[int]) -> float:
    """Score one token at a time, by definition."""
    total = 0.0
    for at, token in enumerate(sentence):
        tokens, place = [START, *sentence[:at]], at
        if name in MASKED:
            tokens, place = [START, *sentence[:at], MASK, *sentence[at + 1 :], END], at + 1
        logits = make_models()[name](input_ids=torch.tensor([tokens])).logits[0, place]
        total += logits.double().log_softmax(0)[token].item()
    return total


@pytest.mark.parametrize("name", [*CAUSAL, *MASKED])
def test_likelihood_matches_one_forward_pass_per_token(name: str, sentences) -> None:
    expected = [reference_likelihood(name, sentence) for sentence in sentences]
    assert make_likelihood(name)(sentences).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["our GPT", "LTG-BERT"])
@pytest.mark.parametrize("batch_tokens", [1, 50])
def test_batch_size_does_not_change_scores(name: str, batch_tokens: int, sentences) -> None:
    whole = make_likelihood(name)(sentences)
    torch.testing.assert_close(make_likelihood(name, batch_tokens)(sentences), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["our GPT", "LTG-BERT"])
def test_progress_counts_tokens_and_model_is_unchanged(name: str, sentences) -> None:
    told: list[int] = []
    before = make_models()[name](input_ids=torch.tensor([sentences[1]])).logits
    make_likelihood(name, 50)(sentences, told.append)
    assert len(told) > 4
    assert sum(told) == sum(map(len, sentences))
    torch.testing.assert_close(make_models()[name](input_ids=torch.tensor([sentences[1]])).logits, before)


def test_prefix_and_suffix_are_context_only() -> None:
    uniform = GPT(vocab_size=VOCABULARY, positions=8, layers=1, width=8, heads=1, dropout=0.0)
    nn.init.zeros_(uniform.head.weight)
    assert SentenceLikelihood(uniform, (START, END))([[7, 8, 9]]).item() == pytest.approx(
        -3 * math.log(VOCABULARY), rel=1e-6
    )
    shifted = SentenceLikelihood(make_models()["BERT"], (END,), (START,), MASK)
    assert shifted([[7, 8, 9]]).item() != make_likelihood("BERT")([[7, 8, 9]]).item()


def test_is_causal() -> None:
    assert {name for name, model in make_models().items() if not is_causal(model)} == set(MASKED)


def test_invalid_sentences_and_settings() -> None:
    with pytest.raises(ValueError, match=r"takes 25 tokens, more than the model's 24 positions; leave it out or use"):
        make_likelihood("our GPT")([[7] * 24])
    with pytest.raises(ValueError, match="has no tokens"):
        make_likelihood("our GPT")([[7], []])
    with pytest.raises(ValueError, match="batch_tokens=0 must be at least 1"):
        make_likelihood("our GPT", 0)
    with pytest.raises(ValueError, match="a causal model needs a token before the sentence"):
        SentenceLikelihood(make_models()["our GPT"], ())
    assert make_likelihood("our GPT")([]).tolist() == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("minicons") is None, reason="minicons is not installed: pip install '.[eval]'")
@pytest.mark.parametrize("name", ["GPT-2", "BERT"])
def test_likelihood_matches_minicons(name: str, tmp_path) -> None:
    from minicons import scorer
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = [f"w{number}" for number in range(VOCABULARY - 5)]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    if name == "BERT":
        ends = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", **ends)
    tokenizer.batch_encode_plus = tokenizer  # minicons calls what transformers 5 has dropped
    generator = torch.Generator().manual_seed(3)
    sentences = [torch.randint(5, VOCABULARY, (2 + n % 12,), generator=generator).tolist() for n in range(60)]
    texts = [" ".join(words[token - 5] for token in sentence) for sentence in sentences]
    total = {"reduction": lambda scores: scores.sum().item()}
    if name == "BERT":
        theirs = scorer.MaskedLMScorer(make_models()[name], "cpu", tokenizer=tokenizer).sequence_score(texts, **total)
    else:
        theirs = scorer.IncrementalLMScorer(make_models()[name], "cpu", tokenizer=tokenizer).sequence_score(
            texts, bos_token=True, **total
        )
    assert make_likelihood(name)(sentences).tolist() == pytest.approx(theirs, abs=1e-3)
