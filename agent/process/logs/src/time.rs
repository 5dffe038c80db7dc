//! The time that a log line states.
//!
//! From the bytes of a line to a [`Stamp`], and with a [`Clock`] to nanoseconds since the epoch. Layouts are told by shape alone:
//! which numbers, months' names and separators follow each other. What a layout leaves out is taken from the clock: the zone
//! is the host's, and the year (syslog), the day (time alone) or the order of day and month is the one that leads nearest to now.
//!
//! Invariant: a time before 2000 or more than a day ahead of the clock is not believed, whatever its layout.

use jiff::{Timestamp, tz::TimeZone};

const NANOS: u64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// 2000-01-01. Devices without a battery start at 1970 or 1980.
const EARLIEST_SECONDS: i64 = 946_684_800;
/// How far ahead of the clock a time is believed: a zone was misread, or the writer's clock is ahead.
const AHEAD_SECONDS: i64 = DAY_SECONDS;

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

    /// Seconds east of Greenwich when the clocks there show this many seconds since 1970. In the hour that comes twice: the first.
    fn offset(&self, local: i64) -> i64 {
        let at = |second| Timestamp::from_second(second).map_or(0, |at| i64::from(self.0.to_offset(at).seconds()));
        at(local - at(local))
    }
}

/// A time as it is written, with its gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    date: Date,
    nanos_of_day: u64,
    offset: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Date {
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
            100_000_000..=99_999_999_999 => number * NANOS,
            100_000_000_000..=99_999_999_999_999 => number * 1_000_000,
            100_000_000_000_000..=99_999_999_999_999_999 => number * 1_000,
            _ => number,
        };
        Some(Stamp::at_epoch_nanos(nanos))
    }

    /// A number with a fraction, in seconds.
    pub(crate) fn of_epoch_seconds(seconds: f64) -> Option<Stamp> {
        let believable = (1e8..1e11).contains(&seconds);
        // A double holds such a number of seconds to less than a microsecond.
        believable.then(|| Stamp::at_epoch_nanos((seconds * 1e6).round() as u64 * 1_000))
    }

    fn at_epoch_nanos(nanos: u64) -> Stamp {
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
        Some(u64::try_from(best?).ok()? * NANOS + self.nanos_of_day % NANOS)
    }
}

/// Days since 1970 of a day in the Gregorian calendar, if there is such a day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn days(year: i64, month: u32, day: u32) -> Option<i32> {
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

