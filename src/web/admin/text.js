// Numbers and times as text.

const NUMBER = new Intl.NumberFormat("en");

export const formatNumber = (number) => NUMBER.format(number);

/** Formats a rate or a share with few digits. */
export function formatShort(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(1)} k`;
  return number >= 100 || Number.isInteger(number) ? formatNumber(Math.round(number)) : number.toFixed(1);
}

export function formatBytes(bytes) {
  const mebibytes = bytes / 1024 / 1024;
  return mebibytes >= 1024 ? `${(mebibytes / 1024).toFixed(1)} GiB` : `${mebibytes.toFixed(mebibytes < 10 ? 1 : 0)} MiB`;
}

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Formats seconds with the two largest units. */
export function formatDuration(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of UNITS) {
    if (left >= size || (unit === "s" && parts.length === 0)) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** Formats the date and time of milliseconds since 1970. */
export function formatTime(milliseconds) {
  const time = new Date(milliseconds);
  const clock = time.toLocaleTimeString("en-GB");
  return time.toDateString() === new Date().toDateString() ? clock : `${time.toLocaleDateString("en-CA")} ${clock}`;
}

/** How long ago, or in how long, for seconds since 1970. */
export function formatRelative(seconds) {
  const difference = seconds - Date.now() / 1000;
  return difference > 0 ? `in ${formatDuration(difference)}` : `${formatDuration(-difference)} ago`;
}
