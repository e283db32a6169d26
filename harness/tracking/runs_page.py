"""The page of the MLflow UI that shows an experiment's runs, and the view of it that this harness saves.

MLflow's own view has no column for the loss, and orders charts by name. A saved view is a tag of the experiment that
MLflow 3 lists under *Views*; other versions ignore it.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

VIEW_NAME, VIEW_KEY = "Losses and settings", "plateau"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
WORKFLOW = {"workflowType": "machine_learning"}  # the UI otherwise opens on its pages for GenAI
# Columns of the table, with widths in pixels: those of every view, and those for runs of ours.
COLUMNS = {"attributes.`Run Name`": 270, "attributes.`Source`": 300}
OWN_COLUMNS = (
    "metrics.`val/best_loss`",
    "params.`used.optimizer`",
    "params.`used.peak_lr.matrices`",
    "params.`used.schedule`",
)
COLUMN_WIDTH, MAX_COLUMNS = 130, 16
# Charts by section, in the order in which they are shown. Other metrics follow in their sections.
CHARTS = {
    "val": ["val/loss"],
    "train": ["train/loss", "train/lr", "train/grad_norm", "train/clip_fraction"],
    "perf": ["perf/tokens_per_second"],
}
# Charts that the view leaves out: of the steps of a sweep's parent run, which are trials, and of standard errors.
HIDDEN_CHARTS = {"val": ["val/best_loss", "val/loss_se"]}
CHART_DEFAULTS = {
    "type": "LINE", "isGenerated": True, "runsCountToCompare": 10, "lineSmoothness": 0,
    "xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "scaleType": "linear", "range": {},
    "yAxisKey": "metric", "yAxisExpressions": [], "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True,
}  # fmt: skip


def make_experiment_tags(at_ms: int, columns: Sequence[str] = OWN_COLUMNS) -> dict[str, str]:
    """Return the tags of an experiment of ours: the saved view. Other columns are for runs of other programs."""
    widths = {**COLUMNS, **dict.fromkeys(columns, COLUMN_WIDTH)}
    view: dict[str, Any] = {"selectedColumns": list(widths), "columnOrder": list(widths), "columnWidths": widths}
    if columns == OWN_COLUMNS:
        view |= _make_charts()
    envelope = {"name": VIEW_NAME, "createdAt": at_ms, "updatedAt": at_ms, "state": json.dumps(view)}
    return {VIEW_TAG: json.dumps(envelope)}


def _make_charts() -> dict[str, Any]:
    """Return the charts of a view for our own runs, whose names are known."""
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": True}
        for name in CHARTS
    ]
    charts = [
        {**CHART_DEFAULTS, "uuid": metric, "metricKey": metric, "metricSectionId": section, "deleted": is_hidden}
        for is_hidden, sections_of in ((False, CHARTS), (True, HIDDEN_CHARTS))
        for section, metrics in sections_of.items()
        for metric in metrics
    ]
    return {
        "compareRunSections": sections,
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # sections keep this order when other metrics add one
    }


def add_view_columns(saved: str, columns: Iterable[str]) -> str:
    """Return the tag of a view with further columns; unchanged if it has them, or cannot be read."""
    try:
        envelope = json.loads(saved)
        view = json.loads(envelope["state"])
        shown, order, widths = (view[name] for name in ("selectedColumns", "columnOrder", "columnWidths"))
        new = [column for column in columns if column not in shown][: max(0, MAX_COLUMNS - len(shown))]
        if not new:
            return saved
        state = {
            **view,
            "selectedColumns": [*shown, *new],
            "columnOrder": [*order, *new],
            "columnWidths": {**widths, **dict.fromkeys(new, COLUMN_WIDTH)},
        }
        return json.dumps({**envelope, "state": json.dumps(state)})
    except (ValueError, KeyError, TypeError):
        return saved


def format_run_page(experiment_id: str, run_id: str) -> str:
    """Return the address, below that of the server, of the page of a run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def format_comparison_page(experiment_id: str, run_ids: Iterable[str]) -> str:
    """Return the address, below that of the server, of the page that compares runs."""
    lists = {"runs": list(run_ids), "experiments": [experiment_id]}
    texts = {name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()}
    return f"#/compare-runs?{urlencode(texts, quote_via=quote)}"


def find_runs_page(client: Any) -> str:
    """Return the page, in our view if it has one, of the experiment with the latest run; empty without runs."""
    experiments = {experiment.experiment_id: experiment for experiment in client.search_experiments()}
    latest = client.search_runs(list(experiments), order_by=["attributes.start_time DESC"], max_results=1)
    if not latest:
        return ""
    experiment = experiments[latest[0].info.experiment_id]
    view = {"viewStateShareKey": VIEW_KEY} if VIEW_TAG in experiment.tags else {}
    return f"#/experiments/{experiment.experiment_id}/runs?{urlencode(WORKFLOW | view)}"
