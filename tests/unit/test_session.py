"""The parts of a session that need no connection."""

import falcon
import pytest

from falcon_pachinko.session.session import _from_http


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (falcon.HTTPForbidden(), "forbidden", "403 Forbidden"),
        (falcon.HTTPForbidden(title="No"), "forbidden", "No"),
        (falcon.HTTPForbidden(title="No", description="Not you."), "forbidden", "Not you."),
        (falcon.HTTPError(799), "http_799", "799 End of the world"),
        (falcon.HTTPError("451 Burnt"), "unavailable_for_legal_reasons", "451 Burnt"),
    ],
)
def test_an_http_error_is_told_by_its_name(error, code, message):
    """The status's name is the code, what it says the sentence, the number stands beside."""
    told = _from_http(error)

    assert (told.code, told.message, told.status) == (code, message, error.status_code)
