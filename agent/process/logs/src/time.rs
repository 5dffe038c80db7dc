//! The time that a log line states.
//!
//! From a [`Stamp`] and a [`Clock`] to nanoseconds since the epoch. What a layout leaves out is taken from the clock: the zone is the
//! host's, and the year (syslog), the day (time alone) or the order of day and month is the one that leads nearest to now.
//!
//! Invariant: a time before 2000 or more than a day ahead of the clock is not believed, whatever its layout.

use jiff::{Timestamp, tz::TimeZone};

pub(crate) const NANOS: u64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// 2000-01-01. Devices without a battery start at 1970 or 1980.
const EARLIEST_SECONDS: i64 = 946_684_800;
/// How far ahead of the clock a time is believed: a zone was misread, or the writer's clock is ahead.
const AHEAD_SECONDS: i64 = DAY_SECONDS;

/// No zone is further from Greenwich.
const ZONE_SECONDS_MAX: u64 = 26 * 3_600;

/// What completes the times of lines.
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    /// Nanoseconds since the epoch; 0 if unknown, and then a time without its year is unknown too.
    pub now_unix_nano: u64,
    /// Of times that state none.
    pub zone: &'a Zone,
}

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// By its name in the IANA database; the host's by the empty name. Reads the host's files, once.
    pub fn named(name: &str) -> Option<Zone> {
        match name {
            "" => Some(Zone(TimeZone::system())),
            "UTC" => Some(Zone::UTC),
            name => TimeZone::get(name).ok().map(Zone),
        }
    }

    /// By its rules as POSIX writes them, for tests: not every host has the database.
    #[cfg(test)]
    pub(crate) fn posix(rules: &str) -> Zone {
        Zone(TimeZone::posix(rules).unwrap())
    }

    /// Seconds east of Greenwich when the clocks there show this many seconds since 1970. In the hour that comes twice: the first.
    fn offset(&self, local: i64) -> i64 {
        let at = |second| Timestamp::from_second(second).map_or(0, |at| i64::from(self.0.to_offset(at).seconds()));
        at(local - at(local))
    }
}

/// A time as it is written, with its gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) date: Date,
    pub(crate) nanos_of_day: u64,
    /// Seconds east of Greenwich.
    pub(crate) offset: Option<i32>,
}

/// The day of a time, as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Date {
    /// Days since 1970; where the order of its numbers is open, all that it can be.
    AnyOf([i32; 3]),
    /// Month and day.
    Yearless(u32, u32),
    Unknown,
}

impl Stamp {
    /// Seconds, milliseconds, microseconds or nanoseconds since the epoch, told by their size.
    pub(crate) fn of_epoch(number: u64) -> Option<Stamp> {
        let nanos = match number {
            0..=99_999_999 => return None,
            100_000_000..=99_999_999_999 => number.checked_mul(NANOS),
            100_000_000_000..=99_999_999_999_999 => number.checked_mul(1_000_000),
            100_000_000_000_000..=99_999_999_999_999_999 => number.checked_mul(1_000),
            _ => Some(number),
        };
        nanos.map(Stamp::at_epoch_nanos)
    }

    /// A number with a fraction, in seconds.
    pub(crate) fn of_epoch_seconds(seconds: f64) -> Option<Stamp> {
        let believable = (1e8..1e11).contains(&seconds);
        // A double holds such a number of seconds to less than a microsecond.
        let nanos = believable.then(|| ((seconds * 1e6).round() as u64).checked_mul(1_000)).flatten();
        nanos.map(Stamp::at_epoch_nanos)
    }

    pub(crate) fn at_epoch_nanos(nanos: u64) -> Stamp {
        let day_nanos = DAY_SECONDS as u64 * NANOS;
        let days = (nanos / day_nanos) as i32;
        Stamp { date: Date::AnyOf([days; 3]), nanos_of_day: nanos % day_nanos, offset: Some(0) }
    }

    /// Whether it is more than the time of a day.
    pub(crate) fn has_date(self) -> bool {
        self.date != Date::Unknown
    }

    /// Nanoseconds since the epoch, if it can be told and is believed.
    pub(crate) fn resolve(self, clock: Clock<'_>) -> Option<u64> {
        let now = (clock.now_unix_nano / NANOS) as i64;
        let today = now.div_euclid(DAY_SECONDS);
        let candidates = match self.date {
            Date::AnyOf(days) => days.map(i64::from),
            _ if now == 0 => return None,
            Date::Yearless(month, day) => {
                let year = civil(today).0;
                [year, year - 1, year + 1].map(|year| days(year, month, day).map_or(i64::MIN, i64::from))
            }
            Date::Unknown => [today, today - 1, today + 1],
        };
        let mut best: Option<i64> = None;
        for days in candidates {
            if days == i64::MIN {
                continue;
            }
            let local = days * DAY_SECONDS + (self.nanos_of_day / NANOS) as i64;
            // Asking the zone costs most: not for what is out of the question wherever it is.
            let is_out = |best: i64| now != 0 && local.abs_diff(now) > best.abs_diff(now) + ZONE_SECONDS_MAX;
            if best.is_some_and(is_out) {
                continue;
            }
            let second = local - self.offset.map_or_else(|| clock.zone.offset(local), i64::from);
            let believed = second >= EARLIEST_SECONDS && (now == 0 || second <= now + AHEAD_SECONDS);
            // Without a clock the first reading stands.
            let nearer = best.is_none_or(|best| now != 0 && second.abs_diff(now) < best.abs_diff(now));
            if believed && nearer {
                best = Some(second);
            }
            if candidates[0] == candidates[1] && candidates[1] == candidates[2] {
                break;
            }
        }
        u64::try_from(best?).ok()?.checked_mul(NANOS)?.checked_add(self.nanos_of_day % NANOS)
    }
}

/// Days since 1970 of a day in the Gregorian calendar, if there is such a day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
pub(crate) fn days(year: i64, month: u32, day: u32) -> Option<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let (shifted, month) = (year - i64::from(month <= 2), i64::from(month));
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) as i32)
}

/// Year, month and day of days since 1970.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day)
}
