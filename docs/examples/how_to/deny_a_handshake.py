import falcon
import falcon.asgi

from falcon_pachinko import Hook, WebSocketResource, install, to

# region: statuses
SEATS = {"window": 1, "door": 4}


class Table(WebSocketResource):
    async def on_connect(self, req, ws, table):
        if table not in SEATS:
            raise falcon.HTTPNotFound(description=f"There is no table called {table}.")
        if await ws.manager.count(to.room(table)) >= SEATS[table]:
            raise falcon.HTTPServiceUnavailable(description="It is taken.", retry_after=600)
        await self.join_room(table)
        return True


# endregion


# region: codes
class TableForPages(WebSocketResource):
    async def on_connect(self, req, ws, table):
        if await ws.manager.count(to.room(f"page:{table}")) >= SEATS[table]:
            await ws.accept()
            await ws.close(4001, "This table is taken.")
            return None
        await self.join_room(f"page:{table}")
        return True


# endregion


# region: hook
class MembersOnly(Hook):
    async def before_connect(self, req, ws, params):
        if ws.user_id is None:
            raise falcon.HTTPUnauthorized(description="This is for members.")


class BackRoom(WebSocketResource):
    hooks = (MembersOnly(),)


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/tables/{table}", Table)
app.add_websocket_route("/pages/tables/{table}", TableForPages)
app.add_websocket_route("/back-room", BackRoom)
