"""Rewrite the files of a tokenizer so that older versions of transformers and tokenizers load it."""

import json
import math
from pathlib import Path
from typing import Any

GENERIC_CLASS = "PreTrainedTokenizerFast"
RENAMED_CLASSES = ("TokenizersBackend", "PythonBackend")
"""Names of generic classes that transformers 4 does not know; transformers 5 knows the old one too."""
NEW_KEYS = ("backend", "is_local")


def make_tokenizer_portable(folder: Path, max_length: int | None) -> None:
    """Rewrite the tokenizer in `folder`, whose ids do not change; `max_length` is the context of its model, if any.

    Raises:
        ValueError: If a file is not as tokenizers and transformers write it.
    """
    config_file, tokenizer_file = folder / "tokenizer_config.json", folder / "tokenizer.json"
    config = _read_object(config_file)
    config_file.write_text(json.dumps(_adapt_config(config, max_length), indent=2, ensure_ascii=False))
    content = _read_object(tokenizer_file)
    model = content.get("model")
    if isinstance(model, dict) and (merges := _join_merges(model.get("merges"))):
        model["merges"] = merges
        tokenizer_file.write_text(json.dumps(content, indent=2, ensure_ascii=False))


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no JSON object")
    return content


def _adapt_config(config: dict[str, Any], max_length: int | None) -> dict[str, Any]:
    """Use the names of transformers 4, which transformers 5 reads too."""
    adapted = {key: value for key, value in config.items() if key not in NEW_KEYS}
    if adapted.get("tokenizer_class") in (None, *RENAMED_CLASSES):
        adapted["tokenizer_class"] = GENERIC_CLASS
    if isinstance(adapted.get("extra_special_tokens"), list):  # transformers 4 has a mapping under this name
        adapted["additional_special_tokens"] = adapted.pop("extra_special_tokens")
    if max_length is not None:
        adapted["model_max_length"] = min(max_length, adapted.get("model_max_length") or math.inf)
    return adapted


def _join_merges(merges: Any) -> list[str] | None:
    """Return the merges of a BPE as tokenizers before 0.20 reads them, "a b"; None if they are so or have spaces."""
    if not merges or not all(isinstance(pair, list) and not any(" " in part for part in pair) for pair in merges):
        return None
    return [" ".join(pair) for pair in merges]
