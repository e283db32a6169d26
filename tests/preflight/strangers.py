"""Small trainings as other people write them: other models, batch layouts and loops than those of this project.

A case changes attributes of a training, or overrides a method, before it calls `make_setup()`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import EvalResult, LabeledTokens, RequestedSettings, TextFormat, TrainingSetup

VOCAB, PAD, BOS, EOS, FIRST = 48, 0, 1, 2, 4
IGNORED = -100


def make_sentences(count: int, seed: int, shortest: int = 8, longest: int = 20) -> list[list[int]]:
    """Return BOS, words of which each second one follows from the word before, and EOS."""
    generator = torch.Generator().manual_seed(seed)
    successor = FIRST + torch.randperm(VOCAB - FIRST, generator=torch.Generator().manual_seed(0))
    sentences = []
    for length in torch.randint(shortest, longest, (count,), generator=generator).tolist():
        words = torch.randint(FIRST, VOCAB, (length,), generator=generator)
        words = torch.where(torch.rand(length, generator=generator) < 0.5, words, words.roll(1))
        words[1::2] = successor[words[0 : 2 * (length // 2) : 2] - FIRST]
        sentences.append([BOS, *words.tolist(), EOS])
    return sentences


def pad_rows(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> Tensor:
    width = width or max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def warm_up_and_decay(optimizer: torch.optim.Optimizer, total: int, warmup: int = 10) -> Any:
    """The LR starts at 0, as in all schedules of transformers."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / warmup, max(0.0, (total - step) / (total - warmup)))
    )


class Stranger:
    """A training with AdamW, warm-up from 0 and a plain loop. Subclasses say what is trained."""

    LR, TOTAL, BATCH = 3e-3, 200, 8
    unit = "nats/row"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.examples, self.val = self.make_examples(160, 1), self.make_examples(48, 2)
        self.model = self.make_model()
        self.fields: dict[str, Any] = {}
        self.warmup = 10
        self.set_optimizer(self.model.parameters())

    def make_model(self) -> nn.Module:
        raise NotImplementedError

    def make_examples(self, count: int, seed: int) -> list[Any]:
        raise NotImplementedError

    def collate(self, rows: Sequence[Any]) -> Any:
        """Stack the parts of examples that are tuples of tensors."""
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        raise NotImplementedError

    def set_optimizer(self, parameters: Any) -> None:
        self.optimizer: Any = torch.optim.AdamW(parameters, lr=self.LR)
        self.scheduler: Any = warm_up_and_decay(self.optimizer, self.TOTAL)

    def step(self, batch: Any) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        self.loss_fn(self.model, batch).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()

    def count_scored(self, batch: Any) -> int:
        return len(next(iter(batch.values())) if hasattr(batch, "values") else batch[0])

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> EvalResult:
        self.model.eval()
        return self.score(batch_size)

    def score(self, batch_size: int) -> EvalResult:
        total, count = 0.0, 0
        for start in range(0, len(self.val), batch_size):
            batch = self.collate(self.val[start : start + batch_size])
            scored = self.count_scored(batch)
            total, count = total + self.loss_fn(self.model, batch).item() * scored, count + scored
        return EvalResult(total / count, count, self.unit)

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")

    def load(self, folder: Path) -> nn.Module:
        model = self.make_model()
        model.load_state_dict(torch.load(folder / "model.pt"))
        return model

    def make_batches(self) -> list[Any]:
        return [
            self.collate(self.examples[start : start + self.BATCH]) for start in range(0, 4 * self.BATCH, self.BATCH)
        ]

    def make_setup(self) -> TrainingSetup:
        fields: dict[str, Any] = {
            "requested": RequestedSettings(
                lr=self.LR, warmup_steps=self.warmup, total_steps=self.TOTAL, batch_size=self.BATCH, evals=4
            ),
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "train_step": self.step,
            "batch_size": self.BATCH,
            "evaluate": self.evaluate,
            "save": self.save,
            "load": self.load,
        }
        return TrainingSetup(self.model, self.make_batches(), self.loss_fn, **fields | self.fields)


