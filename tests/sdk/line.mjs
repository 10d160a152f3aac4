// A TCP proxy between clients and a hub that can be cut. While it is cut, it closes every connection.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Starts a proxy to the hub, closed when the test ends. `address` is the proxy's; `bytes` counts the bytes from the hub. */
export async function line(t, hub) {
  const [host, port] = hub.address.split(":");
  const ends = new Set();
  let isCut = false;
  const server = createServer((near) => {
    if (isCut) return near.destroy();
    const far = connect(port, host);
    far.on("data", ({ length }) => (it.bytes += length));
    for (const [one, other] of [[near, far], [far, near]]) {
      ends.add(one);
      one.on("error", () => {});
      one.on("close", () => (ends.delete(one), other.destroy()));
      one.pipe(other);
    }
  });
  const cut = () => ((isCut = true), ends.forEach((end) => end.destroy()));
  const it = { sign: hub.sign, bytes: 0, cut, mend: () => (isCut = false) };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (cut(), server.close()));
  it.address = `127.0.0.1:${server.address().port}`;
  return it;
}
