"""The page that `pachinko new` gives everybody, used by people in real tabs."""

import re

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="module")

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}

CONVERSATION = (
    ("ann", "Good morning! Who is for tea?"),
    ("bob", "Me, please."),
    (
        "bob",
        "Assam if there is any. I have been at the ferry since six, in the wind from the north.",
    ),
    ("ann", "Assam it is. It needs four minutes:\nbring your own cup,\nthe good ones are packed."),
    ("ann", "https://tea.example/leaves/assam/" + "second-flush-" * 8),
    ("bob", "On my way!"),
)


@pytest.fixture
def room(request):
    """Give every test a room of its own, so that they can share a server."""
    return re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")[:40]


@pytest.fixture
def url(server, room):
    """Give the address of the page, in the test's room."""
    return f"{server.url}/?room={room}"


def log(tab):
    """Find what was said, and what happened."""
    return tab.get_by_role("log")


def people(tab):
    """Find the names of those who are here, without their avatars."""
    return tab.locator("#members .name")


def box(tab):
    """Find where a message is written."""
    return tab.get_by_label("Your message")


def words(tab):
    """Find what was said, without its author and time."""
    return log(tab).locator(".words")


def lines(tab):
    """Find everything in the log: notices, and what was said."""
    return log(tab).locator("> *")


def ending(*texts):
    """Match as many lines, each of which ends so: before the words stand author and time."""
    return [re.compile(re.escape(text) + "$") for text in texts]


async def say(tab, text):
    """Write it and send it with Enter, as people do."""
    await box(tab).fill(text)
    await box(tab).press("Enter")


async def test_two_tabs_of_one_browser_are_two_guests(tabs, url):
    """Opened twice without a word about names, the page gives each tab one of its own."""
    profile = await tabs.profile()
    first = await tabs.open(url, profile=profile)
    await tabs.open(url, profile=profile)

    await expect(people(first)).to_have_count(2)


@pytest.mark.quick
async def test_what_one_says_is_read_by_the_other(tabs, url):
    """A message reaches the others under its author's name, and its author as an own one."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await say(ann, "Who is for tea?")

    await expect(bob.locator(".message:not(.own)")).to_contain_text("Ann")
    await expect(bob.locator(".message:not(.own) .words")).to_have_text("Who is for tea?")
    await expect(ann.locator(".message.own .words")).to_have_text("Who is for tea?")
    await expect(box(ann)).to_be_empty()


async def test_coming_and_going_is_seen(tabs, url):
    """The others get a notice and a list that is right, on joining and on leaving."""
    ann = await tabs.open(url, "Ann")
    bob = await tabs.open(url, "Bob")
    await expect(log(ann)).to_contain_text("Bob joined")
    await expect(people(ann)).to_have_text(["Ann", "Bob"])
    await expect(people(bob)).to_have_text(["Bob", "Ann"])
    await expect(log(bob)).to_have_text("Welcome, Bob.")

    await bob.close()

    await expect(log(ann)).to_contain_text("Bob left")
    await expect(people(ann)).to_have_text(["Ann"])


async def test_typing_is_shown_and_ends_with_a_pause(tabs, url):
    """The others see that somebody writes; it is gone soon after the last key."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await box(bob).press_sequentially("Let me thi")
    await expect(ann.get_by_text("Bob is typing…")).to_be_visible()

    await expect(bob.get_by_text("is typing")).to_be_hidden()
    await expect(ann.get_by_text("Bob is typing…")).to_be_hidden()


async def test_markup_from_others_is_text(tabs, url):
    """HTML in a message or a name is shown as it was written, and runs nothing."""
    ann = await tabs.open(url, "Ann")
    mallory = await tabs.open(url, "<b>Mallory</b>")
    image, script = "<img src=x onerror=\"alert('image')\">", "<script>alert('script')</script>"
    await say(mallory, image)
    await say(mallory, script)

    await expect(ann.locator(".message .words")).to_have_text([image, script])
    await expect(people(ann)).to_have_text(["Ann", "<b>Mallory</b>"])
    await expect(log(ann).locator("img, script, b")).to_have_count(0)
    assert tabs.complaints == []


