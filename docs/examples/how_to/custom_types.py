import ipaddress
from pathlib import PurePosixPath

import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install


# region: hooks
def enc_hook(value):
    if isinstance(value, (PurePosixPath, ipaddress.IPv4Address)):
        return str(value)
    # msgspec's word for "not mine": the sender or the client is told that it does not fit
    raise NotImplementedError(f"no message holds a {type(value).__name__}")


def dec_hook(wanted, value):
    if wanted in (PurePosixPath, ipaddress.IPv4Address):
        return wanted(value)
    # msgspec's word for "not mine": the sender or the client is told that it does not fit
    raise NotImplementedError(f"no message holds a {wanted.__name__}")


app = falcon.asgi.App()
install(app, enc_hook=enc_hook, dec_hook=dec_hook)
# endregion


# region: use
class Move(msgspec.Struct):
    path: PurePosixPath
    to: ipaddress.IPv4Address


class Files(WebSocketResource):
    @handles_message("move")
    async def move(self, ws, payload: Move):
        return {"moved": payload.path.parent / "moved", "to": payload.to}


# endregion
app.add_websocket_route("/files", Files)
