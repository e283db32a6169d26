"""Words of other languages in logs, replaced by ours: `第3轮 损失 2.1`, `Epoche 3: Verlust 2,1`."""

import re

OURS = {
    "train loss": "训练集?损失 訓練損失 学習損失 훈련\\s?손실 학습\\s?손실 trainingsverlust "
    "p[ée]rdida\\sde\\sentrenamiento perte\\sd'entra[iî]nement perda\\sde\\streino perte_train",
    "val loss": "验证集?损失 検証損失 검증\\s?손실 validierungsverlust p[ée]rdida\\sde\\svalidaci[óo]n "
    "perte\\sde\\svalidation perda\\sde\\svalida[çc][ãa]o",
    "test loss": "测试集?损失 testverlust",
    "accuracy": "准确率 正确率 精度 正解率 정확도 genauigkeit pr[ée]cision precisi[óo]n точность",
    "average loss": "平均损失",
    "loss": "损失值 损失 損失 손실 verlust p[ée]rdida perte perda perdita потери потеря лосс",
    "learning rate": "学习率 学習率 학습률 lernrate",
    "epoch": "轮次 轮数 周期 轮 エポック 에포크 epoche epoca [ée]poque época эпоха",
    "step": "迭代次数 迭代 步数 步骤 步 ステップ 스텝 schritt paso passo étape etape шаг итерация",
    "train": "训练集? 訓練 훈련 обучение entrenamiento",
    "val": "验证集? 検証 검증 validierung валидация validaci[óo]n",
    "test": "测试集? 테스트",
}
SPACED = r"[a-z\u00c0-\u024f\u0400-\u04ff]"
"""Letters of languages that write spaces between words."""
GROUPS = list(OURS)
WORDS = re.compile(
    "|".join(
        "(" + "|".join(f"(?<!{SPACED}){word}(?!{SPACED})" for word in words.split()) + ")" for words in OURS.values()
    ),
    re.IGNORECASE,
)
ORDINAL = re.compile(r"第\s*(\d+(?:\s*/\s*\d+)?)\s*(?:个|次)?\s*(轮次|轮|周期|エポック|迭代|步|ステップ)")
LETTERS = re.compile(r"[\u00c0-\u024f\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


def translate_words(text: str) -> str:
    """Return a text with the words for losses, splits, steps and epochs in English."""
    if not text.isascii():
        text = ORDINAL.sub(lambda match: f"{match[2]} {match[1]} ", text)
    return WORDS.sub(_translate, text)


def has_foreign_letters(text: str) -> bool:
    """Return whether words of other languages may be in a text that is not ASCII."""
    return LETTERS.search(text) is not None


def _translate(match: re.Match[str]) -> str:
    ours = GROUPS[(match.lastindex or 1) - 1]
    return ours if match[0].isascii() else f" {ours} "
