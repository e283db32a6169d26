"""Faults and healthy trainings on other people's models, written before the checks that judge them.

Each says what its findings must name, whatever check makes them. None of them was used to choose a threshold; those
follow from the rounding of the data type and from standard errors.
"""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.preflight import EvalResult, PreflightReport, RequestedSettings, TrainingData, TrainingSetup, preflight
from tests.preflight.strangers import (
    BOS,
    EOS,
    FIRST,
    IGNORED,
    PAD,
    VOCAB,
    Encoder,
    Fields2d,
    Gru,
    Numbers,
    Qwen,
    Roberta,
    Segmentation,
    Vision,
    Wrapper,
    pad_rows,
    use_scaler,
    warm_up_and_decay,
)

FAULTS: dict[str, tuple[Callable[[], TrainingSetup], str]] = {}
HEALTHY: dict[str, Callable[[], TrainingSetup]] = {}


def fault(words: str) -> Callable[[Any], Any]:
    """Register a faulty training; a failing finding or a warning must match `words`."""

    def register(make: Callable[[], TrainingSetup]) -> Callable[[], TrainingSetup]:
        FAULTS[make.__name__] = (make, words)
        return make

    return register


def healthy(make: Callable[[], TrainingSetup]) -> Callable[[], TrainingSetup]:
    HEALTHY[make.__name__] = make
    return make


# ---------------------------------------------------------------------- faults: labels, loss and output
@fault("twice|the token 2 ahead")
def labels_are_next_tokens_for_a_model_that_shifts() -> TrainingSetup:
    training = Qwen()
    plain = training.collate

    def collate(rows: Any) -> Any:
        batch = plain(rows)
        batch["labels"] = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        return batch

    training.collate = collate
    return training.make_setup()


@fault("sigmoid|probabilit")
def sigmoid_in_the_model_and_in_the_loss() -> TrainingSetup:
    class Twice(Segmentation):
        def make_model(self) -> nn.Module:
            return nn.Sequential(*super().make_model(), nn.Sigmoid())

    return Twice().make_setup()


@fault("softmax|probabilit")
def softmax_in_an_image_classifier() -> TrainingSetup:
    class Twice(Vision):
        def make_model(self) -> nn.Module:
            return nn.Sequential(*super().make_model(), nn.Softmax(-1))

    return Twice().make_setup()


@fault("shape|broadcast")
def column_of_targets_against_flat_output() -> TrainingSetup:
    class Column(Numbers):
        is_column = True

    return Column().make_setup()


@fault("sum")
def loss_is_summed_over_tokens() -> TrainingSetup:
    class Summed(Gru):
        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            return F.cross_entropy(
                model(batch["x"]).flatten(0, 1), batch["y"].flatten(), ignore_index=-1, reduction="sum"
            )

    return Summed().make_setup()


# ---------------------------------------------------------------------- faults: rows, padding and batches
@fault("row|example")
def encoder_without_batch_first() -> TrainingSetup:
    class Mixed(Encoder):
        batch_first = False

        def collate(self, rows: Any) -> Any:
            return super().collate([row[:8] for row in rows])

    return Mixed().make_setup()


@fault("row|example|later tokens")
def gru_without_batch_first() -> TrainingSetup:
    class Mixed(Gru):
        batch_first = False

    return Mixed().make_setup()


@fault("padding")
def classifier_averages_over_padding() -> TrainingSetup:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = (
                nn.Embedding(VOCAB, 32),
                nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)),
            )

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
            return F.cross_entropy(self.head(self.embed(input_ids).mean(1)), labels)

    class Averaged(Roberta):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return Model()

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            return model(**batch)

    return Averaged().make_setup()


@fault("same batch|identical")
def loader_is_reseeded_for_each_batch() -> TrainingSetup:
    training = Segmentation()
    training.make_batches = lambda: [training.collate(training.examples[:8]) for _ in range(4)]
    return training.make_setup()


@fault("class|label")
def table_sorted_by_class() -> TrainingSetup:
    training = Vision()
    training.examples.sort(key=lambda example: int(example[1]))
    return training.make_setup()


