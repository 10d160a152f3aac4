"""A TCP proxy between clients and a hub that can be cut, like proxy.mjs."""

import asyncio
import itertools

HEAD_END = b"\r\n\r\n"


class Proxy:
    """`address` is the proxy's; `bytes` counts the bytes from the hub. If the hub is several nodes, each connection goes to the
    next of them, so that a client that reconnects lands on another one. With `client_speaks_first`, what the hub sends behind
    its 101 waits for the client's first frame, which is on its way at that time over any network but loopback."""

    def __init__(self, hub, client_speaks_first=False):
        self.client_speaks_first = client_speaks_first
        self.turn = itertools.cycle(getattr(hub, "hubs", [hub]))
        self.is_cut = False
        self.bytes = 0
        self.ends = set()
        self.carrying = set()

    async def open(self):
        self.server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = "127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]
        return self

    async def close(self):
        self.cut()
        self.server.close()
        await asyncio.gather(*self.carrying)

    def cut(self):
        self.is_cut = True
        for end in self.ends:
            end.transport.abort()

    def restore(self):
        self.is_cut = False

    async def _carry(self, from_near, to_near):
        if self.is_cut:
            to_near.transport.abort()
            return
        task = asyncio.current_task()
        self.carrying.add(task)
        self.ends.add(to_near)
        host, port = next(self.turn).address.split(":")
        try:
            from_far, to_far = await asyncio.open_connection(host, int(port))
            self.ends.add(to_far)
            has_spoken = asyncio.Event()
            await asyncio.gather(self._carry_requests(from_near, to_far, has_spoken),
                                 self._carry_responses(from_far, to_near, has_spoken))
            self.ends.discard(to_far)
        except ConnectionError:
            to_near.transport.abort()
        finally:
            self.ends.discard(to_near)
            self.carrying.discard(task)

    async def _carry_requests(self, from_near, to_far, has_spoken):
        try:
            if self.client_speaks_first:
                to_far.write(await from_near.readuntil(HEAD_END))
                to_far.write(await from_near.read(65536))
        except asyncio.IncompleteReadError:
            pass
        has_spoken.set()
        await self._pass_on(from_near, to_far)

    async def _carry_responses(self, from_far, to_near, has_spoken):
        try:
            if self.client_speaks_first:
                to_near.write(await from_far.readuntil(HEAD_END))
                await has_spoken.wait()
        except asyncio.IncompleteReadError:
            pass
        await self._pass_on(from_far, to_near, self._count)

    def _count(self, data):
        self.bytes += len(data)

    @staticmethod
    async def _pass_on(source, sink, seen=lambda data: None):
        try:
            while data := await source.read(65536):
                seen(data)
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        # When one end closes, close the other.
        sink.close()
