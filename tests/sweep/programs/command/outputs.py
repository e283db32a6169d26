"""Outputs of made-up programs, with the metrics that are in them, and those that are not."""

MNIST = (
    "Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.300039\nTrain Epoch: 1 [640/60000 (1%)]\tLoss: 2.213470\n"
    "\nTest set: Average loss: 0.0512, Accuracy: 9830/10000 (98%)\n\n"
    "Train Epoch: 2 [0/60000 (0%)]\tLoss: 0.120039\n"
    "\nTest set: Average loss: 0.0412, Accuracy: 9912/10000 (99%)\n\n"
)
KERAS = (
    "Epoch 1/5\n"
    " 50/100 ━━━━━━━━━━ 1s 30ms/step - accuracy: 0.70 - loss: 0.81\r100/100 ━━━━━━━━━━━━━━━━━━━━ 3s 30ms/step"
    " - accuracy: 0.80 - loss: 0.63 - val_accuracy: 0.91 - val_loss: 0.44\n"
    "Epoch 2/5\n"
    "100/100 ━━━━━━━━━━━━━━━━━━━━ 3s 30ms/step - accuracy: 0.90 - loss: 0.43 - val_accuracy: 0.85 -"
    " val_loss: 0.34\n"
)
TRAINER = (
    "{'loss': 2.95, 'grad_norm': 1.8, 'learning_rate': 4.8e-05, 'epoch': 0.5}\n"
    "{'eval_loss': 2.81, 'eval_accuracy': 0.61, 'eval_runtime': 3.1, 'epoch': 1.0}\n"
    "{'loss': 2.55, 'grad_norm': 1.8, 'learning_rate': 2e-05, 'epoch': 1.5}\n"
    "{'eval_loss': 2.85, 'eval_accuracy': 0.64, 'eval_runtime': 3.1, 'epoch': 2.0}\n"
    "{'train_runtime': 81.5, 'train_samples_per_second': 9.1, 'train_steps_per_second': 0.6, 'train_loss':"
    " 2.661, 'epoch': 2.0}\n"
)
TRAINER_BARS = (
    "Map: 100%|██████████| 500/500 [00:01<00:00, 400 examples/s]\n  0%|          | 0/300 [00:00<?, ?it/s]"
    "\r 33%|███▎      | 100/300 [00:41<01:22,  2.43it/s]{'loss': '3.112', 'grad_norm': '0.9', 'epoch': '1'}\n"
    "  0%|          | 0/10 [00:00<?, ?it/s]\r100%|██████████| 10/10 [00:04<00:00,  2.4it/s]\n"
    "{'eval_loss': '2.953', 'eval_runtime': '1.2', 'epoch': '1'}\n"
    "\r100%|██████████| 300/300 [02:03<00:00,  2.43it/s]{'loss': '2.745', 'grad_norm': '0.8', 'epoch': '3'}\n"
    "100%|██████████| 10/10 [00:04<00:00,  2.4it/s]\n{'eval_loss': '2.853', 'eval_runtime': '1.2', 'epoch': '3'}\n"
)
LIGHTNING = (
    "Epoch 0: 100%|██████████| 50/50 [00:01<00:00, 40.1it/s, v_num=3, train_loss=0.71, val_loss=0.80, val_acc=0.6]\n"
    "Epoch 1: 100%|██████████| 50/50 [00:01<00:00, 40.1it/s, v_num=3, train_loss=0.51, val_loss=0.70, val_acc=0.7]\n"
    "┏━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓\n┃   Test metric    ┃   DataLoader 0   ┃\n"
    "┡━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩\n"
    "│     test_acc     │ 0.65100002262604 │\n│    test_loss     │     0.7554       │\n"
    "└──────────────────┴──────────────────┘\n"
)
FASTAI = (
    "epoch     train_loss  valid_loss  accuracy  time\n"
    "0         0.489001    0.412002    0.831      00:05\n"
    "1         0.389001    0.312002    0.851      00:05\n"
)
CSV = "epoch,train_loss,val_loss,f1\n0,0.5,0.6,0.30\n1,0.4,0.65,0.44\n2,0.3,0.7,0.40\n"
NANOCHAT = (
    "step 00010/00200 (5%) | loss: 5.02 | lrm: 1.0\nStep 00010 | Validation bpb: 1.74\n"
    "step 00020/00200 | loss: 4.9 | lrm: 1.0\nStep 00020 | Validation bpb: 1.70\n"
)
SPLITS = (
    "Epoch 1/4\ntrain loss 0.5 acc 0.80\nval loss 0.6 acc 0.70\nEpoch 2/4\ntrain loss 0.4 acc 0.85\n"
    "val loss 0.5 acc 0.75\n"
)
HEADINGS = "Training:\nloss: 0.3\nacc: 0.9\nValidation:\nloss: 0.4\nacc: 0.8\n"
PRETTY = '{\n  "val": {"acc": 0.9, "loss": 0.2},\n  "test": {\n    "acc": 0.8\n  }\n}\n'
PRETTY_TABLE = "+----+----+\n| split | f1 |\n+----+----+\n| val | 0.91 |\n| test | 0.89 |\n+----+----+\n"
SKLEARN = (
    "              precision    recall  f1-score   support\n\n           0       0.90      0.80      0.85       100\n\n"
    "    accuracy                           0.88       200\n   macro avg       0.87      0.86      0.86       200\n"
)
JSON_LINES = (
    '{"step": 10, "total_steps": 40, "metrics": {"acc": 0.5}}\n'
    '{"step": 20, "total_steps": 40, "metrics": {"acc": 0.7}}\n'
)
FAIRSEQ = (
    "| epoch 001 | valid on 'valid' subset | loss 5.1 | ppl 34.3 | num_updates 100\n"
    "| epoch 002 | valid on 'valid' subset | loss 4.1 | ppl 17.15 | num_updates 200\n"
)

