//! What a log line says of itself: when, how bad, of which trace, and what is left once that is taken off.
//!
//! From the text of a record to [`Parsed`], which borrows from it. Layouts are told by shape, not by the name of who writes them:
//! a set of fields (`fields`), a web server's line about a request, a syslog message, or a header before prose (`head`), and
//! fields after a header. Invariant: nothing here fails, and a line without a known shape is its own message.

use crate::fields::{self, Fields};
use crate::head::{Head, head};
use crate::severity;
use crate::stamp::{month_day_stamp, stamp};
use crate::time::{Clock, Stamp, Zone};
use memchr::memchr;
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// How far into a line the time of a request may be: host, addresses and user come before it.
const REQUEST_HEAD_BYTES: usize = 128;
/// Words among which a level may be: in a line without a header, and after one.
const BARE_WORDS: usize = 8;
const MESSAGE_WORDS: usize = 3;
/// How far into a line the place in code ends, where that comes last in the header.
const PLACE_BYTES: usize = 160;

/// What a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parsed<'a> {
    /// Its time, nanoseconds since the epoch, if it states one that is believed.
    pub time_unix_nano: Option<u64>,
    /// Its severity and the word that says so.
    pub severity: Option<(SeverityNumber, &'a str)>,
    /// What is left after time, host, process, severity, thread and component: the text that patterns are mined from.
    pub message: &'a str,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The span it belongs to.
    pub span_id: Option<[u8; 8]>,
}

/// Parse one line without a clock: a time without a year is then unknown, and one without a zone is UTC.
pub fn parse(line: &str) -> Parsed<'_> {
    parse_at(line, Clock { now_unix_nano: 0, zone: &Zone::UTC })
}

/// Parse one line at a time and place, which complete what its time leaves out.
pub fn parse_at<'a>(line: &'a str, clock: Clock<'_>) -> Parsed<'a> {
    let text = line.trim_ascii();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Lead { stamp, severity, message } = match text.as_bytes() {
        [b'{', ..] => Lead { message: text, ..Lead::default() },
        [b'<', ..] => of_syslog(text).unwrap_or_else(|| of_header(text)),
        [b'I' | b'W' | b'E' | b'F', digit, ..] if digit.is_ascii_digit() => {
            of_month_day(text).unwrap_or_else(|| of_header(text))
        }
        _ => of_request(text).unwrap_or_else(|| of_header(text)),
    };
    let fields = match message.as_bytes() {
        [b'{', ..] => fields::json(message),
        [first, ..] if first.is_ascii_alphabetic() || matches!(first, b'@' | b'_') => fields::logfmt(message),
        _ => None,
    };
    let Fields { stamp: inner, severity: level, message: inner_message, trace_id, span_id } =
        fields.unwrap_or_default();
    // What the program itself says is nearer to the truth than what was put around it.
    let words = if message.len() == text.len() { BARE_WORDS } else { MESSAGE_WORDS };
    let searched = || if fields.is_none() { severity::of_head(message, words) } else { None };
    let severity = level.or(severity).or_else(searched);
    Parsed {
        time_unix_nano: inner.or(stamp).and_then(|stamp| stamp.resolve(clock)),
        severity,
        message: inner_message.unwrap_or(message),
        trace_id,
        span_id,
    }
}

/// What leads a line, taken off.
#[derive(Default)]
struct Lead<'a> {
    stamp: Option<Stamp>,
    severity: Option<(SeverityNumber, &'a str)>,
    message: &'a str,
}

fn of_header(text: &str) -> Lead<'_> {
    let Head { stamp, severity, end } = head(text);
    Lead { stamp, severity, message: &text[end..] }
}

/// `<34>1 2026-11-20T09:12:07Z host app 12 id [data] text` (RFC 5424), or `<34>` before any other header (RFC 3164).
fn of_syslog(text: &str) -> Option<Lead<'_>> {
    let end = memchr(b'>', text.as_bytes().get(..5.min(text.len()))?)?;
    let priority: u32 = text[1..end].parse().ok().filter(|priority| *priority < 192)?;
    let severity = severity::of_number(priority % 8).map(|severity| (severity, &text[1..end]));
    let rest = &text[end + 1..];
    if let Some(message) = rest.strip_prefix("1 ").and_then(of_syslog_5424) {
        return Some(Lead { severity, ..message });
    }
    let Lead { stamp, severity: stated, message } = of_header(rest.trim_start());
    Some(Lead { stamp, severity: stated.or(severity), message })
}

