"""Clients of a cluster who number what they say, and come back wherever they can."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter, deque
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException


class Client:
    """Sits in three rooms, talks, listens, and comes back wherever it can, with its positions."""

    def __init__(self, name, rooms, load):
        self.name, self.rooms, self._load = name, rooms, load
        self.model, self.chance = load.model, random.Random(f"{load.seed} {name}")
        self.life = 0
        self.numbers = Counter()
        self.positions = {}
        self.present = {}
        """Who is here, by room with presence, as it was told."""
        self.told = deque(maxlen=16)
        """What it was told of presence last, for explanations."""
        self.seats = {}
        self._socket = None
        self._answers = {}
        self._refs = 0

    @property
    def seated(self):
        """Whether it is in all of its rooms."""
        return len(self.seats) == len(self.rooms)

    async def live(self):
        """Come back for as long as there is a cluster to come to."""
        while not self._load.over:
            slots = [each for each in self._load.slots if each.server is not None]
            if not slots:
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                await self._live_once(self.chance.choice(slots))
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))

    async def _live_once(self, slot):
        self.life += 1
        rooms = {room: self.positions.get(room) for room in self.rooms}
        query = {"name": self.name, "life": self.life, "rooms": json.dumps(rooms)}
        url = f"{slot.server.url}/seat?{urlencode(query)}"
        process = slot.name
        socket = await connect(
            url, compression=None, max_queue=None, open_timeout=8, ping_interval=None
        )
        self._socket = socket
        listening = asyncio.create_task(self._listen(socket, process))
        talking = asyncio.create_task(self._talk(socket, process))
        try:
            await asyncio.wait((listening, talking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end(socket)
            talking.cancel()
            listening.cancel()
            results = await asyncio.gather(listening, talking, return_exceptions=True)
            with contextlib.suppress(WebSocketException):
                await socket.wait_closed()
            for each in results:
                if isinstance(each, Exception) and not isinstance(
                    each, OSError | WebSocketException
                ):
                    raise each

    def _end(self, socket):
        now = time.monotonic()
        socket.transport.abort()
        for seat in self.seats.values():
            self.model.stands_up(seat, now)
        self.seats.clear()
        self.present.clear()
        for answer in self._answers.values():
            answer.cancel()
        self._answers.clear()
        self._socket = None

    def drop(self):
        """Lose the connection, and what is on its way."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def leave(self):
        """Close the connection, or lose it."""
        if self._socket is not None and self.chance.random() < 0.5:
            await self._socket.close()
        self.drop()

    async def _listen(self, socket, process):
        waiting = {}
        async for frame in socket:
            message, now = json.loads(frame), time.monotonic()
            payload = message.get("payload")
            match message["type"]:
                case "said":
                    self._hear(message, payload, now)
                case "joined":
                    # It is in the room since it was told so, and was told of it maybe before.
                    seat = waiting.pop(payload, None) or self._sit(payload, process, now)
                    seat.began = now
                    self.seats[payload] = seat
                case "reply":
                    answer = self._answers.pop(message["ref"], None)
                    if answer is not None and not answer.done():
                        answer.set_result(payload)
                case "resync":
                    if payload["room"] in self.seats:
                        self.model.told_of_gap(self.seats[payload["room"]], now)
                case "history.state":
                    room = payload["room"]
                    if room not in self.seats:
                        self.seats[room] = self._sit(room, process, now)
                    self.model.told_state(self.seats[room], payload, now)
                    self._keep_position(room)
                case "presence.state":
                    self.told.append(f"{now:.3f} life {self.life}: {sorted(payload['present'])}")
                    self.present[payload["room"]] = set(payload["present"])
                case "presence.diff":
                    came, went = sorted(payload["joins"]), sorted(payload["leaves"])
                    self.told.append(f"{now:.3f} life {self.life}: +{came} -{went}")
                    here = self.present.setdefault(payload["room"], set())
                    here.update(payload["joins"])
                    here.difference_update(payload["leaves"])
                case other:
                    self.model.violate("unknown", f"{self.name} got {other}: {frame!r:.300}")

    def _sit(self, room, process, now):
        return self.model.sits_down(self.name, self.life, room, process, now)

    def _hear(self, message, payload, now):
        room = payload["room"]
        seat = self.seats.get(room)
        if seat is None:
            return  # it is not in the room yet, as far as it knows
        place = message.get("history")
        if place is not None:
            place = place["epoch"], place["offset"]
        self.model.got(seat, payload["by"], payload["life"], payload["number"], place, now)
        if room.startswith("kept:"):
            self._keep_position(room)

    def _keep_position(self, room):
        reader = self.model.readers[self.name, room]
        known = reader.position is not None and not reader.anew
        self.positions[room] = list(reader.position) if known else None

    async def _talk(self, socket, process):
        while not self.seated:  # noqa: ASYNC110  # what arrives makes it so
            await asyncio.sleep(0.05)
        while True:
            await asyncio.sleep(self.chance.uniform(0.3, 1.2))
            if not self._load.talking:
                continue
            for _ in range(self.chance.choice([1, 1, 2, 4])):
                await self._say(socket, process, self.chance.choice(self.rooms))
            if not await self.answered() and self.chance.random() < 0.5:
                return  # it has no patience
            if self.chance.random() < 0.03:
                return

    async def answered(self):
        """Wait for the answers; whether they all came."""
        if self._answers:
            await asyncio.wait(tuple(self._answers.values()), timeout=5)
        return not self._answers

    async def _say(self, socket, process, room):
        self.numbers[room] += 1
        number, life = self.numbers[room], self.life
        self._refs += 1
        ref = self._refs
        answer = self._answers[ref] = asyncio.get_running_loop().create_future()

        def note(done):
            if not done.cancelled():
                self.model.answered(self.name, room, number, published=done.result())

        answer.add_done_callback(note)
        payload = {"room": room, "life": life, "number": number}
        self.model.sends(self.name, life, room, process, number, time.monotonic())
        await socket.send(json.dumps({"type": "say", "payload": payload, "ref": ref}))

    async def say_everywhere(self):
        """Say something in each of its rooms, if it is seated; wait for the answers a while."""
        socket, process = self._socket, next(iter(self.seats.values())).process
        for room in self.rooms:
            await self._say(socket, process, room)
        await self.answered()