STEPS_IN_EPOCHS = "epoch 1/2 step 50/100 val_loss 0.5\nepoch 2/2 step 50/100 val_loss 0.4\n"
STEPS_OF_RUN = "epoch 1/2 step 50/200 val_loss 0.5\nepoch 2/2 step 150/200 val_loss 0.4\n"

BRACKETS = "Loss [4, 100](epoch, minibatch):  3.97\nLoss [4, 200](epoch, minibatch):  3.58\n"
MEGATRON = (
    " iteration      100/     500 | consumed samples:  6400 | lm loss: 8.1E+00 | grad norm: 1.7 |\n"
    " validation loss at iteration 100 | lm loss value: 8.01E+00 | lm loss PPL: 3.03E+03 |\n"
    " iteration      200/     500 | consumed samples: 12800 | lm loss: 7.5E+00 | grad norm: 1.7 |\n"
    " validation loss at iteration 200 | lm loss value: 7.48E+00 | lm loss PPL: 1.78E+03 |\n"
)
IMAGENET = (
    "Epoch: [0][  0/500]\tTime  3.1\tLoss 6.9 (6.9)\tAcc@1   0.0 (0.0)\n"
    "Test: [ 0/50]\tTime  3.1\tLoss 1.0 (1.0)\tAcc@1  80.0 (80.0)\n"
    "Test: [40/50]\tTime  0.3\tLoss 1.2 (1.05)\tAcc@1  70.0 (75.1)\n * Acc@1 75.3 Acc@5 92.1\n"
)
YOLO = (
    "epoch,train/box_loss,metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss\n"
    "1,1.5,0.5,0.35,1.3,1.2\n2,1.2,0.6,0.47,1.1,0.9\n"
)

QUICKSTART = (
    "loss: 2.301911  [   64/60000]\nloss: 2.291500  [ 6464/60000]\nloss: 2.2  [   64/60000]\n"
    "Test Error: \n Accuracy: 44.5%, Avg loss: 2.15 \n"
)
TRANSFER = (
    "Epoch 0/24\n----------\ntrain Loss: 0.6582 Acc: 0.6475\nval Loss: 0.2361 Acc: 0.9085\n\n"
    "Epoch 1/24\n----------\ntrain Loss: 0.5 Acc: 0.7\nval Loss: 0.3 Acc: 0.88\n\nBest val Acc: 0.94\n"
)
BASELINES = (
    "----------------------------\n| rollout/        |          |\n|    ep_rew_mean  | 22.8     |\n"
    "| time/           |          |\n|    fps          | 1200     |\n----------------------------\n"
)
LAPS = "100/200 loss 0.8\n200/200 loss 0.7\n100/200 loss 0.6\n"

