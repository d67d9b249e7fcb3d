import asyncio

import falcon.asgi

from falcon_pachinko import WebSocketResource, WorkerController, current_lease, install, worker

PRICES = asyncio.Queue()


# region: workers
@worker(name="kettle", backoff=(1, 60))
async def announce(manager):
    while True:
        await asyncio.sleep(20)
        await manager.broadcast_to_all({"type": "notice", "payload": "The kettle is on."})


@worker(critical=True)
async def forward(manager, prices):
    while True:
        price = await prices.get()
        await manager.broadcast_to_room("prices", {"type": "price", "payload": price})


app = falcon.asgi.App()
install(app)
app.add_websocket_worker(announce)
app.add_websocket_worker(forward, app.ws_connection_manager, PRICES)
# endregion


# region: singleton
@worker(singleton=True)
async def bill(manager, ledger):
    while True:
        customer = await ledger.next_due()
        await ledger.charge(customer, fence=current_lease().token)
        await manager.send_to_user(customer, {"type": "charged"})


# endregion


# region: cleanup
async def keep_time(manager, clock):
    await clock.open()
    try:
        while True:
            await manager.broadcast_to_all({"type": "time", "payload": await clock.tick()})
    finally:
        await clock.close()


# endregion


# region: alone
async def count_down(start, over):
    for number in range(start, 0, -1):
        print(number)
    over.set()


async def main():
    over = asyncio.Event()
    controller = WorkerController()
    controller.add(count_down, 3, over)
    await controller.start()
    await over.wait()
    await controller.stop()


if __name__ == "__main__":
    asyncio.run(main())
# endregion


class Prices(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("prices")
        return True


app.add_websocket_route("/prices", Prices)
