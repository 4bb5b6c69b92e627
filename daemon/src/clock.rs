//! Wall time as RFC 3339 text. Durations are measured with monotonic clocks elsewhere.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When the daemon began, by both clocks.
static START: LazyLock<(Instant, SystemTime)> =
    LazyLock::new(|| (Instant::now(), SystemTime::now()));
/// More than clocks drift, less than a wrong one is off.
const JUMP: Duration = Duration::from_hours(1);

/// Before this program was written: a time below it is that of a clock that was not set yet.
pub(crate) const PAST: &str = "2026-01-01T00:00:00.000Z";

/// Until when files are old enough to go: now, or never once the wall clock was set since the start. A box without a
/// battery begins in 1970, and a jump is no age.
pub(crate) fn for_expiry() -> SystemTime {
    let (started, began) = *START;
    unless_set(began + started.elapsed(), SystemTime::now())
}

/// `now`, unless it is far from what the wall clock would show by itself.
fn unless_set(expected: SystemTime, now: SystemTime) -> SystemTime {
    let off = now
        .duration_since(expected)
        .unwrap_or_else(|earlier| earlier.duration());
    if off > JUMP { UNIX_EPOCH } else { now }
}

/// UTC with milliseconds, e.g. `2026-11-24T00:40:05.123Z`.
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now())
}

pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Gregorian date of a day number since 1970-01-01, through years that begin in March, so that the
/// leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(DAYS_IN_400_YEARS);
    let day_of_era = shifted.rem_euclid(DAYS_IN_400_YEARS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_says_no_age() {
        let expected = UNIX_EPOCH + Duration::from_hours(24 * 20_000);
        for (hours, good) in [(0.0, true), (0.9, true), (1.1, false), (9000.0, false)] {
            let off = Duration::from_secs_f64(hours * 3600.0);
            for now in [expected + off, expected - off] {
                let limit = unless_set(expected, now);
                assert_eq!(limit, if good { now } else { UNIX_EPOCH }, "{hours}");
            }
        }
    }

    /// Expected values from `date -u -d @N`.
    #[test]
    fn known_moments() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_480_805, "2026-11-24T00:40:05.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