ECHOED_CONFIG = (
    "eval_interval = 250 # keep frequent\neval_iters = 200\nlog_interval = 10 # not too often\n"
    "batch_size = 64\nblock_size = 256 # context of up to 256 previous characters\n"
    "learning_rate = 1e-3 # with small networks\nmax_iters = 5000\nmin_lr = 1e-4 # learning_rate / 10 usually\n"
    "beta2 = 0.99\nOverriding: eval_iters = 3\nOverriding: batch_size = 4\nOverriding: max_iters = 40\n"
    "num decayed tensors: 6, with 16,512 parameters\n"
)
STEPS = "".join(
    f"step {step}: train loss {2 - step / 40}, val loss {3 - step / 40}\niter {step}: loss 1.5, time 4ms\n"
    for step in (0, 20, 40)
)
CONFIGS = {
    "source of the config": (ECHOED_CONFIG, 1.0),
    "yaml": (
        "model:\n  n_layer: 6\noptim:\n  lr: 0.001  # peak / 10\n  eval_steps: 500\nmax_steps: 40\nepoch: 9\n",
        1.0,
    ),
    "arguments": ("Namespace(lr=0.1, eval_iters=200, max_iters=40)\n", None),
    "arguments in lines": ("TrainingArguments(\neval_steps=500,\nlearning_rate=5e-05,\nmax_steps=40,\n)\n", 1.0),
    "object": ('{"lr": 0.1, "eval_steps": 200, "max_steps": 40, "seed": 3, "loss_weight": 0.5}\n', 1.0),
    "object in lines": ('{\n "lr": 0.1,\n "eval_steps": 200,\n "epoch": 9,\n "batch_size": 64,\n "seed": 3\n}\n', None),
    "dictionary": ("{'lr': 0.1, 'eval_steps': 200, 'batch_size': 8, 'top_k': -1}\n", None),
    "dots": ("  eval_iters ................ 10\n  lr ............ 0.1\n  train_iters ........... 40\n", 1.0),
    "table": ("| Parameter | Value |\n|---|---|\n| lr | 0.1 |\n| eval_steps | 200 |\n| max_steps | 40 |\n", 1.0),
    "one line": ("lr: 0.1, wd: 0.01, eval_iters: 200, batch_size: 64, max_steps: 40\n", 1.0),
    "logger": (
        "2031-01-01 10:00:00,123 INFO root: eval_iters = 200\n2031-01-01 10:00:00,124 INFO root: lr: 0.01\n",
        None,
    ),
    "words": ("eval_steps 200\nsteps 500\nseed 7\nlr 0.1\n", None),
    "another unit": ("max_steps: 10\n", None),
}
"""Lines that programs print before they begin, and the share of the run that the last line of `STEPS` then has."""
EPOCHS = [f"[Epoch {e}/3] train: loss 0.9 acc 0.5 | valid: loss 0.{8 - e} acc 0.{e}\n" for e in (1, 2, 3)]
EMA = [f"EMA valid: loss 0.2{e} (0.2{e}) acc 0.7{e}\n" for e in (1, 2, 3)]
BESIDE_EMA = "".join(first + second for first, second in zip(EPOCHS, EMA, strict=True))
BEFORE_EMA = "".join(first + second for first, second in zip(EMA, EPOCHS, strict=True))
IN_BRACKETS = "epoch 1 | val_loss 0.7 | val_acc 0.1\n[EMA] val_loss 0.2 val_acc 0.9\n"
ONE_LINE = "epoch 1 | val loss 0.7 acc 0.1 | EMA val loss 0.2 acc 0.9\n"
TEACHER = "Epoch 1\nStudent valid: loss 0.7 acc 0.1\nTeacher valid: loss 0.2 acc 0.9\n"
SWA = "Epoch 1\nValidation:\nloss: 0.7\nacc: 0.1\nSWA validation:\nloss: 0.2\nacc: 0.9\n"
LAST_BEST = EPOCHS[0] + "Best valid: loss 0.2 acc 0.8\nLast valid: loss 0.3 acc 0.9\n"

