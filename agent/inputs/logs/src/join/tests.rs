//! Records out of chunks: framings, traces, limits, and streams that interleave.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { line_bytes_max: 64, lines_max: 8, records_max: 100, chunk_bytes_max: 1_000 };

fn layout(framing: Framing) -> Layout {
    Layout { framing, multiline: Multiline::Auto }
}

fn texts(joined: &Joined<'_>) -> Vec<String> {
    joined.records.iter().map(|record| String::from_utf8_lossy(&record.text).into_owned()).collect()
}

/// As the tail does it: chunks of a given size, again from where the last one was left; at the end nothing more is waited for.
fn read(text: &[u8], layout: &Layout, limits: Limits, size: usize) -> Vec<(Stream, String, u32)> {
    let limits = Limits { chunk_bytes_max: size, ..limits };
    let (mut from, mut all) = (Mark::default(), Vec::new());
    loop {
        let at = from.offset as usize;
        let chunk = &text[at..text.len().min(at + size)];
        let mut joined = join(chunk, from, layout, limits, Due::Nothing);
        if joined.consumed == 0 {
            joined = join(chunk, from, layout, limits, Due::Line);
        }
        let text = |record: &Record<'_>| String::from_utf8_lossy(&record.text).into_owned();
        all.extend(joined.records.iter().map(|record| (record.stream, text(record), record.lines)));
        if joined.consumed == 0 {
            return all;
        }
        let Joined { consumed, in_cut_line, in_record, .. } = joined;
        from = Mark { offset: from.offset + consumed as u64, in_cut_line, in_record };
    }
}

#[test]
fn a_record_waits_for_the_line_after_it_or_until_it_is_due() {
    let text = b"one\n\tat x\ntwo\n\nunfin";
    let plain = layout(Framing::Plain);
    let joined = join(text, Mark::default(), &plain, LIMITS, Due::Nothing);
    assert_eq!((texts(&joined), joined.consumed, joined.open), (vec!["one\n\tat x".to_owned()], 10, Some((10, 14))));
    assert!(joined.is_unfinished);
    let joined = join(text, Mark::default(), &plain, LIMITS, Due::Record);
    assert_eq!((joined.records.len(), joined.consumed, joined.in_record), (2, 15, true));
    let joined = join(text, Mark::default(), &plain, LIMITS, Due::Line);
    assert_eq!((texts(&joined).pop().unwrap().as_str(), joined.consumed), ("unfin", text.len()));
}

#[test]
fn a_line_that_is_whole_by_itself_waits_for_nothing() {
    let joined = join(b"{\"level\":\"info\"}\n", Mark::default(), &layout(Framing::Plain), LIMITS, Due::Nothing);
    assert_eq!((joined.records.len(), joined.consumed, joined.open), (1, 17, None));
    let off = Layout { framing: Framing::Plain, multiline: Multiline::Off };
    let joined = join(b"a\n\tb\nc\n", Mark::default(), &off, LIMITS, Due::Nothing);
    assert_eq!((texts(&joined), joined.open), (vec!["a".to_owned(), "\tb".to_owned(), "c".to_owned()], None));
}