async def test_a_conversation_leaves_the_console_silent(tabs, url):
    """Nothing is refused by the content security policy, missing or wrong: no complaint at all."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await say(ann, "Hello")
    await expect(log(bob)).to_contain_text("Hello")
    await bob.reload()
    await expect(log(ann)).to_contain_text("Bob left")
    await expect(people(bob)).to_have_text(["Bob", "Ann"])

    assert tabs.complaints == []


async def test_the_console_does_report_what_the_policy_refuses(tabs, url):
    """The watch on the console is awake: an inline script is refused, and that is noted."""
    ann = await tabs.open(url, "Ann")
    async with ann.expect_console_message(lambda message: message.type == "error"):
        await ann.evaluate(
            "document.body.append(Object.assign("
            "document.createElement('script'), {textContent: 'alert(1)'}))"
        )

    assert any("Content Security Policy" in complaint for complaint in tabs.complaints)


async def test_shift_and_enter_begin_a_new_line(tabs, url):
    """Enter sends; with Shift it breaks the line, and the message keeps the break."""
    ann = await tabs.open(url, "Ann")
    await box(ann).press_sequentially("one")
    await box(ann).press("Shift+Enter")
    await box(ann).press_sequentially("two")
    await box(ann).press("Enter")

    await expect(ann.locator(".words")).to_have_text("one\ntwo", use_inner_text=True)


async def test_name_and_room_are_chosen_in_the_page(tabs, server, room):
    """Another name and room are entered at once, shown in the address, and kept."""
    ann = await tabs.open(f"{server.url}/?room={room}")
    await ann.get_by_label("Your name").fill("Ann")
    await ann.get_by_label("Room", exact=True).fill("the green room")
    await ann.get_by_role("button", name="Enter room").click()
    await expect(log(ann)).to_have_text("Welcome, Ann.")
    await expect(ann).to_have_url(f"{server.url}/?room=the-green-room")

    later = await tabs.open(server.url, profile=ann.context)

    await expect(log(later)).to_have_text("Welcome, Ann.")
    await expect(later).to_have_title(re.compile("^#lobby"))


async def test_the_back_button_returns_to_the_room_before(tabs, url, room):
    """Rooms are addresses: Back enters the one before."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await ann.get_by_label("Room", exact=True).fill("elsewhere")
    await ann.get_by_role("button", name="Enter room").click()
    await expect(log(bob)).to_contain_text("Ann left")

    await ann.go_back()

    await expect(people(bob)).to_have_text(["Bob", "Ann"])
    await expect(ann).to_have_title(re.compile(f"^#{room}"))


async def test_a_reader_of_older_messages_is_not_pulled_away(tabs, url):
    """New messages scroll the log only for those at its end; others get a button."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await say(ann, "\n".join(["first", *"." * 80, "last"]))
    await expect(log(bob)).to_contain_text("last")
    await log(bob).evaluate("log => log.scrollTop = 0")
    await expect(log(bob)).to_have_js_property("scrollTop", 0)
    await say(ann, "one more")

    await expect(bob.get_by_role("button", name="New messages")).to_be_visible()
    await expect(log(bob)).to_have_js_property("scrollTop", 0)
    await bob.get_by_role("button", name="New messages").click()
    await expect(bob.get_by_text("one more")).to_be_in_viewport()
    await expect(bob.get_by_role("button", name="New messages")).to_be_hidden()


async def test_unread_messages_are_counted_in_the_title_of_a_hidden_tab(tabs, url, room):
    """Who looks elsewhere sees in the tab's title how much was said; looking resets it."""
    ann, bob = await tabs.open(url, "Ann"), await tabs.open(url, "Bob")
    await look(bob, away=True)
    await say(ann, "psst")
    await expect(bob).to_have_title(re.compile(rf"^\(1\) #{room}"))

    await look(bob, away=False)

    await expect(bob).to_have_title(re.compile(f"^#{room}"))


