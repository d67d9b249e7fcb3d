"""What comes out of handlers."""

import falcon
import pytest

from falcon_pachinko import MessageError
from falcon_pachinko.messages.outcomes import sole_error

ERROR = MessageError("sold_out")


@pytest.mark.parametrize("error", [ERROR, falcon.HTTPForbidden()])
def test_a_group_of_one_error_is_that_error(error):
    """However many groups are around it."""
    assert sole_error(ExceptionGroup("outer", [error])) is error
    assert sole_error(ExceptionGroup("outer", [ExceptionGroup("inner", [error])])) is error


@pytest.mark.parametrize(
    "exceptions",
    [
        [KeyError()],
        [ERROR, ERROR],
        [ERROR, KeyError()],
        [ExceptionGroup("inner", [ERROR, KeyError()])],
        [KeyboardInterrupt()],
    ],
)
def test_any_other_group_is_a_failure(exceptions):
    """Nothing that went wrong is lost behind an answer."""
    assert sole_error(BaseExceptionGroup("tasks", exceptions)) is None
