"""Which configuration of a log is judged, and what it must beat."""

from harness.core.errors import ConfigError
from harness.evidence.judging.run_log import LoggedConfig, RunLog


def find_candidate(log: RunLog) -> LoggedConfig:
    """Return the configuration to judge: that of the last run, or of the last new one if that repeats the reference.

    Of a study, the best one.

    Raises:
        ConfigError: If there are only runs of the baseline.
    """
    changes = [config for config in log.configs if not config.is_baseline]
    if not changes or (len(changes) == 1 and len(log.configs) == 1):
        raise ConfigError(
            f"{log.source}: there is no candidate yet, only {len(log.runs)} "
            f"{log.unit_name}{'s' * (len(log.runs) > 1)} of {log.configs[0].label}; log one, or name --candidate"
        )
    if log.chooses_best:
        measured = [config for config in changes if config.values]
        return min(measured, key=lambda config: log.sign * config.mean, default=changes[-1])
    newest = changes[-1]
    last = next(config for config in log.configs if config.key == log.runs[-1].config)
    return newest if last.is_baseline or last == find_reference(log, newest) else last


def find_reference(log: RunLog, candidate: LoggedConfig) -> LoggedConfig | None:
    """Return what the candidate must beat: what was kept last before it, or else the baseline.

    Where the log does not say what was kept, the baseline; without one, the best configuration before.
    """
    before = [config for config in log.configs if config.first_number < candidate.first_number and config.values]
    kept = [config for config in before if any(run.outcome == "keep" for run in config.runs)]
    if kept:
        return kept[-1]
    others = [config for config in log.configs if config.is_baseline]
    if others:
        return others[0]
    return min(before, key=lambda config: log.sign * config.mean, default=None)