async def look(tab, *, away):
    """Say what a browser says when a tab is hidden or shown; a headless one never does."""
    await tab.evaluate(
        "away => { Object.defineProperty(document, 'hidden', {value: away, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        away,
    )


async def test_an_error_is_told_and_the_words_come_back(tabs, url):
    """What the server refuses is explained, and stands in the box again to be put right."""
    ann = await tabs.open(url, "Ann")
    await box(ann).evaluate("element => element.removeAttribute('maxlength')")
    await say(ann, "a" * 2001)

    await expect(ann.get_by_role("alert")).to_contain_text("2000")
    await expect(box(ann)).to_have_value("a" * 2001)
    await expect(ann.get_by_role("status")).to_have_text("online")


async def test_a_newcomer_reads_what_was_said_before(tabs, url):
    """It stands above the greeting; a reload shows it again, and one's own as one's own."""
    ann = await tabs.open(url, "Ann")
    await say(ann, "Who is for tea?")
    await expect(words(ann)).to_have_text(["Who is for tea?"])
    bob = await tabs.open(url, "Bob")
    await expect(lines(bob)).to_have_text(ending("Who is for tea?", "Welcome, Bob."))
    await expect(bob.locator(".message.own")).to_have_count(0)

    await ann.reload()

    await expect(lines(ann)).to_have_text(ending("Who is for tea?", "Welcome, Ann."))
    await expect(ann.locator(".message.own .words")).to_have_text(["Who is for tea?"])


async def test_another_name_keeps_what_was_said(tabs, url):
    """Who only takes another name goes on in the same log, and sees nothing twice."""
    ann = await tabs.open(url, "Ann")
    await say(ann, "I am Ann.")
    await expect(words(ann)).to_have_text(["I am Ann."])
    await ann.get_by_label("Your name").fill("Anna")
    await ann.get_by_role("button", name="Enter room").click()

    await expect(log(ann)).to_contain_text("Welcome, Anna.")
    await expect(ann.locator(".message.own .words")).to_have_text(["I am Ann."])


async def test_a_page_that_lost_its_socket_gets_what_it_missed(tabs, server, network, room, url):
    """The network was gone for a while: what was said then follows, in order, and once."""
    wire = await network(server)
    ann = await tabs.open(f"http://127.0.0.1:{wire.port}/?room={room}", "Ann")
    bob = await tabs.open(url, "Bob")
    await say(ann, "Bob?")
    await expect(words(bob)).to_have_text(["Bob?"])
    wire.black_hole()
    wire.reset()
    await expect(people(bob)).to_have_text(["Bob"])
    await expect(ann.get_by_role("status")).not_to_have_text("online")
    await say(bob, "Here I am.")
    await say(bob, "Ann?")
    await expect(words(bob)).to_have_count(3)

    wire.heal()

    await expect(lines(ann)).to_have_text(
        ending("Welcome, Ann.", "Bob joined", "Bob?", "You are back.", "Here I am.", "Ann?")
    )
    await expect(ann.locator(".message.own .words")).to_have_text(["Bob?"])
    await expect(people(ann)).to_have_text(["Ann", "Bob"])


async def test_a_page_says_when_it_cannot_know_what_it_missed(tabs, serve, network, artefacts):
    """The history began anew with the server: the page shows what there is of it, once."""
    server = await serve()
    wire = await network(server)
    ann = await tabs.open(f"http://127.0.0.1:{wire.port}/", "Ann", **PHONE)
    await say(ann, "Bob?")
    await expect(words(ann)).to_have_text(["Bob?"])
    wire.black_hole()
    wire.reset()
    await server.kill()
    await server.start()
    bob = await tabs.open(server.url, "Bob")
    await say(bob, "Ann?")
    await expect(words(bob)).to_have_text(["Ann?"])

    wire.heal()

    await expect(lines(ann)).to_have_text(
        ending("You are back. Some of what was said may be missing.", "Ann?")
    )
    await ann.screenshot(path=artefacts / "chat-phone-back.png")
    assert await widest(ann) <= PHONE["viewport"]["width"]


