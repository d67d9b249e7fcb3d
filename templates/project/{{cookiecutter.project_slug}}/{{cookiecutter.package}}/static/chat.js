// The chat in the browser: one WebSocket, and what it brings put on the page.
// The words that travel over it are declared in messages.py, on the server.

const FIRST_RETRY = 500; // milliseconds; doubles with every failure …
const LONGEST_RETRY = 15_000; // … up to this
const LONGEST_HINT = 60_000; // a server that wants us later than that is not believed
const ANSWER_WITHIN = 10_000; // a server that is silent for longer is gone
const TYPING_REPEAT = 3_000; // whoever goes on writing says so this often
const TYPING_PAUSE = 2_000; // no key for this long: we stopped writing
const TYPING_EXPIRES = 6_000; // not repeated for this long: they stopped writing
const PROBLEM_SHOWN = 6_000;
const LOG_LENGTH = 500; // older entries leave the page
const IDS_KEPT = 100; // of connections that were ours; the server keeps no more messages than that

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const appTitle = document.title;

// ------------------------------------------------------------ our name, our room

let name = recall("sessionStorage", "name") ?? recall("localStorage", "name") ?? guestName();
let room = roomInAddress();
let ourIds = (recall("sessionStorage", "ids") ?? "").split(" "); // every connection has another one
remember("sessionStorage", "name", name); // a reload keeps even a guest's name; a second tab gets its own

function guestName() {
  const manners = ["Brave", "Bright", "Calm", "Clever", "Gentle", "Happy", "Merry", "Quick", "Quiet", "Sunny"];
  const animals = ["Badger", "Crane", "Dolphin", "Fox", "Heron", "Lynx", "Otter", "Owl", "Panda", "Robin"];
  const anyOf = (words) => words[Math.floor(Math.random() * words.length)];
  return `${anyOf(manners)} ${anyOf(animals)}`;
}

function recall(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null; // this browser refuses storage; what it should keep lives as long as the page
  }
}

function remember(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // as above
  }
}

function roomInAddress() {
  return roomName(new URLSearchParams(location.search).get("room") ?? "");
}

/** Letters and digits of any script, - and _: a name that needs no escaping in an address. */
function roomName(wish) {
  return [...wish.trim().replace(/[^\p{L}\p{M}\p{N}_-]+/gu, "-")].slice(0, 40).join("") || "lobby";
}

page.door.addEventListener("submit", (event) => {
  event.preventDefault();
  name = page.door.elements.name.value.trim() || name;
  remember("sessionStorage", "name", name);
  remember("localStorage", "name", name);
  const chosen = roomName(page.door.elements.room.value);
  if (chosen !== room) history.pushState(null, "", `?room=${encodeURIComponent(chosen)}`);
  showPeople(false);
  enterRoom();
});

window.addEventListener("popstate", enterRoom);

function enterRoom() {
  if (room !== roomInAddress()) clearLog();
  room = roomInAddress();
  me = undefined;
  page.room.textContent = `#${room}`;
  page.door.elements.name.value = name;
  page.door.elements.room.value = room;
  showTitle();
  connect();
  page.text.focus();
}

// -------------------------------------------------------------- the connection

let socket; // the one that counts: what an earlier one still brings is ignored
let failures = 0;
let countdown;
let lastRef = 0;
const unanswered = new Map(); // ref → a text that the server has not confirmed

function connect() {
  hangUp();
  showState("connecting");
  const address = new URL(`/ws/chat/${encodeURIComponent(room)}`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.searchParams.set("name", name);
  if (position) {
    address.searchParams.set("epoch", position.epoch);
    address.searchParams.set("offset", position.offset);
  }

  const current = new WebSocket(address);
  current.addEventListener("message", (event) => current === socket && receive(JSON.parse(event.data)));
  current.addEventListener("close", (event) => current === socket && reconnectSoon(retryIn(event.reason)));
  socket = current;
}

/** Forget the connection; what it left unconfirmed goes back into the box. */
function hangUp() {
  clearInterval(countdown);
  const dropped = socket;
  socket = undefined;
  dropped?.close();
  takeBack(...unanswered.keys());
  for (const id of typists.keys()) forgetTypist(id);
}

/** A server that restarts says in its close reason when it wants to be asked again: milliseconds. */
function retryIn(reason) {
  const [, seconds] = /retry in ([0-9.]+) s/.exec(reason) ?? [];
  return Math.min(Number(seconds) * 1000, LONGEST_HINT) || 0;
}

function reconnectSoon(hint = 0) {
  hangUp();
  const longest = Math.min(FIRST_RETRY * 2 ** failures, LONGEST_RETRY);
  const due = Date.now() + hint + longest * (0.5 + Math.random() / 2); // so that a whole room does not return at once
  failures += 1;
  showState("reconnecting");
  const tick = () => {
    const left = due - Date.now();
    if (left <= 0) return connect();
    page.countdown.textContent = ` in ${Math.ceil(left / 1000)} s`;
  };
  countdown = setInterval(tick, 100);
  tick();
}

window.addEventListener("online", () => page.status.dataset.state === "reconnecting" && connect());

function showState(state) {
  page.status.dataset.state = state;
  page.state.textContent = state;
  page.countdown.textContent = "";
  page.send.disabled = state !== "online";
}

function send(type, payload, ref) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, payload, ref }));
}