/// A time at the beginning of `bytes`, and how many of them it takes, its zone included.
pub(crate) fn stamp(bytes: &[u8]) -> Option<(Stamp, usize)> {
    let first = *bytes.first()?;
    let mut reader = Reader { bytes, at: 0 };
    let stamp = if first.is_ascii_digit() {
        reader.at_number()?
    } else if first.is_ascii_uppercase() {
        reader.at_name()?
    } else {
        return None;
    };
    let word = |at| bytes.get(at).is_some_and(|byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/'));
    // Neither in the middle of a word nor of a hardware address.
    let inside = word(reader.at) || (bytes.get(reader.at) == Some(&b':') && word(reader.at + 1));
    (!inside).then_some((stamp, reader.at))
}

/// `1120 09:12:07.000001`: month, day and time as glog and its kin write them.
pub(crate) fn month_day_stamp(bytes: &[u8]) -> Option<(Stamp, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let (month, day) = (reader.number(2, 2)?, reader.number(2, 2)?);
    let date = yearless(month, day)?;
    reader.take(b' ')?;
    Some((reader.day_time(date)?, reader.at))
}

fn yearless(month: u32, day: u32) -> Option<Date> {
    // 2000 had a 29th of February.
    days(2000, month, day).map(|_| Date::Yearless(month, day))
}

fn full(year: u32, month: u32, day: u32) -> Option<Date> {
    days(i64::from(year), month, day).map(|days| Date::AnyOf([days; 3]))
}

/// The dates that three numbers can be. They are numbers of two digits, but for one year.
fn any_of(readings: [(u32, u32, u32); 3]) -> Option<Date> {
    let mut found = readings.map(|(year, month, day)| {
        let year = if year < 100 { year + 2000 } else { year };
        days(i64::from(year), month, day)
    });
    let first = found.iter().flatten().copied().next()?;
    found.iter_mut().for_each(|days| *days = days.or(Some(first)));
    Some(Date::AnyOf(found.map(|days| days.unwrap_or(first))))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// One of these bytes.
    fn take_any(&mut self, bytes: &[u8]) -> Option<u8> {
        let byte = self.peek().filter(|byte| bytes.contains(byte))?;
        self.at += 1;
        Some(byte)
    }

    fn digits(&self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// A number of so many digits; more than `most` follow in the next number.
    fn number(&mut self, least: usize, most: usize) -> Option<u32> {
        let mut value = 0;
        let begin = self.at;
        while self.at - begin < most
            && let Some(digit) = self.peek().filter(u8::is_ascii_digit)
        {
            value = value * 10 + u32::from(digit - b'0');
            self.at += 1;
        }
        (self.at - begin >= least).then_some(value)
    }

    fn at_number(&mut self) -> Option<Stamp> {
        match (self.digits(), self.peek_at(1)) {
            (4, _) => {
                let year = self.number(4, 4)?;
                let separator = self.take_any(b"-/.")?;
                let month = if self.peek()?.is_ascii_digit() { self.number(1, 2)? } else { self.month()? };
                self.take(separator)?;
                let day = self.number(1, 2)?;
                self.time_after(full(year, month, day)?)
            }
            (8, _) => {
                let (year, month, day) = (self.number(4, 4)?, self.number(2, 2)?, self.number(2, 2)?);
                self.time_after(full(year, month, day)?)
            }
            (6, _) => {
                let (year, month, day) = (self.number(2, 2)?, self.number(2, 2)?, self.number(2, 2)?);
                self.time_after(full(2000 + year, month, day)?)
            }
            (10, _) => self.epoch(),
            (1 | 2, Some(_)) => self.at_day(),
            _ => None,
        }
    }

    /// Seconds since the epoch with their fraction; a bare number is no time.
    fn epoch(&mut self) -> Option<Stamp> {
        let seconds = u64::from(self.number(5, 5)?) * 100_000 + u64::from(self.number(5, 5)?);
        let fraction = self.fraction(b".")?;
        Some(Stamp::at_epoch_nanos(seconds * NANOS + fraction))
    }

    /// One or two digits first: a day, a month, a short year or an hour.
    fn at_day(&mut self) -> Option<Stamp> {
        let first = self.number(1, 2)?;
        if self.peek()? == b':' {
            self.at = 0;
            return self.day_time(Date::Unknown);
        }
        let separator = self.take_any(b"-/. ")?;
        if !self.peek()?.is_ascii_digit() {
            let month = self.month()?;
            // The year may be absent: `20 Nov 09:12:07`.
            let year = self.take_any(b"-/. ").and_then(|_| (self.digits() == 4).then(|| self.number(4, 4)).flatten());
            return match year {
                Some(year) => self.time_after(full(year, month, first)?),
                None => self.day_time(yearless(month, first)?),
            };
        }
        if separator == b' ' {
            return None;
        }
        let second = self.number(1, 2)?;
        if self.take(separator).is_none() {
            // German dates end with their own separator; of two numbers the month is first unless it cannot be.
            let date = yearless(first, second).or_else(|| yearless(second, first))?;
            return self.time_after(date);
        }
        let date = match self.digits() {
            4 => {
                let year = self.number(4, 4)?;
                let (month_first, day_first) = ((year, first, second), (year, second, first));
                let favourite = if separator == b'.' { day_first } else { month_first };
                any_of([favourite, if separator == b'.' { favourite } else { day_first }, favourite])?
            }
            _ => {
                let third = self.number(1, 2)?;
                any_of([(first, second, third), (third, first, second), (third, second, first)])?
            }
        };
        self.time_after(date)
    }

    /// `Nov 20 09:12:07`, `Nov 20 2026 09:12:07`, `Nov 20, 2026 9:12:07 AM`, `Fri Nov 20 09:12:07 2026`,
    /// `Fri, 20 Nov 2026 09:12:07 GMT`.
    fn at_name(&mut self) -> Option<Stamp> {
        if weekday(self.bytes.get(..3)?) {
            self.at = 3;
            self.take(b',');
            self.take(b' ')?;
            if self.peek()?.is_ascii_digit() {
                let day = self.number(1, 2)?;
                let separator = self.take_any(b" -")?;
                let month = self.month()?;
                self.take(separator)?;
                let year = self.number(4, 4)?;
                return self.time_after(full(year, month, day)?);
            }
        }
        let month = self.month()?;
        self.take(b' ')?;
        self.take(b' ');
        let day = self.number(1, 2)?;
        self.take(b',');
        self.take(b' ')?;
        if self.digits() == 4 {
            let year = self.number(4, 4)?;
            return self.time_after(full(year, month, day)?);
        }
        let mut stamp = self.day_time(yearless(month, day)?)?;
        // The year after the time: ctime's way, with or without a zone before it.
        if self.peek() == Some(b' ')
            && self.peek_at(5).is_none_or(|byte| !byte.is_ascii_alphanumeric())
            && self.bytes.get(self.at + 1..self.at + 5).is_some_and(|year| year.iter().all(u8::is_ascii_digit))
        {
            let back = self.at;
            self.at += 1;
            match self.number(4, 4).filter(|year| (1970..2200).contains(year)).and_then(|year| full(year, month, day)) {
                Some(date) => stamp.date = date,
                None => self.at = back,
            }
        }
        Some(stamp)
    }

    fn month(&mut self) -> Option<u32> {
        let name = self.bytes.get(self.at..self.at + 3)?;
        let number = match name {
            b"Jan" | b"JAN" => 1,
            b"Feb" | b"FEB" => 2,
            b"Mar" | b"MAR" => 3,
            b"Apr" | b"APR" => 4,
            b"May" | b"MAY" => 5,
            b"Jun" | b"JUN" => 6,
            b"Jul" | b"JUL" => 7,
            b"Aug" | b"AUG" => 8,
            b"Sep" | b"SEP" => 9,
            b"Oct" | b"OCT" => 10,
            b"Nov" | b"NOV" => 11,
            b"Dec" | b"DEC" => 12,
            _ => return None,
        };
        self.at += 3;
        Some(number)
    }

    /// What separates a date from its time, then the time.
    fn time_after(&mut self, date: Date) -> Option<Stamp> {
        match self.take_any(b"T -_:,.")? {
            b' ' | b'.' | b',' => while self.take(b' ').is_some() {},
            _ => (),
        }
        self.day_time(date)
    }

    /// Hours, minutes, seconds, their fraction, half of the day and zone.
    fn day_time(&mut self, date: Date) -> Option<Stamp> {
        let mut hour = self.number(1, 2)?;
        let (minute, second);
        match self.take_any(b":.") {
            Some(separator) => {
                minute = self.number(1, 2)?;
                self.take(separator)?;
                second = self.number(1, 2)?;
            }
            None => {
                minute = self.number(2, 2)?;
                second = self.number(2, 2)?;
            }
        }
        let nanos = self.fraction(b".,:").unwrap_or(0);
        if let (Some(b' '), Some(half @ (b'A' | b'P')), Some(b'M')) = (self.peek(), self.peek_at(1), self.peek_at(2)) {
            self.at += 3;
            hour = hour % 12 + if half == b'P' { 12 } else { 0 };
        }
        // A leap second is the second before it.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = u64::from(hour * 3_600 + minute * 60 + second.min(59));
        Some(Stamp { date, nanos_of_day: seconds * NANOS + nanos, offset: self.zone() })
    }

    /// Digits after a point, as nanoseconds; what is finer is skipped.
    fn fraction(&mut self, points: &[u8]) -> Option<u64> {
        self.peek().filter(|byte| points.contains(byte))?;
        self.peek_at(1).filter(u8::is_ascii_digit)?;
        self.at += 1;
        let (mut value, mut unit) = (0, NANOS);
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            unit /= 10;
            value += u64::from(digit - b'0') * unit;
            self.at += 1;
        }
        Some(value)
    }

    /// `Z`, `+01:00`, `+0100`, `+01`, `UTC`, `GMT`; an abbreviation of another zone is passed over: it names no single zone.
    fn zone(&mut self) -> Option<i32> {
        let begin = self.at;
        if self.take(b'Z').is_some() {
            return Some(0);
        }
        let apart = self.take(b' ').is_some();
        match self.peek() {
            Some(sign @ (b'+' | b'-')) => {
                self.at += 1;
                let digits = self.digits();
                let hours = self.number(2, 2);
                let minutes = match (digits, self.peek()) {
                    (4, _) => self.number(2, 2),
                    (2, Some(b':')) => {
                        self.at += 1;
                        self.number(2, 2)
                    }
                    (2, _) if !apart => Some(0),
                    _ => None,
                };
                if let (Some(hours @ 0..=18), Some(minutes @ 0..=59)) = (hours, minutes) {
                    let seconds = (hours * 3_600 + minutes * 60) as i32;
                    return Some(if sign == b'-' { -seconds } else { seconds });
                }
            }
            Some(b'A'..=b'Z') if apart => {
                let rest = self.bytes.get(self.at..).unwrap_or_default();
                let letters = rest.iter().take(6).take_while(|byte| byte.is_ascii_uppercase()).count();
                let alone = rest.get(letters).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b':');
                match &rest[..letters] {
                    b"UTC" | b"GMT" if alone => {
                        self.at += letters;
                        return Some(0);
                    }
                    [.., b'T'] if alone && (3..=4).contains(&letters) => {
                        self.at += letters;
                        return None;
                    }
                    _ => (),
                }
            }
            _ => (),
        }
        self.at = begin;
        None
    }
}

fn weekday(name: &[u8]) -> bool {
    matches!(name, b"Mon" | b"Tue" | b"Wed" | b"Thu" | b"Fri" | b"Sat" | b"Sun")
}
