// Times as `strftime` writes `%c %Z` in the C locale, in the local time zone.

const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

/** `Fri Aug 21 21:48:55 2026 UTC`, of seconds since 1970. */
export function localTimestamp(seconds: number): string {
  const date = new Date(seconds * 1000);
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  const day = String(date.getDate()).padStart(2);
  return [
    DAYS[date.getDay()],
    MONTHS[date.getMonth()],
    day,
    clock,
    date.getFullYear(),
    zone(date),
  ].join(" ");
}

/** The zone as `%Z` names those without an abbreviation, `+02`: JavaScript does not know others. */
function zone(date: Date): string {
  const east = -date.getTimezoneOffset();
  if (east === 0) return "UTC";
  const minutes = Math.abs(east);
  const rest = minutes % 60 === 0 ? "" : two(minutes % 60);
  return `${east < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}${rest}`;
}

/** `2026-08-21T21:48:55.123Z`, for programs. */
export function isoTimestamp({ sec, nsec }: { sec: number; nsec: number }): string {
  return new Date(sec * 1000 + Math.floor(nsec / 1e6)).toISOString();
}

function two(value: number): string {
  return value.toString().padStart(2, "0");
}
