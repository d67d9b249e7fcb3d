"""`pachinko new` for somebody who sits at a terminal, and is asked."""

import pytest

NAME, TEMPLATE, BACKEND, GIT, INSTALL = QUESTIONS = (
    "What is the project called? (tea-room): ",
    "Which template? (chat): ",
    "Which backend? (memory): ",
    "Start a git repository? [y/n] (y): ",
    "Install it and run its tests now? [y/n] (y): ",
)


def test_five_questions_and_enter_takes_each_default(terminal, tmp_path):
    """Nothing has to be known beforehand; every question shows what Enter means."""
    person = terminal("new")
    for question in QUESTIONS[:-1]:
        person.expect(question)
        person.type("\n")
    person.expect(INSTALL)
    person.type("n\n")
    code, shown = person.end()

    assert code == 0
    assert shown.endswith(
        "pachinko new tea-room --template chat --backend memory --licence none --ci none "
        "--no-docker --agents-md --git --no-install --yes\n"
    )
    assert (tmp_path / "tea-room/.git").is_dir()


@pytest.mark.quick
def test_answers_are_taken(terminal, tmp_path):
    """What is typed decides, and the summary says so."""
    person = terminal("new")
    answers = ("Ann's room\n", "Ann Room\n"), ("minimal\n",), ("Redis\n",), ("n\n",), ("no\n",)
    for question, typed in zip(QUESTIONS, answers, strict=True):
        for answer in typed:
            person.expect(question)
            person.type(answer)
    code, shown = person.end()

    assert code == 0
    assert "--template minimal --backend redis " in shown
    assert "--no-git --no-install --yes" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["ann-room"]


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (("tea-room",), {TEMPLATE, BACKEND, GIT, INSTALL}),
        (("tea-room", "--template", "minimal"), {BACKEND, GIT, INSTALL}),
        (("tea-room", "--backend", "nats", "--no-git"), {TEMPLATE, INSTALL}),
        (("tea-room", "--git", "--no-install"), {TEMPLATE, BACKEND}),
        (("tea-room", "--licence", "MIT", "--ci", "gitlab"), {TEMPLATE, BACKEND, GIT, INSTALL}),
    ],
)
def test_what_was_given_is_not_asked(terminal, flags, asked):
    """A flag is an answer; only the rest are questions."""
    person = terminal("new", *flags)
    for question in QUESTIONS:
        if question in asked:
            before = person.expect(question)
            assert not any(other in before for other in QUESTIONS)
            person.type("n\n" if "[y/n]" in question else "\n")
    code, shown = person.end()

    assert code == 0
    assert not any(question in shown for question in QUESTIONS)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("--yes",), {}),
        (("-y",), {}),
        (("--json",), {}),
        ((), {"CI": "true"}),
        ((), {"CI": "1"}),
    ],
)
def test_nothing_is_asked_when_nobody_may_be_there(terminal, tmp_path, arguments, variables):
    """`--yes`, `--json` and a CI mean that nobody answers: the defaults do, and install is off."""
    code, shown = terminal("new", "tea-room", *arguments, **variables).end()

    assert code == 0
    assert not any(question in shown for question in QUESTIONS)
    assert not (tmp_path / "tea-room/.venv").exists()


@pytest.mark.parametrize(
    ("question", "wrong", "why"),
    [
        (NAME, "class", "warning: 'class' is a keyword of Python"),
        (NAME, "taken", "/taken exists already"),
        (TEMPLATE, "caht", "warning: there is no template 'caht'\n  did you mean chat? "),
        (
            BACKEND,
            "postgres",
            "there is no backend 'postgres'\n  --backend takes memory, redis, nats",
        ),
        (GIT, "perhaps", "y or n, please"),
    ],
)
def test_an_answer_is_checked_when_it_is_given(terminal, tmp_path, question, wrong, why):
    """A mistake is said at once, and the same question is asked again."""
    (tmp_path / "taken").mkdir()
    person = terminal("new", "--no-install")
    take_defaults_until(question, person)
    person.type(f"{wrong}\n")

    assert why in person.expect(question)


def test_a_wrong_name_on_the_command_line_is_not_asked_again(terminal, tmp_path):
    """A flag that was given is never asked again, not even when it is refused."""
    code, shown = terminal("new", "class").end()

    assert code == 2
    assert shown.startswith("error: 'class' is a keyword of Python")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("question", QUESTIONS)
def test_ctrl_d_is_no_answer(terminal, tmp_path, question):
    """At the end of input nothing is assumed and nothing is written; exit 1."""
    person = terminal("new")
    take_defaults_until(question, person)
    person.type("\x04")
    code, shown = person.end()

    assert code == 1
    assert "\nerror: no answer: the input ended\n" in shown
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("question", QUESTIONS)
def test_ctrl_c_is_a_change_of_mind(terminal, tmp_path, question):
    """At a question it ends everything at once, and nothing is written; exit 130."""
    person = terminal("new")
    take_defaults_until(question, person)
    person.interrupt()
    code, shown = person.end()

    assert code == 130
    assert shown.endswith("\nerror: interrupted\n")
    assert not [*tmp_path.iterdir()]


def take_defaults_until(question, person):
    for earlier in QUESTIONS[: QUESTIONS.index(question)]:
        person.expect(earlier)
        person.type("\n")
    person.expect(question)


def test_an_answer_that_is_no_text_is_one_more_wrong_answer(terminal):
    """Keys of another encoding are refused like any other name, with no traceback."""
    person = terminal("new")
    person.expect(NAME)
    person.type("tea\udcff\n")

    assert "are not ASCII" in person.expect(NAME)


def test_inside_a_repository_git_is_no_question(terminal, tmp_path):
    """A repository within a repository is seldom meant; `--git` still makes one."""
    (tmp_path / ".git").mkdir()
    person = terminal("new", "tea-room", "--no-install")
    for question in (TEMPLATE, BACKEND):
        person.expect(question)
        person.type("\n")
    code, shown = person.end()

    assert code == 0
    assert "--no-git" in shown
    assert GIT not in shown
    assert not (tmp_path / "tea-room/.git").exists()


def test_colours_are_for_terminals(terminal, pachinko):
    """A terminal gets colours, a pipe gets plain text."""
    person = terminal("new", "tea-room", "--yes")
    person.end()
    piped = pachinko("new", "other-room", "--yes").stdout

    assert "\x1b[32m" in person.raw
    assert "\x1b[" not in piped


@pytest.mark.parametrize("arguments", [("tea-room", "--yes"), ("class",)])
def test_no_color_is_honoured(terminal, arguments):
    """With NO_COLOR set there is no colour, in results and in errors (no-color.org)."""
    person = terminal("new", *arguments, NO_COLOR="1")
    person.end()

    assert "\x1b[3" not in person.raw
