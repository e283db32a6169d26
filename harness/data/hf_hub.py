"""The Hugging Face Hub, which may be out of reach."""


def go_offline_if_unreachable() -> None:
    """Ask the Hub once; where it does not answer, its libraries use their caches and fail at once in this process,
    instead of retrying for most of a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of whichever HTTP library the installed version uses
        constants.HF_HUB_OFFLINE = True