/// What follows the version.
fn of_syslog_5424(text: &str) -> Option<Lead<'_>> {
    let mut words = text.splitn(6, ' ');
    let time = words.next()?;
    let stamp = stamp(time.as_bytes()).map(|(stamp, _)| stamp);
    if stamp.is_none() && time != "-" {
        return None;
    }
    let mut rest = words.nth(4)?;
    if let Some(text) = rest.strip_prefix('-') {
        rest = text;
    }
    while rest.starts_with('[') {
        rest = &rest[element_end(rest.as_bytes())?..];
    }
    Some(Lead { stamp, severity: None, message: rest.trim_start_matches([' ', '\u{feff}']) })
}

/// Behind the structured data that begins here; a bracket within a value is escaped.
fn element_end(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().position(|byte| {
        let ends = *byte == b']' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(end + 1)
}

/// `E1120 09:12:07.000001 12 main.cc:7] text`.
fn of_month_day(text: &str) -> Option<Lead<'_>> {
    let bytes = text.as_bytes();
    let (stamp, length) = month_day_stamp(&bytes[1..])?;
    // A fraction of a second has as many digits as its writer likes.
    let head = bytes.get(1 + length..bytes.len().min(PLACE_BYTES))?;
    let end = 1 + length + memchr(b']', head)? + 1;
    let severity = severity::of_letter(bytes[0]).map(|severity| (severity, &text[..1]));
    Some(Lead { stamp: Some(stamp), severity, message: text[end..].trim_start() })
}

/// `127.0.0.1 - - [20/Nov/2026:09:12:07 +0000] "GET / HTTP/1.1" 200 12`: what web servers say of a request, which begins with it.
/// Its severity is that of the answer.
fn of_request(text: &str) -> Option<Lead<'_>> {
    let bytes = text.as_bytes();
    let begin = memchr(b'[', &bytes[..bytes.len().min(REQUEST_HEAD_BYTES)])? + 1;
    if bytes.get(begin + 2) != Some(&b'/') {
        return None;
    }
    let (stamp, length) = stamp(&bytes[begin..])?;
    let message = text.get(begin + length..)?.strip_prefix("] ")?;
    let request = message.strip_prefix('"')?;
    let answer = request.find("\" ").map(|end| &request[end + 2..]);
    let status = answer.and_then(|answer| answer.get(..3)).filter(|status| status.bytes().all(|b| b.is_ascii_digit()));
    let severity = status.and_then(|status| Some((severity::of_status(status.parse().ok()?)?, status)));
    Some(Lead { stamp: Some(stamp), severity, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Trace, Warn};
    use proptest::prelude::*;

    /// 2026-11-20T12:00:00Z.
    const NOON: u64 = 1_795_176_000;
    const NOW: Clock<'static> = Clock { now_unix_nano: NOON * 1_000_000_000, zone: &Zone::UTC };
    /// 2026-11-20T09:12:07Z, which most lines state.
    const THEN: u64 = 1_795_165_927;

    /// Whole seconds of the time, the severity and the message.
    fn read(line: &str) -> (Option<u64>, Option<SeverityNumber>, &str) {
        let parsed = parse_at(line, NOW);
        (
            parsed.time_unix_nano.map(|time| time / 1_000_000_000),
            parsed.severity.map(|(severity, _)| severity),
            parsed.message,
        )
    }

    #[test]
    fn time_severity_and_message_are_told_apart_in_the_layouts_that_loggers_use() {
        let t = Some(THEN);
        let table = [
            // Syslog, old and new.
            ("Nov 20 09:12:07 web sshd[12]: Accepted key for root", t, None, "Accepted key for root"),
            ("Nov 20 09:12:07 web kernel: Memory: 12k free", t, None, "Memory: 12k free"),
            ("Nov 20 09:12:07 web kernel: [   12.345678] usb 1-1: reset", t, None, "usb 1-1: reset"),
            ("Nov 20 09:12:07 web cron 1.4.1: restart.", t, None, "restart."),
            ("Nov 20 09:12:07 web su(pam_unix)[3]: ALERT exited", t, Some(Fatal), "ALERT exited"),
            ("Nov 20 09:12:07 web sshd[12]: error: too many tries", t, Some(Error), "error: too many tries"),
            ("<30>Nov 20 09:12:07 web app[7]: up", t, Some(Info), "up"),
            ("<34>1 2026-11-20T09:12:07Z web su - ID47 - 'su root' failed", t, Some(Fatal), "'su root' failed"),
            (r#"<165>1 2026-11-20T10:12:07+01:00 web app 12 m [x a="\]"][y b="1"] text"#, t, Some(Info2), "text"),
            ("2026-11-20T09:12:07.123456+00:00 web systemd[1]: Started Daily.", t, None, "Started Daily."),
            ("2026-11-20T09:12:07.123456+00:00 web kernel: eth0: link up", t, None, "eth0: link up"),
            ("<30>daemon text", None, Some(Info), "daemon text"),
            ("<warn>  [1.2] device: disconnected", None, Some(Warn), "<warn>  [1.2] device: disconnected"),
            // Web servers.
            (
                r#"::1 - bob [20/Nov/2026:10:12:07 +0100] "GET /a HTTP/1.1" 503 7 "-" "curl""#,
                t,
                Some(Error),
                r#""GET /a HTTP/1.1" 503 7 "-" "curl""#,
            ),
            (
                r#"10.0.0.1 - - [20/Nov/2026:09:12:07 +0000] "GET /a HTTP/1.1" 200 7"#,
                t,
                Some(Info),
                r#""GET /a HTTP/1.1" 200 7"#,
            ),
            ("2026/11/20 09:12:07 [error] 12#13: *1 open() failed", t, Some(Error), "*1 open() failed"),
            ("[Fri Nov 20 09:12:07 2026] [notice] ready", t, Some(Info2), "ready"),
            ("[Fri Nov 20 09:12:07.123456 2026] [core:error] [client ::1] no", t, Some(Error), "[client ::1] no"),
            // Objects and pairs.
            (
                r#"{"time":"2026-11-20T09:12:07Z","level":"warn","msg":"a \"b\"","n":{"msg":"x"}}"#,
                t,
                Some(Warn),
                r#"a \"b\""#,
            ),
            (r#"{"ts":1795165927.25,"severity":"ERROR","message":"x"}"#, t, Some(Error), "x"),
            (r#"{"@timestamp":1795165927123,"level":50,"message":"x"}"#, t, Some(Error), "x"),
            (r#"{"a":[{"level":"error"}],"x":1}"#, None, None, r#"{"a":[{"level":"error"}],"x":1}"#),
            (r#"{"level":"info""#, None, Some(Info), r#"{"level":"info""#),
            (r#"Nov 20 09:12:07 web app[1]: {"level":"error","msg":"x"}"#, t, Some(Error), "x"),
            (r#"time="2026-11-20T09:12:07Z" level=warning msg="so \"so\"" n=1"#, t, Some(Warn), r#"so \"so\""#),
            ("ts=2026-11-20T09:12:07Z level=debug n=1", t, Some(Debug), "ts=2026-11-20T09:12:07Z level=debug n=1"),
            ("uid=0 euid=0 msg=x", None, None, "uid=0 euid=0 msg=x"),
            // Programs' own.
            ("E1120 09:12:07.000001    12 main.cc:7] broke", t, Some(Error), "broke"),
            ("2026-11-20 09:12:07,123 [main] WARN  com.acme.Shop - slow", t, Some(Warn), "slow"),
            ("2026-11-20T09:12:07.123Z  INFO 12 --- [main] c.a.Shop   : up", t, Some(Info), "up"),
            ("09:12:07.123 [http-1] DEBUG c.a.Shop - in", t, Some(Debug), "in"),
            ("20-Nov-2026 09:12:07.123 INFO [main] org.acme.Shop.start Up in 5 ms", t, Some(Info), "Up in 5 ms"),
            ("INFO  [main] 2026-11-20 09:12:07,123 Shop.java:12 - up", t, Some(Info), "up"),
            ("Nov 20, 2026 9:12:07 AM com.acme.Shop run", t, None, "com.acme.Shop run"),
            ("2026-11-20 09:12:07,123 - shop.cart - ERROR - no such item", t, Some(Error), "no such item"),
            ("2026-11-20 09:12:07.123 | WARNING  | shop:add:12 - full", t, Some(Warn), "full"),
            ("2026/11/20 09:12:07 main.go:12: listening", t, None, "listening"),
            ("2026/11/20 09:12:07 listening on :80", t, None, "listening on :80"),
            ("2026-11-20T09:12:07.123Z\tinfo\tshop/main.go:12\tup", t, Some(Info), "up"),
            ("I, [2026-11-20T09:12:07.123456 #12]  INFO -- : up", t, Some(Info), "up"),
            ("[2026-11-20T09:12:07,123][WARN ][o.a.Shop  ] [n1] slow", t, Some(Warn), "slow"),
            ("2026-11-20 09:12:07.123 UTC [12] bob@shop FATAL:  no", t, Some(Fatal), "no"),
            ("2026-11-20T09:12:07.123456Z 0 [Note] [MY-1] [Server] ready", t, Some(Info), "ready"),
            ("1:M 20 Nov 2026 09:12:07.123 * Ready to accept", t, None, "Ready to accept"),
            ("2026-11-20T09:12:07.123+0000 I NETWORK  [conn1] end", t, Some(Info), "end"),
            ("11-20 09:12:07.123  170  239 D Window: focus", t, Some(Debug), "focus"),
            ("26/11/20 09:12:07 INFO store.Block: found 1", t, Some(Info), "found 1"),
            ("261120 091207 14 INFO dfs.Node$Packet: gone", t, Some(Info), "gone"),
            ("[2026-11-20 09:12:07] production.ERROR: no", t, Some(Error), "no"),
            ("[2026-11-20 09:12:07,123: ERROR/Worker-1] task failed", t, Some(Error), "task failed"),
            ("app_1  | 2026-11-20 09:12:07 INFO up", t, Some(Info), "up"),
            ("2026-11-20 09:12:07 TRACE enter", t, Some(Trace), "enter"),
            // No header: nothing is taken off.
            ("WARNING:root:careful", None, Some(Warn), "WARNING:root:careful"),
            ("[main] ERROR something broke", None, Some(Error), "[main] ERROR something broke"),
            ("[ERROR] something broke", None, Some(Error), "[ERROR] something broke"),
            ("[12][warn] something broke", None, Some(Warn), "[12][warn] something broke"),
            ("DEBUG something moved", None, Some(Debug), "DEBUG something moved"),
            ("shop.cart:CRITICAL:full", None, Some(Fatal), "shop.cart:CRITICAL:full"),
            ("E/Window(  170): no focus", None, Some(Error), "E/Window(  170): no focus"),
            ("I/O (12): what is it", None, None, "I/O (12): what is it"),
            ("Error handling works", None, None, "Error handling works"),
            ("error: no such file", None, Some(Error), "error: no such file"),
            ("there was an error in 2026-11-20 09:12:07", None, None, "there was an error in 2026-11-20 09:12:07"),
            ("12 followers need 3 votes", None, None, "12 followers need 3 votes"),
            ("10.0.0.1:50 Served block blk_1 to /10.0.0.2", None, None, "10.0.0.1:50 Served block blk_1 to /10.0.0.2"),
            ("GET /error HTTP/1.1 500", None, None, "GET /error HTTP/1.1 500"),
            ("", None, None, ""),
            ("é", None, None, "é"),
        ];
        let wrong: Vec<_> = table
            .into_iter()
            .filter(|(line, time, severity, message)| read(line) != (*time, *severity, *message))
            .map(|(line, ..)| format!("{line}\n    {:?}", read(line)))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn times_are_read_in_every_variant() {
        let table = [
            ("2026-11-20T09:12:07Z", 0),
            ("2026-11-20 09:12:07", 0),
            ("2026-11-20T10:12:07+01:00", 0),
            ("2026-11-20T04:12:07.5-0500", 500_000_000),
            ("2026-11-20 04:12:07 -0500", 0),
            ("2026-11-20 09:12:07,25", 250_000_000),
            ("2026-11-20 09:12:07.123456789123 UTC", 123_456_789),
            ("2026-11-20_09:12:07 GMT", 0),
            ("2026.11.20 09:12:07", 0),
            ("2026-11-20-09.12.07.5", 500_000_000),
            ("2026-Nov-20 09:12:07", 0),
            ("20261120T091207Z", 0),
            ("20261120-9:12:7:5", 500_000_000),
            ("20.11.2026 09:12:07", 0),
            ("11/20/2026 9:12:07 AM", 0),
            ("20/11/2026 09:12:07", 0),
            ("20/11/26 09:12:07", 0),
            ("11.20 09:12:07", 0),
            ("20 Nov 09:12:07", 0),
            ("Nov 20 2026 09:12:07", 0),
            ("Fri, 20 Nov 2026 09:12:07 GMT", 0),
            ("Fri Nov 20 09:12:07 2026", 0),
            ("1795165927.25", 250_000_000),
        ];
        for (text, nanos) in table {
            let line = format!("{text} INFO up");
            let parsed = parse_at(&line, NOW);
            assert_eq!((parsed.time_unix_nano, parsed.message), (Some(THEN * 1_000_000_000 + nanos), "up"), "{text}");
        }
    }

    #[test]
    fn what_a_time_leaves_out_is_what_leads_nearest_to_now() {
        let day = 86_400;
        let at = |text: &str, now: u64| {
            let line = format!("{text} INFO up");
            let clock = Clock { now_unix_nano: now * 1_000_000_000, zone: &Zone::UTC };
            parse_at(&line, clock).time_unix_nano.map(|time| time / 1_000_000_000)
        };
        let new_year = 1_798_761_600; // 2027-01-01T00:00:00Z
        assert_eq!(at("Dec 31 23:59:59", new_year + 5), Some(new_year - 1), "last year's");
        assert_eq!(at("Jan  1 00:00:05", new_year - 5), Some(new_year + 5), "next year's, the writer's clock is ahead");
        assert_eq!(at("Nov 25 12:00:00", NOON), Some(NOON - 360 * day), "not five days ahead");
        assert_eq!(at("23:59:50", new_year + 5), Some(new_year - 10), "yesterday's");
        assert_eq!(at("01/02/2026 00:00:00", 1_767_312_000 + 5), Some(1_767_312_000), "the second of January, by then");
        assert_eq!(at("01/02/2026 00:00:00", 1_769_904_000 + 5), Some(1_769_904_000), "the first of February");
        assert_eq!(at("Feb 29 00:00:00", NOON), None, "there is none near");
        assert_eq!(parse("Nov 20 09:12:07 web app[1]: up").time_unix_nano, None, "without a clock");
        assert_eq!(parse("2026-11-20 09:12:07 up").time_unix_nano, Some(THEN * 1_000_000_000));
    }

    #[test]
    fn absurd_times_are_not_believed() {
        for text in ["1970-01-01T00:00:00Z", "1999-12-31 23:59:59", "2026-11-22 00:00:00", "9999-01-01 00:00:00"] {
            assert_eq!(read(&format!("{text} INFO up")), (None, Some(Info), "up"), "{text}");
        }
        // 64 bits of nanoseconds end in 2554, and what is beyond is not some other year.
        for number in ["20241839993.709551", "20241839994", "20241839993710", "20241839993709552"] {
            assert_eq!(read(&format!(r#"{{"ts":{number},"msg":"up"}}"#)).0, None, "{number}");
        }
        assert_eq!(parse("9999-01-01 00:00:00 INFO up").time_unix_nano, None, "without a clock");
        for text in ["2026-02-30 09:12:07", "2026-11-20 25:12:07", "2026-13-20 09:12:07", "00:50:56:c0:00:08"] {
            let line = format!("{text} INFO up");
            assert_eq!(read(&line).2, line, "{text} is no time");
        }
    }

    #[test]
    fn times_without_a_zone_are_those_of_the_host_s_zone() {
        let zone = Zone::posix("EST5EDT,M3.2.0,M11.1.0");
        let at = |line| parse_at(line, Clock { zone: &zone, ..NOW }).time_unix_nano.map(|time| time / 1_000_000_000);
        assert_eq!(at("2026-11-20 04:12:07 INFO up"), Some(THEN));
        assert_eq!(at("2026-07-20 05:12:07 INFO up"), Some(1_784_538_727), "in summer");
        assert_eq!(at("2026-11-20 09:12:07Z INFO up"), Some(THEN));
        assert_eq!(at("Nov 20 04:12:07 INFO up"), Some(THEN));
        assert_eq!(at("23:12:07 INFO up"), Some(THEN - 5 * 3_600), "yesterday there");
    }

    #[test]
    fn trace_and_span_ids_are_taken_if_they_are_some() {
        let ids = |line: &str| {
            let parsed = parse(line);
            (parsed.trace_id.map(|id| id[15]), parsed.span_id.map(|id| id[7]))
        };
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        assert_eq!(ids(&format!(r#"{{"msg":"x","trace_id":"{trace}","span_id":"{span}"}}"#)), (Some(0x9c), Some(0x31)));
        assert_eq!(ids(&format!("level=info traceID={trace} msg=x")), (Some(0x9c), None));
        assert_eq!(ids(&format!(r#"{{"trace_id":"{}","span_id":"xyz"}}"#, "0".repeat(32))), (None, None));
    }

    #[test]
    fn a_time_longer_than_any_header_is_no_reason_to_fail() {
        for digits in [100, 145, 150, 1_000] {
            let line = format!("E1120 09:12:07.{} 12 main.cc:7] broke", "0".repeat(digits));
            assert!(line.ends_with(read(&line).2), "{digits}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic_and_its_message_is_part_of_it(
            line in "\\PC{0,120}|[\\[\\]{}<>\"':=,.|#0-9TZ/+ \\t-]{0,80}|(Nov|20|2026|INFO|:|-|\\[|\\]|\"|\\{|T|<34>1 | |é|\\\\){0,30}"
        ) {
            let parsed = parse_at(&line, NOW);
            let (whole, part) = (line.as_ptr() as usize, parsed.message.as_ptr() as usize);
            prop_assert!(part >= whole && part + parsed.message.len() <= whole + line.len());
        }
    }
}
