"""Mainstay with Python: cache and database by the standard library, realtime by centrifuge-python.

pip install centrifuge-python; EDGE, API_KEY, WEBSOCKET and TOKEN say where and as whom.
"""

import asyncio
import json
import os
import urllib.request

EDGE = os.environ["EDGE"]


def call(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
    request = urllib.request.Request(EDGE + path, data=body, method=method)
    request.add_header("x-api-key", os.environ["API_KEY"])
    request.add_header("content-type", kind)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def cache() -> None:
    call("PUT", "/cache/quickstart/python", b"hello", "text/plain")
    assert call("GET", "/cache/quickstart/python") == b"hello"
    call("DELETE", "/cache/quickstart/python")
    print("cache: stored, read, deleted")


def database() -> None:
    query = {"sql": "select $1::int + 1 as next", "params": [41]}
    answer = json.loads(call("POST", "/database/query", json.dumps(query).encode()))
    assert answer["rows"] == [[42]], answer
    print("database: answered by", answer["served"]["node"])


async def realtime() -> None:
    from centrifuge import Client, PublicationContext, SubscriptionEventHandler

    received: asyncio.Future = asyncio.get_running_loop().create_future()

    class Events(SubscriptionEventHandler):
        async def on_publication(self, context: PublicationContext) -> None:
            if not received.done():
                received.set_result(context.pub.data)

    client = Client(os.environ["WEBSOCKET"], token=os.environ["TOKEN"])
    await client.connect()
    subscription = client.new_subscription("news", events=Events())
    await subscription.subscribe()
    await subscription.ready()
    message = {"channel": "news", "data": {"from": "python"}}
    await asyncio.to_thread(call, "POST", "/realtime/publish", json.dumps(message).encode())
    print("realtime: received", await asyncio.wait_for(received, 10))
    await client.disconnect()


cache()
database()
asyncio.run(realtime())
