// A line between clients and a hub, which can be cut: who is on it knows nothing of the other end until it is mended.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Counts the `bytes` that the hub has said; `address` is the near end, as a hub's. Is gone with the test. */
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