@fault("last token|EOS|end")
def end_of_text_is_padding_and_therefore_never_scored() -> TrainingSetup:
    training = Qwen()
    plain = training.collate

    def collate(rows: Any) -> Any:
        batch = plain(rows)
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == EOS, IGNORED)
        return batch

    training.collate = collate
    return training.make_setup()


@fault("twice|first token")
def template_and_tokenizer_both_add_bos() -> TrainingSetup:
    training = Qwen()
    training.examples = [[BOS, *row] for row in training.examples]
    return training.make_setup()


@fault("finite|nan")
def some_inputs_are_nan() -> TrainingSetup:
    training = Numbers()
    training.examples[20][0][3] = math.nan
    return training.make_setup()


# ---------------------------------------------------------------------- faults: the step and the optimizer
class Accumulating(Vision):
    """Two micro-batches per step, whose losses are `scale` times the mean."""

    scale = 0.5

    def set_optimizer(self, parameters: Any) -> None:
        self.optimizer = torch.optim.SGD(parameters, lr=self.LR, momentum=0.9)
        self.scheduler = warm_up_and_decay(self.optimizer, self.TOTAL)

    def step(self, batch: Any) -> None:
        self.model.train()
        for part in zip(*(part.chunk(2) for part in batch), strict=True):
            (self.scale * self.loss_fn(self.model, part)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()


@fault("x2|2 times|micro-batch")
def sum_over_micro_batches() -> TrainingSetup:
    training = Accumulating()
    training.scale = 1.0
    return training.make_setup()


@fault("previous step|zero_grad|clear")
def another_model_is_cleared() -> TrainingSetup:
    training = Vision()
    other = copy.deepcopy(training.model)

    def step(batch: Any) -> None:
        training.model.train()
        other.zero_grad()
        training.loss_fn(training.model, batch).backward()
        training.optimizer.step()
        training.scheduler.step()

    training.step = step
    return training.make_setup()


@fault("no gradient|without gradients|none")
def loss_is_detached_before_backward() -> TrainingSetup:
    training = Numbers()

    def step(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        training.loss_fn(training.model, batch).detach().requires_grad_().backward()
        training.optimizer.step()
        training.scheduler.step()

    training.step = step
    return training.make_setup()


@fault("gradient")
def step_ignores_its_batch() -> TrainingSetup:
    training = Vision()
    first, plain = training.make_batches()[0], training.step
    training.step = lambda batch: plain(first)
    return training.make_setup()


@fault("unscal|scaler|clip")
def values_clipped_before_unscaling() -> TrainingSetup:
    training = Segmentation()
    use_scaler(training, False, lambda parameters: nn.utils.clip_grad_value_(parameters, 0.1))
    return training.make_setup()


@fault("round|precision|bfloat16")
def small_lr_on_bfloat16_weights() -> TrainingSetup:
    class Small(Qwen):
        LR = 1e-5

        def make_model(self) -> nn.Module:
            return super().make_model().bfloat16()

    return Small().make_setup()


@fault("not in the model")
def optimizer_of_a_copy() -> TrainingSetup:
    training = Vision()
    training.set_optimizer(copy.deepcopy(training.model).parameters())
    return training.make_setup()


@fault("twice|two optimizers|2 optimizers")
def tied_weight_in_two_optimizers() -> TrainingSetup:
    training = Gru()
    training.model.head.weight = training.model.embed.weight
    one = torch.optim.AdamW(training.model.parameters(), lr=training.LR)
    two = torch.optim.SGD(training.model.head.parameters(), lr=training.LR)
    training.scheduler = [warm_up_and_decay(one, 200), warm_up_and_decay(two, 200)]

    def step(batch: Any) -> None:
        training.model.train()
        training.model.zero_grad()
        training.loss_fn(training.model, batch).backward()
        one.step(), two.step(), [scheduler.step() for scheduler in training.scheduler]

    training.step, training.fields = step, {"optimizer": [one, two], "load": None}
    return training.make_setup()


@fault("decay")
def batch_norm_is_decayed_while_biases_are_spared() -> TrainingSetup:
    training = Vision()
    named = list(training.model.named_parameters())
    groups = [
        {"params": [weight for name, weight in named if name.endswith("bias") == is_bias], "weight_decay": decay}
        for is_bias, decay in ((True, 0.0), (False, 0.1))
    ]
    training.set_optimizer(groups)
    return training.make_setup()


@fault("schedule|scheduler")
def schedule_restarts_on_resume() -> TrainingSetup:
    training = Numbers()
    for batch in training.make_batches():
        training.step(batch)
    training.scheduler = warm_up_and_decay(training.optimizer, training.TOTAL)
    training.fields["requested"] = RequestedSettings(
        lr=training.LR, warmup_steps=10, total_steps=200, completed_steps=100, batch_size=8
    )
    return training.make_setup()


@fault("climb|rises|again")
def cosine_over_epochs_is_advanced_by_steps() -> TrainingSetup:
    training = Vision()
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=training.LR)
    warmup = torch.optim.lr_scheduler.LinearLR(training.optimizer, 0.1, total_iters=10)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, 60)
    training.scheduler = torch.optim.lr_scheduler.SequentialLR(training.optimizer, [warmup, cosine], [10])
    return training.make_setup()


