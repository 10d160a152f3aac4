// A TCP proxy between clients and a hub that can be cut. While it is cut, it closes every connection.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Passes on what arrives, at most so many bytes per second: each chunk holds up the next one for the time that it takes. */
function throttle(from, to, bytesPerSecond) {
  from.on("data", (chunk) => {
    to.write(chunk);
    from.pause();
    setTimeout(() => from.resume(), (1000 * chunk.length) / bytesPerSecond);
  });
}

/**
 * Starts a proxy to the hub, closed when the test ends: to each node in turn, if it has several, so that a client that
 * reconnects lands on another one. `address` is the proxy's; `bytes` counts the bytes from the hub, which arrive at a rate of
 * at most `bytesPerSecond`.
 */
export async function startProxy(t, hub, { bytesPerSecond } = {}) {
  const addresses = hub.addresses ?? [hub.address];
  let accepted = 0;
  const ends = new Set();
  let isCut = false;
  const server = createServer((near) => {
    if (isCut) return near.destroy();
    const [host, port] = addresses[accepted++ % addresses.length].split(":");
    const far = connect(port, host);
    far.on("data", ({ length }) => (proxy.bytes += length));
    for (const [one, other] of [[near, far], [far, near]]) {
      ends.add(one);
      one.on("error", () => {});
      one.on("close", () => (ends.delete(one), other.destroy()));
      if (bytesPerSecond && one === far) throttle(far, near, bytesPerSecond);
      else one.pipe(other);
    }
  });
  const cut = () => ((isCut = true), ends.forEach((end) => end.destroy()));
  const proxy = { sign: hub.sign, bytes: 0, cut, restore: () => (isCut = false) };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (cut(), server.close()));
  proxy.address = `127.0.0.1:${server.address().port}`;
  return proxy;
}