#[test]
fn a_rule_says_where_records_begin() {
    let start = Multiline::Start(Arc::new(Regex::new("^# Time").unwrap()));
    let layout = Layout { framing: Framing::Plain, multiline: start };
    let text = b"rest\n# Time: 1\nSELECT 1;\n# Time: 2\n\tat x\nSELECT 2;\n";
    let expected = ["rest", "# Time: 1\nSELECT 1;", "# Time: 2\n\tat x\nSELECT 2;"];
    assert_eq!(read(text, &layout, LIMITS, 100).iter().map(|(_, text, _)| text.as_str()).collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_beyond_a_limit_is_a_record_of_its_own_and_nothing_is_lost() {
    let plain = layout(Framing::Plain);
    let text: String = (0..20).fold("head\n".to_owned(), |text, frame| format!("{text}\tat {frame}\n"));
    let sizes =
        |limits, size| read(text.as_bytes(), &plain, limits, size).iter().map(|(.., lines)| *lines).collect::<Vec<_>>();
    assert_eq!(sizes(LIMITS, 1_000), [8, 8, 5], "lines");
    assert_eq!(sizes(Limits { lines_max: 100, ..LIMITS }, 1_000).iter().sum::<u32>(), 21, "bytes");
    // A record longer than a chunk goes on with the next chunk, although all its lines are indented.
    assert_eq!(sizes(Limits { lines_max: 100, line_bytes_max: 20, ..LIMITS }, 23).iter().sum::<u32>(), 21);
    let after_limit = Mark { in_record: true, ..Mark::default() };
    assert_eq!(join(b"\ta\n\tb\nc\n", after_limit, &plain, LIMITS, Due::Nothing).records[0].lines, 2);
    assert_eq!(join(b"\ta\n\tb\nc\n", Mark::default(), &plain, LIMITS, Due::Nothing).records[0].lines, 1);
}

#[test]
fn a_frame_does_not_count_as_text_and_a_long_text_within_it_is_cut() {
    let text = cri(&[("1F", &"x".repeat(64)), ("1F", &"y".repeat(65))]);
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Cri), LIMITS, Due::Line);
    let found: Vec<_> = joined.records.iter().map(|record| (record.text.len(), record.is_cut)).collect();
    assert_eq!(found, [(64, false), (64, true)]);
}

#[test]
fn a_line_that_is_cut_ends_its_record() {
    let text = format!("a\n\t{}\nb\n", "x".repeat(100));
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Plain), LIMITS, Due::Line);
    let found: Vec<_> = joined.records.iter().map(|record| (record.text.len(), record.is_cut)).collect();
    assert_eq!(found, [(1, false), (64, true), (1, false)]);
    assert_eq!(joined.consumed, text.len());
}

const TIME: &str = "2026-11-20T09:12:07.5Z";

/// `1P` is a part of a line of stdout, `2F` the end of one of stderr.
fn cri(lines: &[(&str, &str)]) -> String {
    let line = |(tag, text): &(&str, &str)| {
        let (stream, tag) = tag.split_at(1);
        format!("{TIME} {} {tag} {text}\n", if stream == "1" { "stdout" } else { "stderr" })
    };
    lines.iter().map(line).collect()
}

#[test]
fn streams_of_a_container_are_kept_apart_and_parts_of_a_line_put_together() {
    let text = cri(&[
        ("2F", "ERROR no stock"),
        ("1P", "order "),
        ("2F", "\tat store"),
        ("1P", ""),
        ("1F", "stored"),
        ("2F", "\tat main"),
        ("1F", "next"),
        ("2F", "next error"),
    ]);
    let found = read(text.as_bytes(), &layout(Framing::Cri), LIMITS, 1_000);
    let expected = [
        (Stream::Stderr, "ERROR no stock\n\tat store\n\tat main", 3),
        (Stream::Stdout, "order stored", 1),
        (Stream::Stdout, "next", 1),
        (Stream::Stderr, "next error", 1),
    ];
    assert_eq!(found, expected.map(|(stream, text, lines)| (stream, text.to_owned(), lines)));
    let docker =
        |log: &str, stream: &str| format!("{{\"log\":\"{log}\",\"stream\":\"{stream}\",\"time\":\"{TIME}\"}}\n");
    let text = [docker("a", "stdout"), docker("x\\n", "stderr"), docker("b\\n", "stdout"), docker("\\tc\\n", "stdout")]
        .concat();
    let layout = layout(Framing::Docker);
    let joined = join(text.as_bytes(), Mark::default(), &layout, LIMITS, Due::Line);
    assert_eq!(texts(&joined), ["ab\n\tc", "x"]);
    assert_eq!(joined.records[0].time_unix_nano, 1_795_165_927_500_000_000);
}