# ---------------------------------------------------------------------- faults: evaluation and saving
@fault("dropout|training mode")
def evaluation_with_dropout() -> TrainingSetup:
    class Careless(Gru):
        @torch.no_grad()
        def evaluate(self, batch_size: int) -> EvalResult:
            return self.score(batch_size)

    return Careless().make_setup()


@fault("chang|moves|modif")
def evaluation_leaves_rounded_weights() -> TrainingSetup:
    training = Numbers()
    plain = training.evaluate

    def evaluate(batch_size: int) -> EvalResult:
        training.model.half().float()
        return plain(batch_size)

    training.evaluate = evaluate
    return training.make_setup()


@fault("running_mean|differ|missing")
def buffers_are_not_saved() -> TrainingSetup:
    training = Vision()

    def load(folder: Any) -> nn.Module:
        model = training.make_model()
        saved = {name: value for name, value in torch.load(folder / "model.pt").items() if "running" not in name}
        model.load_state_dict(saved, strict=False)
        return model

    def save(folder: Any) -> None:
        torch.save(dict(training.model.named_parameters()), folder / "model.pt")

    training.load, training.save = load, save
    for batch in training.make_batches():
        training.step(batch)
    return training.make_setup()


# ---------------------------------------------------------------------- healthy
@healthy
def rotary_decoder_in_bfloat16() -> TrainingSetup:
    class Reduced(Qwen):
        def make_model(self) -> nn.Module:
            return super().make_model().bfloat16()

    return Reduced().make_setup()


@healthy
def rotary_decoder_without_loop() -> TrainingSetup:
    """The example of the documentation: a schedule whose LR starts at 0, and no step of one's own."""
    training = Qwen()
    return TrainingSetup(
        training.model,
        training.make_batches(),
        training.loss_fn,
        optimizer=training.optimizer,
        scheduler=training.scheduler,
        requested=RequestedSettings(lr=3e-3, warmup_steps=10, total_steps=200, batch_size=8),
    )


@healthy
def first_padding_ends_the_text() -> TrainingSetup:
    """The text ends with its first padding token, which is scored."""
    training = Qwen()
    training.examples = [row[:-1] for row in training.examples]
    plain = training.collate

    def collate(rows: Any) -> Any:
        batch = plain([*rows, rows[0] + [FIRST] * 30])
        batch = {name: value[:-1] for name, value in batch.items()}
        ends = batch["attention_mask"].sum(1, keepdim=True)
        batch["labels"] = batch["labels"].scatter(1, ends, batch["input_ids"].gather(1, ends))
        return batch

    training.collate, training.loss_fn = collate, lambda model, batch: model(**batch).loss
    training.fields["evaluate"] = None
    return training.make_setup()


