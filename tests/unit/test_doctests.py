"""The examples in the library's docstrings do what they show."""

import doctest
import importlib
import pkgutil

import pytest

import falcon_pachinko

MODULES = [
    found.name
    for found in pkgutil.walk_packages(falcon_pachinko.__path__, "falcon_pachinko.")
    if found.name != "falcon_pachinko.testing.plugin"  # pytest has it imported its own way
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    """Each prompt gives what stands below it."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0
