import falcon.asgi
import msgspec

from falcon_pachinko import Hook, MessageError, WebSocketResource, handles_message, install


class Say(msgspec.Struct):
    text: str


# region: hook
class CountRefusals(Hook):
    def __init__(self):
        self.counts = {}

    async def on_refused(self, ws, refusal, frame):
        self.counts[refusal.code] = self.counts.get(refusal.code, 0) + 1


class Chat(WebSocketResource):
    hooks = (CountRefusals(),)

    @handles_message("say")
    async def say(self, ws, payload: Say):
        return payload.text

    async def on_refused(self, ws, refusal, frame):
        if refusal.code == "unknown_type":
            return MessageError("unknown_type", "This chat only knows 'say'.")
        return None


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/chat", Chat)