@healthy
def decoder_without_attention_mask() -> TrainingSetup:
    from transformers import OPTConfig, OPTForCausalLM

    class Opt(Qwen):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "dropout": 0.1}
            return OPTForCausalLM(
                OPTConfig(vocab_size=VOCAB, max_position_embeddings=64, word_embed_proj_dim=32, **sizes)
            )

        def collate(self, rows: Any) -> Any:
            ids = pad_rows(rows, PAD)
            return {"input_ids": ids, "labels": ids.masked_fill(ids == PAD, IGNORED)}

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            return model(**batch).loss

    return Opt().make_setup()


@healthy
def sentence_classifier() -> TrainingSetup:
    return Roberta().make_setup()


@healthy
def encoder_of_torch() -> TrainingSetup:
    return Encoder().make_setup()


@healthy
def recurrent_with_ignored_labels() -> TrainingSetup:
    training = Gru()
    training.examples = [(x, y.clone()) for x, y in training.examples]
    for at, (_, labels) in enumerate(training.examples):
        labels[: at % 5] = -1
    return training.make_setup()


@healthy
def segmentation_with_weighted_classes() -> TrainingSetup:
    class Weighted(Segmentation):
        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], pos_weight=torch.tensor(3.0))

    return Weighted().make_setup()


@healthy
def variational_autoencoder() -> TrainingSetup:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(192, 16), nn.Linear(8, 192)

        def forward(self, x: Any) -> Any:
            mean, log_variance = self.encode(x.flatten(1)).chunk(2, -1)
            noise = torch.randn_like(mean) if self.training else 0
            return self.decode(mean + noise * (log_variance / 2).exp()).view_as(x), mean, log_variance

    class Vae(Vision):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return Model()

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            decoded, mean, log_variance = model(batch[0])
            divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
            return ((decoded - batch[0]).square().flatten(1).sum(1) + divergence).mean()

    return Vae().make_setup()


@healthy
def fields_with_reduce_on_plateau() -> TrainingSetup:
    training = Fields2d()
    training.optimizer = torch.optim.Adam(training.model.parameters(), lr=training.LR)
    training.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(training.optimizer, patience=1)

    def step(batch: Any) -> None:
        training.optimizer.zero_grad()
        training.loss_fn(training.model, batch).backward()
        training.optimizer.step()

    training.step, training.warmup = step, 0
    return training.make_setup()


@healthy
def wrapped_model_with_mixup() -> TrainingSetup:
    class Mixed(Vision):
        def make_model(self) -> nn.Module:
            return Wrapper(super().make_model())

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            x, y = batch
            share = float(torch.distributions.Beta(0.4, 0.4).sample()) if model.training else 1.0
            order = torch.randperm(len(x))
            output = model(share * x + (1 - share) * x[order])
            return share * F.cross_entropy(output, y) + (1 - share) * F.cross_entropy(output, y[order])

    return Mixed().make_setup()


@healthy
def micro_batches_and_clipped_values() -> TrainingSetup:
    training = Accumulating()

    def step(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        for part in zip(*(part.chunk(2) for part in batch), strict=True):
            (0.5 * training.loss_fn(training.model, part)).backward()
        nn.utils.clip_grad_value_(training.model.parameters(), 0.01)
        training.optimizer.step()
        training.scheduler.step()

    training.step = step
    return training.make_setup()


@healthy
def warm_restarts() -> TrainingSetup:
    training = Vision()
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=training.LR, momentum=0.9)
    training.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(training.optimizer, 50)
    training.warmup = 0
    return training.make_setup()


