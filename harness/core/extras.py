"""The installed version, and optional packages by the extra of this package that installs them."""

from importlib.metadata import PackageNotFoundError, version

EXTRAS = {
    "train": (
        "torch", "hydra", "hydra_plugins", "omegaconf", "optuna", "transformers", "tokenizers", "peft", "datasets",
        "safetensors", "pytorch_optimizer", "mlflow", "matplotlib", "psutil", "yaml",
    ),
    "programs": (
        "hydra", "hydra_plugins", "omegaconf", "optuna", "mlflow", "matplotlib", "psutil", "yaml", "sklearn",
        "sqlalchemy", "cmaes",
    ),
    "tensorboard": ("tensorboard",),
    "operator": ("neuralop",),
    "lightning": ("lightning",),
    "hdf5": ("h5py",),
    "postgres": ("psycopg", "psycopg2"),
    "joblib": ("joblib",),
    "slurm": ("submitit",),
    "ray": ("ray",),
    "smollm2": ("gguf",),
    "eval": ("minicons",),
}  # fmt: skip


def find_version() -> str:
    """Return the version of this package."""
    try:
        return version("plateau-harness")
    except PackageNotFoundError:  # a checkout that is on the path without being installed
        return "(not installed)"


def describe_missing_package(error: BaseException | None, wanted: str = "train") -> str:
    """Return that a package is not installed and what installs it; an empty string for other errors.

    Of several extras with the package it is `wanted`, if that is one of them.
    """
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = next((extra for extra in (wanted, *EXTRAS) if package in EXTRAS[extra]), None)
    return f"the package {package} is not installed; pip install 'plateau-harness[{extra}]'" if extra else ""