/** Say it, and keep it until the server has answered: nothing is lost silently. */
function say(text) {
  lastRef += 1;
  const ref = String(lastRef);
  unanswered.set(ref, text);
  send("say", { text }, ref);
  setTimeout(() => unanswered.has(ref) && reconnectSoon(), ANSWER_WITHIN);
}

function takeBack(...refs) {
  const texts = refs.map((ref) => unanswered.get(ref));
  for (const ref of refs) unanswered.delete(ref);
  page.text.value = [...texts, page.text.value].filter(Boolean).join("\n");
  fitText();
}

// ------------------------------------------------------------- what we receive

let me; // {id, name}, from the first welcome on
let position; // how far the log goes: {epoch, offset}, which the server counts; undefined: it is empty
let greeting = ""; // to be shown when it is known what was missed
let earlier = 0; // so many messages of before our time are still to come
let members = new Map(); // id → {id, name}
const typists = new Map(); // id → {name, timer}

const receivers = {
  welcome({ you }) {
    greeting = me === undefined ? `Welcome, ${you.name}.` : "You are back.";
    me = you;
    ourIds = [...ourIds, you.id].slice(-IDS_KEPT);
    remember("sessionStorage", "ids", ourIds.join(" "));
    failures = 0;
    toldTyping = 0;
    showState("online");
  },
  /** Recovered: what follows is what we missed. Else it is all that the room has kept. */
  "history.state"({ recovered, epoch, offset, messages = 0 }) {
    const returning = position !== undefined;
    earlier = recovered ? 0 : messages;
    if (earlier > 0) clearLog();
    if (messages === 0 && epoch) position = { epoch, offset };
    if (returning && !recovered) greeting += " Some of what was said may be missing.";
    if (returning || earlier === 0) greet(); // a newcomer finds the greeting below what was said before
  },
  "presence.state"({ present }) {
    members = new Map(Object.entries(present).map(([id, [{ name }]]) => [id, { id, name }]));
    showMembers();
  },
  "presence.diff"({ joins, leaves }) {
    for (const [id, [{ name: who }]] of Object.entries(joins)) {
      members.set(id, { id, name: who });
      showNotice(`${who} joined`);
    }
    for (const [id, [{ name: who }]] of Object.entries(leaves)) {
      members.delete(id);
      forgetTypist(id);
      showNotice(`${who} left`);
    }
    showMembers();
  },
  said(message) {
    forgetTypist(message.id);
    showMessage(message);
  },
  typing({ id, name: who, active }) {
    forgetTypist(id);
    if (active) typists.set(id, { name: who, timer: setTimeout(forgetTypist, TYPING_EXPIRES, id) });
    showTypists();
  },
  announcement({ text }) {
    showEntry(make("p", "announcement", text));
  },
  reply(_, ref) {
    unanswered.delete(ref);
  },
  error({ message }, ref) {
    takeBack(ref);
    showProblem(message);
  },
};

/** A newer server may know more words than this page: those are passed over. */
function receive({ type, payload, ref, history: place }) {
  if (Object.hasOwn(receivers, type)) receivers[type](payload, ref);
  if (place === undefined) return; // it is not kept
  position = place;
  if (earlier > 0) earlier -= 1;
  if (earlier === 0) greet();
}

function greet() {
  const words = greeting.trim();
  greeting = "";
  if (words && words !== page.log.lastElementChild?.textContent) showNotice(words); // once, however shaky the network
}

function forgetTypist(id) {
  clearTimeout(typists.get(id)?.timer);
  if (typists.delete(id)) showTypists();
}