@healthy
def two_optimizers_and_two_schedules() -> TrainingSetup:
    training = Qwen()
    wide = [weight for weight in training.model.parameters() if weight.ndim > 1]
    narrow = [weight for weight in training.model.parameters() if weight.ndim == 1]
    one, two = torch.optim.SGD(wide, lr=0.05, momentum=0.9), torch.optim.AdamW(narrow, lr=1e-3)
    schedules = [warm_up_and_decay(one, 200), warm_up_and_decay(two, 200)]

    def step(batch: Any) -> None:
        training.model.train()
        training.model.zero_grad()
        training.loss_fn(training.model, batch).backward()
        one.step(), two.step(), [scheduler.step() for scheduler in schedules]

    lr = {"group0": 0.05, "group1": 1e-3}
    training.step, training.scheduler = step, schedules
    training.fields |= {
        "optimizer": [one, two],
        "requested": RequestedSettings(lr=lr, warmup_steps=10, total_steps=200, batch_size=8),
    }
    return training.make_setup()


@healthy
def supervised_contrastive_with_few_classes_per_batch() -> TrainingSetup:
    """Each batch holds four images of each of two classes, as metric learning samples them."""

    class Contrastive(Vision):
        def make_batches(self) -> list[Any]:
            by_class = [[example for example in self.examples if example[1] == label] for label in range(6)]
            pairs = ((0, 1), (2, 3), (4, 5), (0, 3))
            return [self.collate([*by_class[a][:4], *by_class[b][4:8]]) for a, b in pairs]

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            output = F.normalize(model(batch[0]), dim=1)
            scores = (output @ output.T / 0.5).fill_diagonal_(-1e9)
            same = (batch[1][:, None] == batch[1]).float().fill_diagonal_(0)
            return -(scores.log_softmax(1) * same).sum(1).div(same.sum(1).clamp(min=1)).mean()

    training = Contrastive()
    training.fields["evaluate"] = None
    return training.make_setup()


@healthy
def translation_with_target_mask() -> TrainingSetup:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(VOCAB, 32), nn.Linear(32, VOCAB)
            self.body = nn.Transformer(32, 2, 1, 1, 64, 0.0, batch_first=True)

        def forward(self, source: Any, target: Any) -> Any:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.head(self.body(self.embed(source), self.embed(target), tgt_mask=mask, tgt_is_causal=True))

    class Translation(Qwen):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return Model()

        def collate(self, rows: Any) -> Any:
            return pad_rows([row[:8] for row in rows], PAD), pad_rows([row[2:9] for row in rows], PAD)

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            source, target = batch
            return F.cross_entropy(
                model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
            )

        def count_scored(self, batch: Any) -> int:
            return int((batch[1][:, 1:] != PAD).sum())

    return Translation().make_setup()


@healthy
def packed_documents_with_segment_ids() -> TrainingSetup:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.head = nn.Embedding(VOCAB, 32), nn.Linear(32, 96), nn.Linear(32, VOCAB)

        def forward(self, input_ids: Any, segment_ids: Any) -> Any:
            hidden = self.embed(input_ids)
            query, key, value = self.qkv(hidden).chunk(3, -1)
            mask = (segment_ids[:, :, None] == segment_ids[:, None]).tril()
            return self.head(hidden + F.scaled_dot_product_attention(query, key, value, mask))

    class Packed(Qwen):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return Model()

        def collate(self, rows: Any) -> Any:
            halves = [(row, other) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
            ids = torch.tensor([(one + other)[:18] for one, other in halves])
            segments = torch.tensor([([0] * len(one) + [1] * len(other))[:18] for one, other in halves])
            starts = F.pad(segments.diff(dim=1), (1, 0), value=1).bool()
            return {"input_ids": ids, "segment_ids": segments, "labels": ids.masked_fill(starts, IGNORED)}

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            logits = model(batch["input_ids"], batch["segment_ids"])[:, :-1]
            return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    return Packed().make_setup()


@healthy
def physics_with_lbfgs_on_the_whole_set() -> TrainingSetup:
    training = Numbers()
    training.optimizer = torch.optim.LBFGS(training.model.parameters(), lr=0.5, max_iter=5)
    training.BATCH = 160

    def step(batch: Any) -> None:
        def closure() -> Any:
            training.optimizer.zero_grad()
            loss = training.loss_fn(training.model, batch)
            loss.backward()
            return loss

        training.optimizer.step(closure)

    training.step = step
    training.make_batches = lambda: [training.collate(training.examples) for _ in range(2)]
    training.fields |= {
        "scheduler": None,
        "requested": RequestedSettings(lr=0.5, total_steps=200, batch_size=160),
        "data": TrainingData(train=[x.numpy().tobytes() for x, _ in training.examples]),
    }
    return training.make_setup()


@healthy
def float16_with_scaler() -> TrainingSetup:
    training = Segmentation()
    use_scaler(training, True, lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.5))
    return training.make_setup()


