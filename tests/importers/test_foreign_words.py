"""Logs in other languages."""

from pathlib import Path

import pytest

from tests.importers.text.test_labels import TRAIN, VAL, read_curves


@pytest.mark.parametrize(
    "line",
    [
        "第{n}轮，训练损失：{t}，验证损失：{v}",
        "轮次 {n} | 训练损失: {t} | 验证损失: {v} | 准确率: 0.9",
        "第 {n}/9 轮 训练集损失={t} 验证集损失={v}",
        "エポック {n}: 訓練損失 {t}, 検証損失 {v}",
        "에포크 {n}: 훈련 손실 {t}, 검증 손실 {v}",
        "Epoche {n}: Trainingsverlust {t}, Validierungsverlust {v}",
        "Epoche {n} Verlust {t} val_loss {v}",
        "Época {n}: pérdida = {t}, pérdida de validación = {v}",
        "époque {n} perte {t} perte de validation {v}",
        "Эпоха {n}: потери {t}, val loss {v}",
    ],
)
def test_words_of_other_languages_are_read(tmp_path: Path, line: str) -> None:
    assert read_curves(tmp_path, line) == {"train/loss": TRAIN, "val/loss": VAL}


def test_header_in_another_language_is_read(tmp_path: Path) -> None:
    curves = read_curves(tmp_path, "{n},{t},{v}", "轮次,训练损失,验证损失\n", "log.csv")
    assert curves == {"train/loss": TRAIN, "val/loss": VAL}


@pytest.mark.parametrize("line", ["轮次 {n} 准确率 {t}", "轮次 {n} 验证召回率 {t}"])
def test_other_measurements_are_no_losses(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"run\.log: no step and loss"):
        read_curves(tmp_path, line)