class Qwen(Stranger):
    """A decoder of transformers with rotary positions; batches are BatchEncodings."""

    unit = "nats/token"

    def make_examples(self, count: int, seed: int) -> list[Any]:
        return make_sentences(count, seed)

    def make_model(self) -> nn.Module:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        tokens = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
        return Qwen2ForCausalLM(
            Qwen2Config(vocab_size=VOCAB, num_key_value_heads=1, max_position_embeddings=64, **sizes, **tokens)
        )

    def collate(self, rows: Sequence[Any]) -> Any:
        from transformers import BatchEncoding

        ids, mask = pad_rows(rows, PAD), pad_rows([[1] * len(row) for row in rows], 0)
        return BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)})

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return model(**batch.to("cpu")).loss

    def count_scored(self, batch: Any) -> int:
        return int((batch["labels"][:, 1:] != IGNORED).sum())


class Roberta(Stranger):
    """A classifier of sentences; dicts with an attention mask."""

    def make_examples(self, count: int, seed: int) -> list[Any]:
        return make_sentences(count, seed)

    def make_model(self) -> nn.Module:
        from transformers import RobertaConfig, RobertaForSequenceClassification

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        return RobertaForSequenceClassification(
            RobertaConfig(vocab_size=VOCAB, max_position_embeddings=64, pad_token_id=PAD, num_labels=4, **sizes)
        )

    def collate(self, rows: Sequence[Any]) -> Any:
        ids, mask = pad_rows(rows, PAD), pad_rows([[1] * len(row) for row in rows], 0)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row[1] % 4 for row in rows])}

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return model(**batch).loss


class Gru(Stranger):
    """A recurrent language model; dicts of x and y of fixed width, -1 is ignored."""

    unit, batch_first = "nats/token", True

    def make_examples(self, count: int, seed: int) -> list[Any]:
        stream = torch.tensor([token for row in make_sentences(4 * count, seed) for token in row])
        return [(stream[at : at + 12], stream[at + 1 : at + 13]) for at in range(0, 12 * count, 12)]

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        batch_first = self.batch_first

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.head = nn.Embedding(VOCAB, 32), nn.Linear(32, VOCAB)
                self.rnn, self.drop = nn.GRU(32, 32, batch_first=batch_first), nn.Dropout(0.1)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.drop(self.rnn(self.embed(x))[0]))

        return Model()

    def collate(self, rows: Sequence[Any]) -> Any:
        return dict(zip("xy", super().collate(rows), strict=True))

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten(), ignore_index=-1)

    def count_scored(self, batch: Any) -> int:
        return int((batch["y"] != -1).sum())

    def make_setup(self) -> TrainingSetup:
        text = TextFormat(
            read=lambda batch: LabeledTokens(batch["x"], batch["y"], torch.ones_like(batch["x"], dtype=torch.bool)),
            write=lambda tokens: {"x": tokens.inputs, "y": tokens.labels},
            logits=lambda model, batch: model(batch["x"]),
            label_shift=1,
            ignore_index=-1,
        )
        self.fields = {"text": text} | self.fields
        return super().make_setup()


class Encoder(Stranger):
    """torch's own TransformerEncoder over (ids, padding mask, class)."""

    batch_first = True

    def make_examples(self, count: int, seed: int) -> list[Any]:
        return make_sentences(count, seed)

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        batch_first = self.batch_first

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=batch_first)
                self.embed, self.head = nn.Embedding(VOCAB, 32), nn.Linear(32, 4)
                self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

            def forward(self, ids: Tensor, is_padding: Tensor) -> Tensor:
                hidden = self.encoder(
                    self.embed(ids), src_key_padding_mask=is_padding if batch_first else is_padding.mT
                )
                kept = (~is_padding)[..., None].float()
                return self.head((hidden * kept).sum(1) / kept.sum(1))

        return Model()

    def collate(self, rows: Sequence[Any]) -> Any:
        ids = pad_rows(rows, PAD)
        return ids, ids == PAD, torch.tensor([row[1] % 4 for row in rows])

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(*batch[:2]), batch[2])