# output, metric, final value, best value (of the direction below), number of points, share of the run of the last one
FOUND: dict[str, tuple[str, str | None, float, float, int, float | None]] = {
    "words and bars": ("epoch 3 | acc=0.91 | loss 0.3\n", "acc", 0.91, 0.91, 1, None),
    "another spelling": ("epoch 3 | acc=0.91 | loss 0.3\n", "Accuracy", 0.91, 0.91, 1, None),
    "mnist, default": (MNIST, None, 0.0412, 0.0412, 2, None),
    "mnist, ratio rather than its rounded percentage": (MNIST, "accuracy", 0.9912, 0.9912, 2, None),
    "mnist, as it is written": (MNIST, "average loss", 0.0412, 0.0412, 2, None),
    "keras, default": (KERAS, None, 0.34, 0.34, 2, 0.4),
    "keras, accuracy": (KERAS, "val_accuracy", 0.85, 0.91, 2, 0.4),
    "keras, short": (KERAS, "val/acc", 0.85, 0.91, 2, 0.4),
    "trainer, default": (TRAINER, None, 2.85, 2.81, 2, None),
    "trainer, accuracy": (TRAINER, "eval_accuracy", 0.64, 0.64, 2, None),
    "trainer, val/loss": (TRAINER, "val/loss", 2.85, 2.81, 2, None),
    "trainer, training loss": (TRAINER, "loss", 2.55, 2.55, 2, None),
    "trainer, summary": (TRAINER, "train_loss", 2.661, 2.661, 1, None),
    "trainer, bars": (TRAINER_BARS, "eval_loss", 2.853, 2.853, 2, 1.0),
    "lightning, not the test set": (LIGHTNING, None, 0.70, 0.70, 2, None),
    "lightning, accuracy": (LIGHTNING, "val_acc", 0.7, 0.7, 2, None),
    "lightning, test table": (LIGHTNING, "test_acc", 0.65100002262604, 0.65100002262604, 1, None),
    "fastai": (FASTAI, "accuracy", 0.851, 0.851, 2, None),
    "csv, default": (CSV, None, 0.7, 0.6, 3, None),
    "csv, f1": (CSV, "F1", 0.40, 0.44, 3, None),
    "nanochat": (NANOCHAT, "bpb", 1.70, 1.70, 2, 0.1),
    "splits on the line": (SPLITS, "val acc", 0.75, 0.75, 2, 0.5),
    "split first or last": (SPLITS, "acc/val", 0.75, 0.75, 2, 0.5),
    "headings": (HEADINGS, "val_acc", 0.8, 0.8, 1, None),
    "object over several lines": (PRETTY, "test.acc", 0.8, 0.8, 1, None),
    "object, default": (PRETTY, None, 0.2, 0.2, 1, None),
    "classification report": (SKLEARN, "accuracy", 0.88, 0.88, 1, None),
    "classification report, a cell": (SKLEARN, "macro avg f1-score", 0.86, 0.86, 1, None),
    "json lines": (JSON_LINES, "metrics.acc", 0.7, 0.7, 2, 0.5),
    "json lines, last key": (JSON_LINES, "acc", 0.7, 0.7, 2, 0.5),
    "fairseq": (FAIRSEQ, "valid ppl", 17.15, 17.15, 2, None),
    "bare number": ("loading\n0.9\nseed 3\n0.3125\n", None, 0.3125, 0.3125, 1, None),
    "tutorial of torch": ("Accuracy of the network on the 10000 test images: 91 %\n", "accuracy", 91.0, 91.0, 1, None),
    "percentage": ("accuracy: 91.2%\n", "accuracy", 91.2, 91.2, 1, None),
    "name behind": ("91.2% accuracy\n", "accuracy", 91.2, 91.2, 1, None),
    "digits in names": (" * Acc@1 75.33 Acc@5 92.10\n", "acc@5", 92.1, 92.1, 1, None),
    "range in a name": ("all 128 929 mAP50: 0.71 mAP50-95: 0.45\n", "mAP50-95", 0.45, 0.45, 1, None),
    "awk": ("reading data.csv\nrmse 0.4321\n", "RMSE", 0.4321, 0.4321, 1, None),
    "yaml": ("val_loss: 0.3\nbleu: 31.2\n", "BLEU", 31.2, 31.2, 1, None),
    "log prefix": ("2031-01-01 10:00:00,123 INFO root: eval/reward=12.5 step=10\n", "eval/reward", 12.5, 12.5, 1, None),
    "prefix of its own": ("RESULT val_loss=0.31\n", "val_loss", 0.31, 0.31, 1, None),
    "tensors": ("val_loss: tensor(0.31, device='cuda:0')\n", None, 0.31, 0.31, 1, None),
    "training loss only": ("step 1 loss 3.0\nstep 2 loss 2.0\n", None, 2.0, 2.0, 2, None),
    "best so far is another": ("epoch 1 val_loss 0.5\nBest val_loss: 0.1 (epoch 7)\n", "val_loss", 0.5, 0.5, 1, None),
    "pretty table": (PRETTY_TABLE, "val f1", 0.91, 0.91, 1, None),
    "other language": ("第3轮 验证集损失 0.4 准确率 0.9\n", "准确率", 0.9, 0.9, 1, None),
    "settings do not count": ("Namespace(val_loss=9, epochs=10)\nval_loss 0.5\n", "val_loss", 0.5, 0.5, 1, None),
    "seconds": ("evaluating\ncost 278.3s\nval_cost 0.5\n", None, 0.5, 0.5, 1, None),
    "torch quickstart": (QUICKSTART, "accuracy", 44.5, 44.5, 1, None),
    "torch quickstart, default": (QUICKSTART, None, 2.15, 2.15, 1, None),
    "transfer learning tutorial": (TRANSFER, "val acc", 0.88, 0.9085, 2, 2 / 24),
    "its best": (TRANSFER, "best val acc", 0.94, 0.94, 1, 2 / 24),
    "lightgbm": ("[10]\tvalid_0's auc: 0.91\tvalid_0's l2: 0.2\n", "auc", 0.91, 0.91, 1, None),
    "xgboost": ("[0]\ttrain-rmse:0.5\teval-rmse:0.6\n[1]\ttrain-rmse:0.4\teval-rmse:0.7\n", None, 0.7, 0.6, 2, None),
    "catboost": ("0:\tlearn: 0.6\ttest: 0.61\tbest: 0.61 (0)\ttotal: 50ms\n", None, 0.61, 0.61, 1, None),
    "stable baselines": (BASELINES, "rollout/ep_rew_mean", 22.8, 22.8, 1, None),
    "pandas": ("   loss  val_loss  acc\n0  0.5   0.6       0.7\n1  0.4   0.5       0.8\n", "acc", 0.8, 0.8, 2, None),
    "neutral words": ("Final Test set score: 0.97\n", "score", 0.97, 0.97, 1, None),
    "arrow": ("val_loss 0.5 -> 0.4\n", "val_loss", 0.4, 0.4, 1, None),
    "pair": ("val_loss,0.31\n", "val_loss", 0.31, 0.31, 1, None),
    "numpy": ("np.float64(0.83)\n", None, 0.83, 0.83, 1, None),
    "bleu": ("BLEU = 27.30 58.1/33.2/21.0/13.9 (BP = 1.000)\n", "bleu", 27.3, 27.3, 1, None),
    "words for missing": ("val_loss: None\nval_loss: 0.3\n", "val_loss", 0.3, 0.3, 1, None),
    "steps that nothing counts": (LAPS, "loss", 0.6, 0.6, 3, None),
    "negative": ("step_10:\tloss_-4.065\nstep_20:\tloss_-2.908\n", "loss", -2.908, -4.065, 2, None),
    "position in brackets": (BRACKETS, "loss", 3.58, 3.58, 2, None),
    "table with n/N": ("Epoch  box   cls\n1/4    0.5   0.3\n2/4    0.4   0.2\n", "box", 0.4, 0.4, 2, 0.5),
    "megatron": (MEGATRON, None, 7.48, 7.48, 2, 0.4),
    "bare splits": ("0 val 10.94\n0 train 10.95\n1 train 9.5\n20 val 8.88\n20 train 8.9\n", None, 8.88, 8.88, 2, None),
    "evaluation in progress": (IMAGENET, "test acc@1", 75.3, 75.3, 2, None),
    "mean of an evaluation in progress": (IMAGENET, "test loss", 1.05, 1.05, 1, None),
    "columns with digits": (YOLO, "metrics/mAP50-95(B)", 0.47, 0.47, 2, None),
    "sum of parts": (YOLO, None, 1.1 + 0.9, 1.1 + 0.9, 0, None),
    "beside that of an average": (BESIDE_EMA, None, 0.5, 0.5, 3, 1.0),
    "beside that of an average, named": (BESIDE_EMA, "valid acc", 0.3, 0.3, 3, 1.0),
    "that of an average": (BESIDE_EMA, "EMA valid acc", 0.73, 0.73, 3, 1.0),
    "after that of an average": (BEFORE_EMA, None, 0.5, 0.5, 3, 1.0),
    "an average alone": ("".join(EMA), "valid acc", 0.73, 0.73, 3, None),
    "an average alone, default": ("".join(EMA), None, 0.23, 0.21, 3, None),
    "an average in brackets": (IN_BRACKETS, "val_acc", 0.1, 0.1, 1, None),
    "an average in the same line": (ONE_LINE, "val acc", 0.1, 0.1, 1, None),
    "student and teacher": (TEACHER, None, 0.7, 0.7, 1, None),
    "heading of an average": (SWA, "val acc", 0.1, 0.1, 1, None),
    "last and best": (LAST_BEST, "valid acc", 0.1, 0.1, 1, 1 / 3),
    "name of its own": ("mine = 0.1\nmine = 0.2\nmine = 0.3\n", "mine", 0.3, 0.1, 3, None),
    "name of its own, with a setting": ("mine = 9\nstep 1 mine 0.2\nstep 2 mine 0.3\n", "mine", 0.3, 0.2, 2, None),
    "epochs and steps": (STEPS_IN_EPOCHS, None, 0.4, 0.4, 2, 0.75),
    "steps over the run": (STEPS_OF_RUN, None, 0.4, 0.4, 2, 0.75),
}  # fmt: skip

