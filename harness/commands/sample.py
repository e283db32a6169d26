"""python -m harness sample RUN "QUESTION: what does zip do?": text that the run's model writes after a prompt."""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice

import torch

from harness.config.errors import ConfigError
from harness.data.sources import format_qa_document
from harness.models import is_causal
from harness.models.sampling import generate_tokens
from harness.run.load import LoadedRun, load_recorded_run


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness sample", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or its MLflow run id")
    parser.add_argument("prompt", metavar="PROMPT", help="as it stands; a QUESTION: gets the ANSWER: line it lacks")
    parser.add_argument("--tokens", type=int, default=100, help="at most; it ends sooner where the text does")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    parser.add_argument("--top-k", type=int, default=50, help="draw among the likeliest so many; 0 for all")
    parser.add_argument("--count", type=int, default=1, help="how many texts")
    parser.add_argument("--seed", type=int, default=1337)
    args = parser.parse_args(arguments)
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 0), ("count", 1), ("seed", 0)):
        if not getattr(args, name) >= least:
            raise ConfigError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    return print_samples(load_recorded_run(args.run), args)


def print_samples(run: LoadedRun, args: argparse.Namespace) -> int:
    """Print `args.count` texts, the prompt and what the model writes after it, with a line between two."""
    if not is_causal(run.model):
        raise ConfigError(f"RUN: {run.folder} is of a model that sees what follows; only a causal one writes")
    prompt = format_prompt(args.prompt)
    if prompt != args.prompt:
        print(f"asked as in training: {prompt!r}", file=sys.stderr)
    tokenizer, generator = run.tokenizer, torch.Generator().manual_seed(args.seed)
    tokens = [tokenizer.eos_id, *tokenizer.encode([prompt])[0]]  # where every document of a training stream begins
    drawing = {"temperature": args.temperature, "top_k": args.top_k or None, "eos_id": tokenizer.eos_id}
    for number in range(args.count):
        written = list(islice(generate_tokens(run.model, tokens, generator=generator, **drawing), args.tokens))
        text = tokenizer.backend.decode([*tokens, *written])  # whole, for some tokenizers take a space off the front
        print(*(["---"] if number else []), text, sep="\n", flush=True)
    return 0


def format_prompt(prompt: str) -> str:
    """A QUESTION: in the words that data of questions and answers has around it; any other prompt as it is."""
    if not prompt.startswith("QUESTION:"):
        return prompt
    text = prompt.replace(r"\nANSWER:", "\nANSWER:")  # a shell's quotes leave \n as two characters
    question, _, answer = text.removeprefix("QUESTION:").partition("\nANSWER:")
    document = format_qa_document(question, answer)
    return document.prompt + document.text.rstrip()
