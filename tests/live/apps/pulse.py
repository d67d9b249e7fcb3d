"""How a server under test is doing: its tasks, its connections, and how late its loop ever was."""

import asyncio
import time

TICK = 0.005


class Pulse:
    """A worker that wakes every few milliseconds, and the HTTP resource that tells how it went."""

    def __init__(self, app):
        """Be the app's ``/pulse``, and one of its workers."""
        self.late = self.worked = 0.0
        self.manager = app.ws_connection_manager
        app.add_route("/pulse", self)
        app.add_websocket_worker(self.beat)

    async def beat(self, manager):
        """Note the longest time that the loop kept this waiting, on the clock and of the CPU."""
        while True:
            asked, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK)
            self.late = max(self.late, time.perf_counter() - asked - TICK)
            self.worked = max(self.worked, time.thread_time() - worked)

    async def on_get(self, req, resp):
        """Tell what was noted since the last time, in milliseconds, and begin anew."""
        resp.media = {
            "late": self.late * 1000,
            "worked": self.worked * 1000,
            "tasks": len(asyncio.all_tasks()),
            **self.manager.status(),
        }
        self.late = self.worked = 0.0
