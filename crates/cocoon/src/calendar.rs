//! Unix seconds as people read them.

const DAY_SECONDS: u64 = 86_400;

/// `2026-03-01 12:00:00 UTC`.
pub(crate) fn utc(unix_seconds: u64) -> String {
    cocoon_attest::UnixSeconds(unix_seconds).to_string()
}

/// A time as `2026-03-01T12:00:00Z`, with a space for the `T` if wanted, or as Unix seconds.
///
/// # Errors
/// It is neither.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || "write a time as 2026-03-01T12:00:00Z, or as seconds since 1970".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let numbers: Vec<u64> = text
        .strip_suffix('Z')
        .or(text.strip_suffix(" UTC"))
        .ok_or_else(wrong)?
        .split(['-', 'T', ' ', ':'])
        .map(|part| part.parse().map_err(|_| wrong()))
        .collect::<Result<_, _>>()?;
    let [year @ 1970..=9999, month @ 1..=12, day @ 1..=31, hour @ 0..=23, minute @ 0..=59, second @ 0..=59] =
        numbers[..]
    else {
        return Err(wrong());
    };
    // The days of a year begin in March here, so that the leap day is its last.
    let (year_from_march, month_from_march) =
        if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year_from_march + year_from_march / 4 - year_from_march / 100
        + year_from_march / 400
        + (153 * month_from_march + 2) / 5
        + day
        - 1
        - 719_468;
    let seconds = days * DAY_SECONDS + hour * 3_600 + minute * 60 + second;
    // A day that its month does not have comes out as another.
    let written = format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC");
    if utc(seconds) == written { Ok(seconds) } else { Err(wrong()) }
}

/// `2 d 3 h`: the two largest units of a time span.
pub(crate) fn span(seconds: u64) -> String {
    let units = [("d", seconds / DAY_SECONDS), ("h", seconds / 3_600 % 24), ("min", seconds / 60 % 60)];
    let first = units.iter().position(|(_, count)| *count > 0).unwrap_or(units.len());
    let all = units.into_iter().chain([("s", seconds % 60)]);
    let shown: Vec<String> = all
        .skip(first)
        .take(2)
        .filter(|(_, count)| *count > 0)
        .map(|(unit, count)| format!("{count} {unit}"))
        .collect();
    if shown.is_empty() { "0 s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (4_294_967_295, "2106-02-07 06:28:15 UTC"),
        ] {
            assert_eq!(utc(unix), text);
            assert_eq!(parse(text), Ok(unix));
            assert_eq!(parse(&unix.to_string()), Ok(unix));
        }
        assert!(!utc(u64::MAX).is_empty());
    }

    #[test]
    fn a_span_shows_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3_605, "1 h"),
            (90_000, "1 d 1 h"),
            (15_552_000, "180 d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