#[test]
fn a_file_is_left_only_where_no_record_lies_across() {
    let lines = [("1F", "a"), ("2F", "ERROR"), ("1F", "\tb"), ("1F", "c")];
    let text = cri(&lines);
    // stderr is open from its first line on, and a record of stdout, though over, lies across that point.
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Cri), LIMITS, Due::Nothing);
    assert_eq!((joined.records.len(), joined.consumed), (0, 0));
    assert_eq!(joined.open.unwrap().0, cri(&lines[..1]).len());
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Cri), LIMITS, Due::Record);
    assert_eq!((texts(&joined), joined.consumed), (vec!["a\n\tb".into(), "ERROR".into()], cri(&lines[..3]).len()));
    // Two that are open and lie across each other are due together, or neither ever were.
    let lines = [("2F", "ERROR"), ("1P", "a"), ("2F", "\tat x"), ("1F", "b")];
    let text = cri(&lines);
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Cri), LIMITS, Due::Record);
    assert_eq!(texts(&joined), ["ERROR\n\tat x", "ab"]);
}

#[test]
fn a_stream_that_waits_does_not_hold_up_a_busy_one_beyond_a_batch() {
    let lines = [vec![("2F", "ERROR")], vec![("1F", "busy"); 10]].concat();
    let limits = Limits { records_max: 5, ..LIMITS };
    let text = cri(&lines);
    let joined = join(text.as_bytes(), Mark::default(), &layout(Framing::Cri), limits, Due::Nothing);
    assert_eq!((texts(&joined)[0].as_str(), joined.records.len()), ("ERROR", 7));
}

fn plain_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        "(\\t|  |Caused by: |panic: |goroutine 1 \\[x\\]:|Traceback \\(most|)[a-c]{0,6}\\r?",
        0..30,
    )
    .prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn records_do_not_depend_on_how_the_bytes_are_cut(text in plain_text(), size in 300..400usize) {
        // Chunks have room for the longest record, so no limit is met.
        let limits = Limits { line_bytes_max: 250, lines_max: 100, ..LIMITS };
        let plain = layout(Framing::Plain);
        prop_assert_eq!(read(text.as_bytes(), &plain, limits, size), read(text.as_bytes(), &plain, limits, 100_000));
    }

    #[test]
    fn every_line_of_every_stream_is_in_exactly_one_record_in_order(
        lines in proptest::collection::vec(("[12]", "[FP]", "[\\ta-c]{1,6}"), 0..40),
        size in 100..300usize,
        records_max in 1..10usize,
    ) {
        let tags: Vec<String> = lines.iter().map(|(stream, tag, _)| format!("{stream}{tag}")).collect();
        let text = cri(&tags.iter().zip(&lines).map(|(tag, (.., text))| (tag.as_str(), text.as_str())).collect::<Vec<_>>());
        let found = read(text.as_bytes(), &layout(Framing::Cri), Limits { records_max, ..LIMITS }, size);
        for (name, stream) in [("1", Stream::Stdout), ("2", Stream::Stderr)] {
            let written: String = lines.iter().filter(|line| line.0 == name).map(|line| line.2.as_str()).collect();
            let read: String = found.iter().filter(|record| record.0 == stream).map(|record| record.1.replace('\n', "")).collect();
            prop_assert_eq!(written, read);
        }
    }

    #[test]
    fn no_bytes_make_it_fail_stand_still_or_go_beyond_the_limits(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\t'), Just(0), any::<u8>()], 0..300)
    ) {
        for framing in [Framing::Plain, Framing::Docker, Framing::Cri] {
            let found = read(&bytes, &layout(framing), Limits { line_bytes_max: 16, ..LIMITS }, 100);
            // Three bytes that are no text become a character of three bytes each.
            prop_assert!(found.iter().all(|(_, text, lines)| text.len() <= 48 && *lines <= 8));
            let joined = join(&bytes, Mark::default(), &layout(framing), LIMITS, Due::Line);
            prop_assert_eq!(joined.consumed, bytes.len());
        }
    }
}
