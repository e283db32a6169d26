"""Generate text with a run's model.

plateau sample RUN "QUESTION: what does zip do?"
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice

import torch

from harness.commands.arguments import CommandParser, add_run
from harness.core.errors import ConfigError
from harness.data.sources import format_qa_document
from harness.models import is_causal
from harness.models.sampling import generate_tokens
from harness.run.load import LoadedRun, load_recorded_run


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau sample", description=__doc__)
    add_run(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="used as is; a missing ANSWER: line is added to a QUESTION:")
    parser.add_argument("--tokens", type=int, default=100, help="maximum number of tokens (default: 100)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy decoding (default: 0.8)")
    parser.add_argument(
        "--top-k", type=int, default=50, help="sample from the K most likely, 0: from all (default: 50)"
    )
    parser.add_argument("--count", type=int, default=1, help="number of texts (default: 1)")
    parser.add_argument("--seed", type=int, default=1337)
    args = parser.parse_args(arguments)
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 0), ("count", 1), ("seed", 0)):
        if not getattr(args, name) >= least:
            raise ConfigError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    return print_samples(load_recorded_run(args.run, args.output_dir), args)


def print_samples(run: LoadedRun, args: argparse.Namespace) -> int:
    """Print `args.count` continuations of the prompt, separated by lines of dashes."""
    if not is_causal(run.model):
        raise ConfigError(f"RUN: {run.folder} is not a causal model; only causal models generate text")
    prompt = format_prompt(args.prompt)
    if prompt != args.prompt:
        print(f"prompt in the format of the training data: {prompt!r}", file=sys.stderr)
    tokenizer, generator = run.tokenizer, torch.Generator().manual_seed(args.seed)
    tokens = [tokenizer.eos_id, *tokenizer.encode([prompt])[0]]  # documents follow it in training
    options = {"temperature": args.temperature, "top_k": args.top_k or None, "eos_id": tokenizer.eos_id}
    for number in range(args.count):
        generated = list(islice(generate_tokens(run.model, tokens, generator=generator, **options), args.tokens))
        text = tokenizer.backend.decode([*tokens, *generated])  # together: some tokenizers strip a leading space
        print(*(["---"] if number else []), text, sep="\n", flush=True)
    return 0


def format_prompt(prompt: str) -> str:
    """Return a QUESTION: in the format of Q&A data, other prompts unchanged."""
    if not prompt.startswith("QUESTION:"):
        return prompt
    text = prompt.replace(r"\nANSWER:", "\nANSWER:")  # within shell quotes \n is two characters
    question, _, answer = text.removeprefix("QUESTION:").partition("\nANSWER:")
    document = format_qa_document(question, answer)
    return document.prompt + document.text.rstrip()