class Segmentation(Stranger):
    """A convolutional network from images to a yes or no for each pixel."""

    def make_examples(self, count: int, seed: int) -> list[Any]:
        x = torch.randn(count, 2, 12, 12, generator=torch.Generator().manual_seed(seed))
        y = (F.avg_pool2d(x[:, :1], 3, 1, 1) > 0.1).float()
        return list(zip(x, y, strict=True))

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        hidden = [nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU()]
        return nn.Sequential(*hidden, nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 1))

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


class Vision(Stranger):
    """Images to classes, with batch norm and dropout."""

    def make_examples(self, count: int, seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(6, (count,), generator=generator)
        centers = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return list(zip(centers[y] + 0.7 * torch.randn(count, 3, 8, 8, generator=generator), y, strict=True))

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        body = [
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
        ]
        return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 6))

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


class Numbers(Stranger):
    """Regression of one number."""

    unit, is_column = "squared error", False

    def make_examples(self, count: int, seed: int) -> list[Any]:
        x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
        y = x[:, 0] * x[:, 1] + x[:, 2].sin()
        return list(zip(x, y[:, None] if self.is_column else y, strict=True))

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        return F.smooth_l1_loss(model(batch[0])[:, 0], batch[1])


class Fields2d(Stranger):
    """An operator between fields on a grid, with complex weights and a relative loss."""

    unit = "relative error"

    def make_examples(self, count: int, seed: int) -> list[Any]:
        x = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
        x = F.avg_pool2d(x, 3, 1, 1)
        return list(zip(x, x.roll(2, -1).sin() + 0.5 * x.roll(1, -2), strict=True))

    def make_model(self) -> nn.Module:
        torch.manual_seed(0)

        class Spectral(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up, self.down = nn.Conv2d(1, 12, 1), nn.Conv2d(12, 1, 1)
                self.weight = nn.Parameter(torch.randn(12, 12, 12, 5, dtype=torch.cfloat) / 12)

            def forward(self, x: Tensor) -> Tensor:
                hidden = self.up(x)
                waves = torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(hidden)[..., :5], self.weight)
                return self.down(F.gelu(torch.fft.irfft2(waves, s=x.shape[-2:]) + hidden))

        return Spectral()

    def loss_fn(self, model: Any, batch: Any) -> Tensor:
        error = (model(batch[0]) - batch[1]).flatten(1).norm(dim=1)
        return (error / batch[1].flatten(1).norm(dim=1)).mean()

    def make_setup(self) -> TrainingSetup:
        self.fields = {"zero_output_loss": 1.0} | self.fields
        return super().make_setup()


class Wrapper(nn.Module):
    """A wrapper with the model below it, such as DataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named)


def use_scaler(training: Stranger, is_unscaled_first: bool, clip: Callable[[Any], Any]) -> None:
    """Train in float16 with a gradient scaler."""
    scaler, plain = torch.amp.GradScaler("cpu", init_scale=2.0**12), training.loss_fn

    def loss_fn(model: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return plain(model, batch)

    def step(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        scaler.scale(loss_fn(training.model, batch)).backward()
        if is_unscaled_first:
            scaler.unscale_(training.optimizer)
        clip(training.model.parameters())
        scaler.step(training.optimizer)
        scaler.update()
        training.scheduler.step()

    training.loss_fn, training.step = loss_fn, step  # type: ignore[method-assign]
    training.fields["extra_state"] = [scaler]


__all__ = [name for name in dir() if not name.startswith("__")]