ERRORS = {
    "nothing named": ("hello\nworld\n", "acc", "no metric 'acc' in the output; it has no named numbers; print a line"),
    "no output": ("", None, "no loss in the output; it has no named numbers"),
    "missing": (
        "epoch 1 loss 0.5 lr 0.1\nepoch 2 loss 0.4 lr 0.1\naccuracy 0.9\n",
        "val/acc",
        "--metric: no metric 'val/acc' in the output; found loss (2 values), accuracy (1), lr (2): use --metric"
        " accuracy",
    ),
    "two splits": (SPLITS, "acc", "--metric: 'acc' may be 'train acc' or 'val acc' in the output; give one of these"),
    "split left out": (TRAINER, "accuracy", "use --metric eval_accuracy"),
    "two validation losses": (
        "epoch 1 val_loss 0.5 eval_loss 0.4\n",
        None,
        "the validation loss may be 'val_loss' or 'eval_loss'; name one of these",
    ),
    "several training losses": (
        "step 1 mse_loss 0.5 l1_loss 0.3\n",
        None,
        "no validation loss in the output; choose one of 'mse_loss' or 'l1_loss'",
    ),
    "no loss": ("accuracy 0.9\nf1 0.8\n", None, "no loss in the output; found accuracy (1 value), f1 (1): name one"),
    "bare number, but named": ("0.31\n", "rmse", "its last line is the number 0.31: leave out --metric to use it"),
    "half of the name": ("style_loss 0.5\ncontent_loss 0.5\n", "tv_loss", "found style_loss (1 value), content_loss"),
    "two paths": ('{"a": {"acc": 0.9}, "b": {"acc": 0.8}}\n', "acc", "'acc' may be 'a/acc' or 'b/acc' in the output"),
    "best alone": ("best val_loss: 0.3\n", "val_loss", "use --metric 'best val_loss'"),
    "split is not said": (IMAGENET, "acc@1", "'acc@1' may be 'train Acc@1' or 'test Acc@1' in the output"),
    "nearly": ("val_accuracy: 0.9\n", "val_acuracy", "use --metric val_accuracy"),
}