async def test_the_page_comes_back_after_the_server_was_killed(tabs, serve):
    """It reconnects by itself, knows who is here now, and has kept what was being written."""
    server = await serve()
    ann, bob = await tabs.open(server.url, "Ann"), await tabs.open(server.url, "Bob")
    await expect(people(ann)).to_have_text(["Ann", "Bob"])
    await say(bob, "I have to go.")
    await expect(words(ann)).to_have_text(["I have to go."])
    await server.kill()
    await expect(ann.get_by_role("status")).to_contain_text("reconnecting")
    await say(ann, "Is anybody there?")
    await expect(ann.get_by_role("button", name="Send")).to_be_disabled()
    await bob.close()

    await server.start()

    await expect(ann.get_by_role("status")).to_have_text("online")
    await expect(people(ann)).to_have_text(["Ann"])
    await expect(log(ann)).to_contain_text("You are back. Some of what was said may be missing.")
    await expect(words(ann)).to_have_text(["I have to go."])  # nothing came to replace it
    await ann.get_by_role("button", name="Send").click()
    await expect(ann.locator(".own .words")).to_have_text("Is anybody there?")


async def test_an_announcement_arrives(tabs, serve):
    """The background worker's word from the house reaches a room that has somebody in it."""
    server = await serve(TEA_ROOM_ANNOUNCE_EVERY="0.5")
    ann = await tabs.open(server.url, "Ann")

    await expect(ann.locator(".announcement").first).to_be_visible()


@pytest.mark.parametrize(
    ("look_of", "options"),
    [
        ("light", {**DESKTOP, "color_scheme": "light"}),
        ("dark", {**DESKTOP, "color_scheme": "dark"}),
        ("phone", {**PHONE, "color_scheme": "light"}),
    ],
)
async def test_everything_fits_on_the_screen(tabs, server, artefacts, look_of, options):
    """Nothing is wider than the window, on a phone neither; a picture is kept for people."""
    url = f"{server.url}/?room=tea-{look_of}"
    ann, bob = await tabs.open(url, "Ann", **options), await tabs.open(url, "Bob", **options)
    for speaker, text in CONVERSATION:
        tab = {"ann": ann, "bob": bob}[speaker]
        await say(tab, text)
        await expect(box(tab)).to_be_empty()
        await expect(log(ann)).to_contain_text(text)
    await box(bob).press_sequentially("One m")
    await expect(ann.get_by_text("Bob is typing…")).to_be_visible()
    await ann.screenshot(path=artefacts / f"chat-{look_of}.png")
    eve = await tabs.open(url, "Eve", **options)
    await expect(words(eve)).to_have_count(len(CONVERSATION))
    await eve.screenshot(path=artefacts / f"chat-{look_of}-newcomer.png")

    assert await widest(ann) <= options["viewport"]["width"]
    assert await widest(eve) <= options["viewport"]["width"]


async def widest(tab):
    """Measure how far to the right anything reaches, in pixels."""
    return await tab.evaluate(
        "Math.max(...[...document.querySelectorAll('body, body *')]"
        ".map(element => element.getBoundingClientRect().right))"
    )


async def test_a_phone_shows_who_is_here_on_demand(tabs, url, artefacts):
    """On a narrow screen the people, name and room open with a tap."""
    ann = await tabs.open(url, "Ann", **PHONE)
    await expect(people(ann)).to_be_hidden()
    await ann.get_by_role("button", name="1 here").tap()

    await expect(people(ann)).to_be_visible()
    await expect(ann.get_by_label("Your name")).to_be_visible()
    await ann.screenshot(path=artefacts / "chat-phone-people.png")
