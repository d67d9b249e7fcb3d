"""What rooms, users and tags may be called."""

import pytest

from falcon_pachinko import InvalidNameError
from falcon_pachinko.names import check_name, check_user_id, is_user_id


@pytest.mark.parametrize(
    "name",
    [
        "ann", "A nn", "ann@tea.example", "é" * 100, "x" * 200, "茶", "*", "שלום",
        "न\u200dम", "❤\ufe0f", "\u200bann",
    ],
)  # fmt: skip
def test_visible_text_can_be_a_user_id(name):
    """Up to 200 bytes of it."""
    check_user_id(name)

    assert is_user_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "\t", "ann\n", "a\0", "\x7f", "ann\x85", "\x9bann", "an\x1bn", "x" * 201,
        "é" * 101, "\ud800", "\u200b", "\u00a0", "\u3000\u3000", "\ufeff", "\u2060 \u00ad",
        "\u202e", "\u2028", "a\u2028b", "a\u2029", "\u2800", "\u3164", "\u115f\u1160",
        "\uffa0 ", "\u034f", "\ufe0f", "\u17b4", "\u180e", "\U000e0100", "\U000e0041", "\ue000",
    ],
)  # fmt: skip
def test_what_nobody_could_tell_apart_cannot_be_a_user_id_or_a_tag(name):
    """Blank, invisible, with control characters or line breaks, or too long."""
    with pytest.raises(InvalidNameError, match="cannot be a user_id"):
        check_user_id(name)
    with pytest.raises(InvalidNameError, match="cannot be a tag"):
        check_user_id(name, "tag")


@pytest.mark.parametrize("name", ["~", "~ann", "~0123456789ab" + "0" * 24])
def test_a_user_id_never_looks_like_a_connections(name):
    """Presence lists strangers by their connection's id: no user takes the place of one."""
    with pytest.raises(InvalidNameError, match="as the ids of connections do"):
        check_user_id(name)

    check_user_id(name, "tag")
    check_name(name, "room name")


@pytest.mark.parametrize("name", [None, 42, b"ann", ["ann"]])
def test_what_is_not_text_is_a_mistake_of_the_application(name):
    """It says what to write."""
    with pytest.raises(TypeError, match=r"write user_id=str\("):
        check_user_id(name)
