//! Times as they are written, told by shape: which numbers, months' names and separators follow each other.
//!
//! From the bytes of a line to a [`Stamp`] and its length. Invariant: what is taken for a time ends where a word ends, and its day is
//! one of the calendar.

use crate::time::{Date, NANOS, Stamp, days};

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
    let (month, day) = (reader.two()?, reader.two()?);
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
        rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
    }

    #[inline]
    fn digit(&mut self) -> Option<u32> {
        let digit = self.peek()?.wrapping_sub(b'0');
        (digit < 10).then(|| {
            self.at += 1;
            u32::from(digit)
        })
    }

    /// A number of one digit or two.
    #[inline]
    fn short(&mut self) -> Option<u32> {
        let first = self.digit()?;
        Some(self.digit().map_or(first, |second| first * 10 + second))
    }

    /// A number of two digits; what follows may be another.
    #[inline]
    fn two(&mut self) -> Option<u32> {
        Some(self.digit()? * 10 + self.digit()?)
    }

    /// A number of four digits.
    #[inline]
    fn four(&mut self) -> Option<u32> {
        Some(self.two()? * 100 + self.two()?)
    }

    fn at_number(&mut self) -> Option<Stamp> {
        match (self.digits(), self.peek_at(1)) {
            (4, _) => {
                let year = self.four()?;
                let separator = self.take_any(b"-/.")?;
                let month = if self.peek()?.is_ascii_digit() { self.short()? } else { self.month()? };
                self.take(separator)?;
                let day = self.short()?;
                self.time_after(full(year, month, day)?)
            }
            (8, _) => {
                let (year, month, day) = (self.four()?, self.two()?, self.two()?);
                self.time_after(full(year, month, day)?)
            }
            (6, _) => {
                let (year, month, day) = (self.two()?, self.two()?, self.two()?);
                self.time_after(full(2000 + year, month, day)?)
            }
            (10, _) => self.epoch(),
            (1 | 2, Some(_)) => self.at_day(),
            _ => None,
        }
    }

    /// Seconds since the epoch with their fraction; a bare number is no time.
    fn epoch(&mut self) -> Option<Stamp> {
        let mut seconds = 0;
        for _ in 0..10 {
            seconds = seconds * 10 + u64::from(self.digit()?);
        }
        let fraction = self.fraction(b".")?;
        Some(Stamp::at_epoch_nanos(seconds * NANOS + fraction))
    }

    /// One or two digits first: a day, a month, a short year or an hour.
    fn at_day(&mut self) -> Option<Stamp> {
        let first = self.short()?;
        if self.peek()? == b':' {
            self.at = 0;
            return self.day_time(Date::Unknown);
        }
        let separator = self.take_any(b"-/. ")?;
        if !self.peek()?.is_ascii_digit() {
            let month = self.month()?;
            // The year may be absent: `20 Nov 09:12:07`.
            let year = self.take_any(b"-/. ").and_then(|_| (self.digits() == 4).then(|| self.four()).flatten());
            return match year {
                Some(year) => self.time_after(full(year, month, first)?),
                None => self.day_time(yearless(month, first)?),
            };
        }
        if separator == b' ' {
            return None;
        }
        let second = self.short()?;
        if self.take(separator).is_none() {
            // German dates end with their own separator; of two numbers the month is first unless it cannot be.
            let date = yearless(first, second).or_else(|| yearless(second, first))?;
            return self.time_after(date);
        }
        let date = match self.digits() {
            4 => {
                let year = self.four()?;
                let (month_first, day_first) = ((year, first, second), (year, second, first));
                let favourite = if separator == b'.' { day_first } else { month_first };
                any_of([favourite, if separator == b'.' { favourite } else { day_first }, favourite])?
            }
            _ => {
                let third = self.short()?;
                any_of([(first, second, third), (third, first, second), (third, second, first)])?
            }
        };
        self.time_after(date)
    }

    /// `Nov 20 09:12:07`, `Nov 20 2026 09:12:07`, `Nov 20, 2026 9:12:07 AM`, `Fri Nov 20 09:12:07 2026`,
    /// `Fri, 20 Nov 2026 09:12:07 GMT`.
    fn at_name(&mut self) -> Option<Stamp> {
        if !matches!(self.bytes.get(3)?, b' ' | b',') {
            return None;
        }
        if weekday(self.bytes.get(..3)?) {
            self.at = 3;
            self.take(b',');
            self.take(b' ')?;
            if self.peek()?.is_ascii_digit() {
                let day = self.short()?;
                let separator = self.take_any(b" -")?;
                let month = self.month()?;
                self.take(separator)?;
                let year = self.four()?;
                return self.time_after(full(year, month, day)?);
            }
        }
        let month = self.month()?;
        self.take(b' ')?;
        self.take(b' ');
        let day = self.short()?;
        self.take(b',');
        self.take(b' ')?;
        if self.digits() == 4 {
            let year = self.four()?;
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
            match self.four().filter(|year| (1970..2200).contains(year)).and_then(|year| full(year, month, day)) {
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
        let mut hour = self.short()?;
        let (minute, second);
        match self.take_any(b":.") {
            Some(separator) => {
                minute = self.short()?;
                self.take(separator)?;
                second = self.short()?;
            }
            None => {
                minute = self.two()?;
                second = self.two()?;
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
                let hours = self.two();
                let minutes = match (digits, self.peek()) {
                    (4, _) => self.two(),
                    (2, Some(b':')) => {
                        self.at += 1;
                        self.two()
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
