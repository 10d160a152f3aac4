"""Clients that watch a deployment while tests/compose.sh breaks it: compose_watch.py URL API_URL COUNT TOKEN API_KEY STOP_FILE

COUNT clients subscribe through the load balancer, and reconnect and recover as SDKs do. Meanwhile publications are sent over
HTTP, each once, whatever is answered. When STOP_FILE exists, the result is printed: how many publications were answered with
ok, how many of those a client lost or received twice, and how many recoveries failed.
"""
import asyncio, json, os, random, sys, urllib.error, urllib.request, websockets

URL, API_URL, COUNT, TOKEN, KEY, STOP_FILE = *sys.argv[1:3], int(sys.argv[3]), *sys.argv[4:7]
CHANNEL, INTERVAL = "watched", 0.05
accepted, clients, unrecovered, reconnects = set(), [], 0, 0


class Client:
    def __init__(self):
        self.position, self.received, self.is_live = None, [], False

    async def run(self):
        global reconnects
        while True:
            try:
                async with websockets.connect(f"{URL}/connection/websocket", open_timeout=5, close_timeout=1, ping_interval=None) as socket:
                    await self.receive(socket)
            except (OSError, asyncio.TimeoutError, websockets.WebSocketException):
                pass
            reconnects += self.is_live
            self.is_live = False
            await asyncio.sleep(random.uniform(0.2, 0.6))

    async def receive(self, socket):
        await socket.send(json.dumps({"id": 1, "connect": {"token": TOKEN}}))
        while True:
            # The hub sends a ping every 25 s.
            frame = await asyncio.wait_for(socket.recv(), 35)
            for reply in map(json.loads, frame.splitlines()):
                await self.handle(socket, reply)

    async def handle(self, socket, reply):
        push = reply.get("push", {})
        if reply == {}:
            await socket.send("{}")
        elif "connect" in reply or "unsubscribe" in push:
            await self.subscribe(socket)
        elif "error" in reply:
            await asyncio.sleep(0.5)
            await self.subscribe(socket)
        elif "subscribe" in reply:
            self.on_subscribed(reply["subscribe"])
        elif "pub" in push:
            self.on_publication(push["pub"])

    async def subscribe(self, socket):
        position = {"recover": True, **self.position} if self.position else {}
        await socket.send(json.dumps({"id": 2, "subscribe": {"channel": CHANNEL, "positioned": True, "recoverable": True, **position}}))

    def on_subscribed(self, result):
        global unrecovered
        if self.position is None or not result.get("recovered"):
            unrecovered += self.position is not None
            self.position = {"epoch": result["epoch"], "offset": result.get("offset", 0)}
        for publication in result.get("publications", []):
            self.on_publication(publication)
        self.is_live = True

    def on_publication(self, publication):
        self.position["offset"] = publication["offset"]
        self.received.append(publication["data"])


def publish(number):
    body = json.dumps({"channel": CHANNEL, "data": number}).encode()
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{API_URL}/api/publish", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            if "result" in json.load(response):
                accepted.add(number)
    except (OSError, ValueError):
        pass


async def publish_steadily():
    loop, number = asyncio.get_running_loop(), 0
    while not os.path.exists(STOP_FILE):
        loop.run_in_executor(None, publish, number)
        number += 1
        await asyncio.sleep(INTERVAL)
    await asyncio.sleep(1)


async def wait_for(holds, seconds):
    for _ in range(int(seconds / INTERVAL)):
        if holds():
            return
        await asyncio.sleep(INTERVAL)


async def main():
    clients.extend(Client() for _ in range(COUNT))
    tasks = [asyncio.create_task(client.run()) for client in clients]
    await wait_for(lambda: all(client.is_live for client in clients), 20)
    await publish_steadily()
    await wait_for(lambda: all(accepted <= set(client.received) for client in clients), 20)
    lost = sum(len(accepted - set(client.received)) for client in clients)
    doubled = sum(len(client.received) - len(set(client.received)) for client in clients)
    print(f"{len(accepted)} accepted, {reconnects} reconnects", file=sys.stderr)
    print(f"{lost} lost, {doubled} doubled, {unrecovered} not recovered{'' if accepted else ', nothing was accepted'}")
    for task in tasks:
        task.cancel()


asyncio.run(main())