@healthy
def evaluation_without_batch_size() -> TrainingSetup:
    training = Vision()
    training.fields["evaluate"] = lambda: training.evaluate(16).loss
    return training.make_setup()


@healthy
def tagger_of_tokens() -> TrainingSetup:
    from transformers import BertConfig, BertForTokenClassification

    class Tagger(Roberta):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
            return BertForTokenClassification(
                BertConfig(vocab_size=VOCAB, max_position_embeddings=64, num_labels=5, **sizes)
            )

        def collate(self, rows: Any) -> Any:
            batch = super().collate(rows)
            labels = (batch["input_ids"] % 5).masked_fill(batch["attention_mask"] == 0, IGNORED)
            return batch | {"labels": labels}

        def count_scored(self, batch: Any) -> int:
            return int((batch["labels"] != IGNORED).sum())

    return Tagger().make_setup()


@healthy
def rare_class() -> TrainingSetup:
    training = Vision()
    training.examples = [
        (x, y.clamp(max=1) if at % 16 == 3 else torch.tensor(0)) for at, (x, y) in enumerate(training.examples)
    ]
    return training.make_setup()


@healthy
def prefix_of_the_prompt_sees_both_sides() -> TrainingSetup:
    """A decoder whose prompt, six tokens that are not scored, is attended to in both directions."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.head = nn.Embedding(VOCAB, 32), nn.Linear(32, 96), nn.Linear(32, VOCAB)

        def forward(self, input_ids: Any) -> Any:
            hidden, width = self.embed(input_ids), input_ids.shape[1]
            query, key, value = self.qkv(hidden).chunk(3, -1)
            mask = torch.ones(width, width, dtype=torch.bool).tril()
            mask[:, :6] = True
            return self.head(hidden + F.scaled_dot_product_attention(query, key, value, mask))

    class Prefix(Qwen):
        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return Model()

        def collate(self, rows: Any) -> Any:
            ids = torch.tensor([row[:10] for row in rows])
            return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(10) < 6, IGNORED)}

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            logits = model(batch["input_ids"])[:, :-1]
            return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    return Prefix().make_setup()


@healthy
def huge_inputs_and_three_targets() -> TrainingSetup:
    class Three(Numbers):
        def make_examples(self, count: int, seed: int) -> list[Any]:
            return [(1e4 * x, y.expand(3).clone()) for x, y in super().make_examples(count, seed)]

        def make_model(self) -> nn.Module:
            torch.manual_seed(0)
            return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 3))

        def loss_fn(self, model: Any, batch: Any) -> torch.Tensor:
            return F.huber_loss(model(batch[0]), batch[1])

    return Three().make_setup()


# ---------------------------------------------------------------------- what must hold
def describe(report: PreflightReport) -> str:
    return "\n".join(f"{check}: {finding}" for check, finding in report if finding.level in ("fail", "warn"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_a_stranger_is_named(name: str) -> None:
    make, words = FAULTS[name]
    report = preflight(make())
    named = [
        f"{finding.title}: {finding.observed} {finding.hint}"
        for _, finding in report
        if finding.level in ("fail", "warn")
    ]
    assert any(re.search(words, text, re.IGNORECASE) for text in named), describe(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_training_of_a_stranger_does_not_fail(name: str) -> None:
    report = preflight(HEALTHY[name]())
    assert not report.failed_checks, describe(report)
    assert not [finding for _, finding in report if finding.title == "the check"], list(report)
