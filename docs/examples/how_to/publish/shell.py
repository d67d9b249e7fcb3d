# region: shell
import os

from falcon_pachinko import Publisher, to

with Publisher.sync(os.environ["BACKEND"]) as publish:
    publish.broadcast({"type": "notice", "payload": "Back at ten."}, to=to.tag("staff"))
# endregion