// ----------------------------------------------------------------- what we show

/** What comes from other people enters the page here, as text and never as HTML. */
function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function makeAvatar(who) {
  const avatar = make("span", "avatar", [...who][0].toUpperCase());
  const hue = [...who].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 0);
  avatar.style.setProperty("--hue", hue);
  avatar.ariaHidden = "true";
  return avatar;
}

function showMessage({ id, name: author, text, at }) {
  const own = ourIds.includes(id);
  const entry = make("article", own ? "message own" : "message");
  entry.dataset.author = id;
  if (page.log.lastElementChild?.dataset.author === id) entry.classList.add("continued");

  const when = make("time", "", new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  when.dateTime = at;
  const words = make("p", "words", text);
  words.dir = "auto";
  entry.append(makeAvatar(author), make("span", "author", own ? "You" : author), when, words);
  showEntry(entry);

  if (document.hidden && !own && earlier === 0) unread += 1;
  showTitle();
}

function showNotice(text) {
  showEntry(make("p", "notice", text));
}

let atEnd = true;

function showEntry(entry) {
  page.log.append(entry);
  if (page.log.children.length > LOG_LENGTH) page.log.firstElementChild.remove();
  if (atEnd) scrollToEnd();
  else page.newest.hidden = false;
}

function clearLog() {
  page.log.replaceChildren();
  page.newest.hidden = atEnd = true;
  position = undefined;
}

function scrollToEnd() {
  page.log.scrollTop = page.log.scrollHeight;
}

page.newest.addEventListener("click", scrollToEnd);
page.log.addEventListener("scroll", () => {
  atEnd = page.log.scrollHeight - page.log.scrollTop - page.log.clientHeight < 40;
  if (atEnd) page.newest.hidden = true;
});
new ResizeObserver(() => atEnd && scrollToEnd()).observe(page.log); // a phone's keyboard opens, the box grows

function showMembers() {
  const isMe = (member) => member.id === me?.id;
  const sorted = [...members.values()].sort(
    (one, other) => isMe(other) - isMe(one) || one.name.localeCompare(other.name),
  );
  page.members.replaceChildren(
    ...sorted.map((member) => {
      const item = make("li", isMe(member) ? "own" : "");
      item.append(makeAvatar(member.name), make("span", "name", member.name));
      return item;
    }),
  );
  for (const count of document.querySelectorAll(".count")) count.textContent = members.size;
}

function showTypists() {
  const names = [...typists.values()].map((typist) => typist.name);
  if (names.length === 0) page.typing.textContent = "";
  else if (names.length === 1) page.typing.textContent = `${names[0]} is typing…`;
  else if (names.length === 2) page.typing.textContent = `${names[0]} and ${names[1]} are typing…`;
  else page.typing.textContent = `${names.length} people are typing…`;
}

let problemTimer;

function showProblem(text) {
  page.problem.textContent = text;
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => page.problem.textContent = "", PROBLEM_SHOWN);
}

function showPeople(open) {
  page.people.classList.toggle("open", open);
  page.toggle.ariaExpanded = String(open);
}

page.toggle.addEventListener("click", () => showPeople(!page.people.classList.contains("open")));

let unread = 0;

function showTitle() {
  document.title = `${unread ? `(${unread}) ` : ""}#${room} · ${appTitle}`;
}

document.addEventListener("visibilitychange", () => {
  unread = 0;
  showTitle();
});

// ---------------------------------------------------------------- what we write

let toldTyping = 0; // when we last told the room that we write; 0: it thinks we do not
let pause;

function tellTyping(active) {
  clearTimeout(pause);
  if (active) pause = setTimeout(tellTyping, TYPING_PAUSE, false);
  const known = active ? Date.now() - toldTyping < TYPING_REPEAT : toldTyping === 0;
  if (known) return;
  toldTyping = active ? Date.now() : 0;
  send("typing", { active });
}

function fitText() {
  page.text.style.height = "auto";
  page.text.style.height = `${page.text.scrollHeight}px`;
}

page.text.addEventListener("input", () => {
  fitText();
  tellTyping(page.text.value.trim() !== "");
});

page.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.composer.requestSubmit();
});

page.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = page.text.value.trim();
  if (text === "" || page.send.disabled) return; // offline: it stays in the box
  page.text.value = "";
  fitText();
  say(text);
  tellTyping(false);
});

enterRoom();
