// Reads tokens without verifying them; only the hub verifies.

/** Replaces the token, so that code can be shown to others. */
export const PLACEHOLDER = "TOKEN";

/** Returns whether a text has the shape of a JWT: three parts of base64url. The hub decides how long it may be. */
export function isToken(text) {
  return /^[\w-]+\.[\w-]+\.[\w-]*$/.test(text);
}

/** Returns the claims, or null if they cannot be read. */
export function readClaims(token) {
  try {
    const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims && typeof claims === "object" && !Array.isArray(claims) ? claims : null;
  } catch {
    return null;
  }
}

/** Returns when the session of a token ends, in milliseconds since the epoch; null if the token does not say. */
export function readExpiry(token) {
  const claims = readClaims(token);
  const seconds = claims?.expire_at ?? claims?.exp;
  return Number.isFinite(seconds) ? seconds * 1000 : null;
}

/** Returns the text with the tokens replaced; those that are null are skipped. */
export function redact(text, tokens) {
  return tokens.reduce((rest, token) => (token ? rest.replaceAll(token, PLACEHOLDER) : rest), text);
}

/** "14:32", "2 h 05 min", "3 d 4 h". */
export function formatDuration(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const two = (number) => String(number).padStart(2, "0");
  const [minutes, hours, days] = [Math.floor(seconds / 60), Math.floor(seconds / 3600), Math.floor(seconds / 86400)];
  if (hours < 1) return `${minutes}:${two(seconds % 60)}`;
  if (days < 2) return `${hours} h ${two(minutes % 60)} min`;
  return `${days} d ${hours % 24} h`;
}
