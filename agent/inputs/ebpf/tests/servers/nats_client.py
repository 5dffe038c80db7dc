"""Publishes to itself, and asks itself."""

import asyncio
import sys

import nats


async def main():
    client = await nats.connect("nats://127.0.0.1:" + sys.argv[1])
    done = asyncio.Event()
    seen = []

    async def take(message):
        seen.append(message)
        if len(seen) == 10:
            done.set()

    async def answer(message):
        await message.respond(b"answer")

    await client.subscribe("orders.new", cb=take)
    await client.subscribe("orders.get", cb=answer)
    for _ in range(10):
        await client.publish("orders.new", b"order")
        await client.flush()
    await asyncio.wait_for(done.wait(), 10)
    for _ in range(5):
        await client.request("orders.get", b"which", timeout=10)
    await client.close()


asyncio.run(main())
