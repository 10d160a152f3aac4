// One subscription of a client: its token, its position in the history of the channel, and how its last recovery went.

export class Subscription {
  /** A subscription token, as names that begin with `$` require; null without one. */
  token = null;
  /** {offset, epoch} of the newest publication that it knows; null in a channel without history. */
  position = null;
  /** {isRecovered, missed} of the last time that it asked for what it had missed; null if it did not ask. */
  recovery = null;
  /** Publications received. */
  received = 0;
  /** Whether the hub subscribed the client, because its token or the server API said so. */
  isServerSide = false;

  /** Returns the body of the `subscribe` command. Channels without history ignore the question for a position. */
  request(channel) {
    const { token, position } = this;
    return { channel, ...(token && { token }), recoverable: true, ...(position && { recover: true, ...position }) };
  }

  /** Applies a result of `subscribe`, or a `subscribe` push. Returns the recovered publications. */
  apply({ positioned, epoch = "", offset = 0, was_recovering, recovered = false, publications = [] }) {
    this.position = positioned ? { offset, epoch } : null;
    this.recovery = was_recovering ? { isRecovered: recovered, missed: publications.length } : null;
    for (const publication of publications) this.receive(publication);
    return publications;
  }

  receive({ offset }) {
    this.received += 1;
    if (this.position && offset) this.position = { ...this.position, offset };
  }
}
