"""The page of the MLflow UI that shows an experiment's runs, and the view of it that this harness saves.

MLflow's own view has no column for the loss, and orders charts by name. A saved view is a tag of the experiment that
MLflow 3 lists under *Views*; other versions ignore it.
"""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

VIEW_NAME, VIEW_KEY = "Losses and settings", "plateau"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
WORKFLOW = {"workflowType": "machine_learning"}  # the UI otherwise opens on its pages for GenAI
# Columns of the table with their widths in pixels.
COLUMNS = {
    "attributes.`Run Name`": 270,
    "attributes.`Source`": 300,
    "metrics.`val/best_loss`": 110,
    "params.`used.optimizer`": 110,
    "params.`used.peak_lr.matrices`": 150,
    "params.`used.schedule`": 110,
}
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


def make_experiment_tags(at_ms: int) -> dict[str, str]:
    """Return the tags of an experiment of ours: the saved view."""
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
    view = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "compareRunSections": sections,
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # sections keep this order when other metrics add one
    }
    envelope = {"name": VIEW_NAME, "createdAt": at_ms, "updatedAt": at_ms, "state": json.dumps(view)}
    return {VIEW_TAG: json.dumps(envelope)}


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
