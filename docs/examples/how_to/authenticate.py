from datetime import UTC, datetime, timedelta

import falcon
import falcon.asgi
import msgspec

from falcon_pachinko import Principal, WebSocketResource, handles_message, install


# region: authenticate
class Session(msgspec.Struct):
    user_id: str
    roles: list[str]
    ends: datetime


SESSIONS = {"5f2a": Session("ann", ["staff"], ends=datetime.now(UTC) + timedelta(hours=1))}


async def authenticate(req):
    session = SESSIONS.get(req.cookies.get("session"))
    if session is None or session.ends <= datetime.now(UTC):
        raise falcon.HTTPUnauthorized(description="Log in first.")
    return Principal(user_id=session.user_id, tags=session.roles, expires_at=session.ends)


class Desk(WebSocketResource):
    @handles_message("whoami")
    async def whoami(self, ws):
        return {"user": ws.user_id, "tags": sorted(ws.tags)}


app = falcon.asgi.App()
install(app, authenticate=authenticate)
app.add_websocket_route("/desk", Desk)
# endregion
