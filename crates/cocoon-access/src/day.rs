//! Time as it is handed in, and days of the UTC calendar.

use std::fmt;
use std::str::FromStr;

const MICROS_PER_DAY: u64 = 86_400_000_000;
/// The last day that is written with four digits of the year.
const LAST: u32 = 2_932_896;

/// A moment, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// So many seconds since 1970.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The day that it is in, in UTC.
    #[must_use]
    pub fn day(self) -> Day {
        Day(u32::try_from(self.0 / MICROS_PER_DAY).unwrap_or(LAST).min(LAST))
    }

    /// Seconds until the next day begins, in UTC: 1 to 86,400.
    #[must_use]
    pub fn seconds_to_midnight(self) -> u64 {
        (MICROS_PER_DAY - self.0 % MICROS_PER_DAY).div_ceil(1_000_000)
    }
}

/// A day of the UTC calendar, 1970 to 9999; written `2026-11-29`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(u32);

/// A text that names no day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a day is written YYYY-MM-DD, such as 2026-11-29, from 1970-01-01 on")]
pub struct NotADay;

impl Day {
    /// The day so many days before, or 1970-01-01.
    #[must_use]
    pub const fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// The day after.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(LAST))
    }

    /// How many days `earlier` lies before; 0 where it does not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// Its first second, since 1970.
    #[must_use]
    pub const fn unix_seconds(self) -> u64 {
        self.0 as u64 * 86_400
    }

    /// Year, month, day.
    fn civil(self) -> (u32, u32, u32) {
        // Counted from 1 March of the year 0, in eras of 400 years, so that leap days come last.
        let days = self.0 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        (era * 400 + year_of_era + u32::from(month <= 2), month, day)
    }

    fn from_civil(year: u32, month: u32, day: u32) -> Option<Self> {
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let shifted_year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * shifted + 2) / 5 + day - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let found = Self((era * 146_097 + of_era).checked_sub(719_468)?);
        // The 30th of February would be a day of March.
        (found.civil() == (year, month, day)).then_some(found)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl FromStr for Day {
    type Err = NotADay;

    fn from_str(text: &str) -> Result<Self, NotADay> {
        let bytes = text.as_bytes();
        let formed = bytes.len() == 10
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        if !formed {
            return Err(NotADay);
        }
        let number = |from: usize, to: usize| text[from..to].parse().map_err(|_| NotADay);
        Self::from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?).ok_or(NotADay)
    }
}

impl serde::Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_795_910_400, "2026-11-29"),
            (253_402_300_799, "9999-12-31"),
        ] {
            let day = Moment::from_seconds(seconds).day();
            assert_eq!(day.to_string(), text);
            assert_eq!(text.parse(), Ok(day));
        }
        assert_eq!(Moment(u64::MAX).day().to_string(), "9999-12-31");
        assert_eq!(Moment::from_seconds(86_399).seconds_to_midnight(), 1);
        assert_eq!(Moment::from_seconds(86_400).seconds_to_midnight(), 86_400);
    }

    #[test]
    fn every_day_reads_back_and_comes_after_the_one_before() {
        let mut before = String::new();
        for number in (0..=LAST).step_by(13) {
            let (day, text) = (Day(number), Day(number).to_string());
            assert!(text > before, "{text} comes after {before}");
            assert_eq!(text.parse::<Day>().unwrap(), day);
            before = text;
        }
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in ["", "2026-02-30", "2025-02-29", "2026-13-01", "1969-12-31", "26-11-29", "2026-11-29T00"]
        {
            assert_eq!(text.parse::<Day>(), Err(NotADay), "{text}");
        }
        assert_eq!("2026-1é-2".parse::<Day>(), Err(NotADay));
    }
}
