// Subscribing and publishing.

import { forCommand } from "./advice.js";
import { $, busy, chosen } from "./dom.js";
import * as hub from "./hub.js";
import { about, draw, page, say } from "./state.js";

export async function subscribe(event) {
  event.preventDefault();
  const channel = $("subscribe-channel").value;
  await busy($("subscribe"), async () => {
    try {
      await page.link.subscribe(channel);
      $("subscribe-channel").value = "";
      about({ name: "subscribe", channel });
    } catch (error) {
      say(forCommand(error, channel));
    }
    draw();
  });
}

export async function unsubscribe(channel) {
  about({ name: "unsubscribe", channel });
  $("subscribe-channel").focus();
  await page.link.unsubscribe(channel).catch((error) => say(forCommand(error, channel)));
}

/** Parses JSON; anything else becomes a string. */
export function dataOf(text) {
  try {
    return { data: JSON.parse(text), kind: "JSON" };
  } catch {
    return { data: text, kind: "not JSON: sent as a string" };
  }
}

export async function publish(event) {
  event.preventDefault();
  const [channel, over] = [$("publish-channel").value, chosen("over")];
  const { data } = dataOf($("publish-data").value);
  await busy($("publish"), async () => {
    try {
      if (over === "rest") await hub.publish(channel, data, page.who.token);
      else await page.link.command("publish", { channel, data });
      if (over === "rest") page.log.note(`published to ${channel} over REST`);
      about({ name: "publish", channel, data, over });
      if (!page.link?.channels.includes(channel)) {
        say({ title: `Published, but not received here`, text: `This page has no subscription to “${channel}”.` }, "info");
      }
    } catch (error) {
      say(forCommand(error, channel));
    }
  });
}
