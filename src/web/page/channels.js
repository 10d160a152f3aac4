// Subscribing and publishing.

import { forCommand } from "./advice.js";
import { $, runBusy, selectedValue } from "./dom.js";
import * as hub from "./hub.js";
import { showCode, draw, page, showNotice } from "./state.js";

export async function subscribe(event) {
  event.preventDefault();
  const channel = $("subscribe-channel").value;
  await runBusy($("subscribe"), async () => {
    try {
      await page.client.subscribe(channel);
      $("subscribe-channel").value = "";
      showCode({ name: "subscribe", channel });
    } catch (error) {
      showNotice(forCommand(error, channel));
    }
    draw();
  });
}

export async function unsubscribe(channel) {
  showCode({ name: "unsubscribe", channel });
  $("subscribe-channel").focus();
  await page.client.unsubscribe(channel).catch((error) => showNotice(forCommand(error, channel)));
}

/** Parses JSON; anything else becomes a string. */
export function parseData(text) {
  try {
    return { data: JSON.parse(text), kind: "JSON" };
  } catch {
    return { data: text, kind: "not JSON: sent as a string" };
  }
}

export async function publish(event) {
  event.preventDefault();
  const [channel, transport] = [$("publish-channel").value, selectedValue("transport")];
  const { data } = parseData($("publish-data").value);
  await runBusy($("publish"), async () => {
    try {
      if (transport === "rest") await hub.publish(channel, data, page.identity.token);
      else await page.client.command("publish", { channel, data });
      if (transport === "rest") page.log.note(`published to ${channel} over REST`);
      showCode({ name: "publish", channel, data, transport });
      if (!page.client?.channels.includes(channel)) {
        showNotice({ title: `Published, but not received here`, text: `This page has no subscription to “${channel}”.` }, "info");
      }
    } catch (error) {
      showNotice(forCommand(error, channel));
    }
  });
}
