"""The settings, and how the environment sets them."""

import pytest

from {{ cookiecutter.package }}.config import PREFIX, Config


def test_an_empty_environment_leaves_every_default() -> None:
    """Nothing has to be set to run the app."""
    assert Config.from_environment({}) == Config()


def test_a_variable_sets_its_field() -> None:
    """The variable is the field's name in capitals, behind the prefix."""
    config = Config.from_environment({f"{PREFIX}ANNOUNCE_EVERY": "2.5"})

    assert config.announce_every == 2.5


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf"])
def test_a_value_that_is_no_time_is_refused_by_name(value: str) -> None:
    """A mistake stops the start, and the message says which variable to correct."""
    with pytest.raises(ValueError, match=f"{PREFIX}ANNOUNCE_EVERY"):
        Config.from_environment({f"{PREFIX}ANNOUNCE_EVERY": value})


def test_the_hosts_are_names_between_commas() -> None:
    """Blanks around a name do not count."""
    config = Config.from_environment({f"{PREFIX}ALLOWED_HOSTS": "app.example, *.app.example"})

    assert config.allowed_hosts == ("app.example", "*.app.example")


def test_no_host_at_all_is_refused_by_name() -> None:
    """An app that nobody can reach is a mistake."""
    with pytest.raises(ValueError, match=f"{PREFIX}ALLOWED_HOSTS"):
        Config.from_environment({f"{PREFIX}ALLOWED_HOSTS": " , "})
{%- if cookiecutter.backend != 'memory' %}


@pytest.mark.parametrize(("value", "backend"), [("{{ cookiecutter.backend }}://db", "{{ cookiecutter.backend }}://db"), ("", None)])
def test_a_backend_is_an_address_or_none(value: str, backend: str | None) -> None:
    """An empty variable counts as one that is not set: then the process is on its own."""
    assert Config.from_environment({f"{PREFIX}BACKEND": value}).backend == backend
{%- endif %}
