"""The installed version, and optional packages by the extra of this package that installs them."""

from importlib.metadata import PackageNotFoundError, version

EXTRAS = {
    "sweep": ("sklearn", "sqlalchemy", "cmaes"),
    "train": (
        "torch", "hydra", "hydra_plugins", "omegaconf", "optuna", "transformers", "tokenizers", "peft", "datasets",
        "safetensors", "pytorch_optimizer", "mlflow", "matplotlib", "psutil", "yaml",
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


def describe_missing_package(error: BaseException | None) -> str:
    """Return that a package is not installed and what installs it; an empty string for other errors."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    return f"the package {package} is not installed; pip install 'plateau-harness[{extra}]'" if extra else ""
