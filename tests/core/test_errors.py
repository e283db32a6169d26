"""Messages of any exception in one short line."""

from harness.core.errors import MAX_MESSAGE, describe_exception, shorten_message


def test_a_message_is_one_short_line_without_escape_sequences() -> None:
    assert (
        shorten_message("\n  \x1b[1;31mred\x1b[0m and \x1b]8;;http://x\x07link\x1b]8;;\x07 \x00\nsecond")
        == "red and link"
    )
    assert shorten_message("a\tb ä 中") == "a\tb ä 中"
    long = shorten_message("start " + "x" * 1000 + " remedy")
    assert (len(long), long[:6], long[-7:]) == (MAX_MESSAGE, "start ", " remedy")
    assert shorten_message(long) == long


def test_an_exception_without_a_message_says_where_it_was_raised() -> None:
    try:
        assert False  # noqa: B011, PT015
    except AssertionError as error:
        error.args = ()
        shown = describe_exception(error)
        line = error.__traceback__.tb_lineno
    assert shown == f"AssertionError at test_errors.py:{line}"
    assert describe_exception(KeyError()) == "KeyError"
    assert describe_exception(ValueError("first\nsecond")) == "ValueError: first"
