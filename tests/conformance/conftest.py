"""The suite's asserts explain themselves; from the wheel, pytest sees to that."""

import pytest

pytest.register_assert_rewrite("falcon_pachinko.testing.conformance")
