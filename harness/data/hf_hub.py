"""Access to the Hugging Face Hub."""


def go_offline_if_unreachable() -> None:
    """Switch the Hub's libraries to offline mode in this process if the Hub does not answer.

    They then use their caches or fail at once, instead of retrying for most of a minute.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the type depends on the HTTP library of the installed version
        constants.HF_HUB_OFFLINE = True
