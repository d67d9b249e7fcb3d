import asyncio
import datetime as dt
import os

from falcon_pachinko import Publisher


# region: cron
async def main():
    day = dt.datetime.now(dt.UTC).date().isoformat()
    async with Publisher(os.environ["BACKEND"]) as publish:
        await publish.broadcast_to_all({"type": "report.ready", "payload": day})


if __name__ == "__main__":
    asyncio.run(main())
# endregion
