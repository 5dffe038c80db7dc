//! What a miner promises, by example and against hostile input.

use super::*;
use proptest::prelude::*;

fn miner() -> Miner {
    Miner::new(Config::default())
}

/// The templates of these messages as they stand after the last.
fn templates(messages: &[&str]) -> Vec<String> {
    let mut miner = miner();
    let ids: Vec<PatternId> = messages.iter().map(|message| miner.observe(message).id).collect();
    ids.into_iter().map(|id| miner.template(id).unwrap()).collect()
}

fn template(message: &str) -> String {
    templates(&[message]).remove(0)
}

/// How many patterns these messages are.
fn count(messages: &[&str]) -> usize {
    let mut templates = templates(messages);
    templates.sort();
    templates.dedup();
    templates.len()
}

#[test]
fn what_varies_by_its_looks_is_a_wildcard_at_first_sight() {
    for (message, expected) in [
        ("took 12 of 3.5", "took <*> of <*>"),
        ("freed 12 KB in 3 ms", "freed <*> in <*>"),
        ("at 12.5MB/s or 10 MB/s.", "at <*> or <*>."),
        ("from 10.0.0.1:80 up", "from <*> up"),
        ("node fe80::dead:beef:1 and 00:1b:aa:cc:dd:ee", "node <*> and <*>"),
        ("id 123e4567-e89b-12d3-a456-426614174000 gone", "id <*> gone"),
        ("mask=deadbeef of decade", "mask=<*> of decade"),
        ("open /etc/passwd: denied", "open <*>: denied"),
        ("open / or C:\\Windows\\a b", "open <*> or <*> b"),
        ("read a/b.txt and a/b/c, not I/O", "read <*> and <*>, not I/O"),
        ("get https://a.example/b?c=d&e=f, done", "get <*>, done"),
        ("mail to <joe@example.org> sent", "mail to <<*>> sent"),
        ("in com.example.app.Main up", "in <*> up"),
        ("on Sun Jul 3 10:00:00 2005 it began", "on <*> it began"),
        ("since 3 May 2005 in May", "since <*> in May"),
        ("name=null, next=NULL", "name=<*>, next=<*>"),
        ("tag=\"a 1\" kind=\"plain\" x='y'", "tag=<*> kind=\"plain\" x='y'"),
        ("ws=Source{10 a} b=Some(thing)", "ws=<*> b=Some(thing)"),
        ("from 10.0.0.1 () at", "from <*> (<*>) at"),
        ("call() of it", "call() of it"),
        ("ids [1, 2, 3]; none", "ids [<*>]; none"),
        ("Starting... done.", "Starting... done."),
        ("  spaces \t between  ", "spaces between"),
        ("no words: --- *** ...", "no words: --- *** ..."),
        ("größe 12 Ünïcode", "größe <*> Ünïcode"),
        ("", ""),
    ] {
        assert_eq!(template(message), expected, "{message}");
    }
}

#[test]
fn the_same_statement_with_other_values_is_one_pattern() {
    for messages in [
        [
            "session opened for user cyrus by (uid=0)",
            "session opened for user news by (uid=0)",
            "session opened for user test by (uid=12)",
        ]
        .as_slice(),
        &["Invalid user admin", "Invalid user bob", "Invalid user r2d2"],
        &["members: 1, 2", "members: 1, 2, 3, 4", "members: 7"],
        &["granted to ann,bob", "granted to bob", "granted to eve,ann,bob", "granted to joe", "granted to kim,lea"],
        &["a=x b=one z", "a=y b=two z", "a=v b=three z", "a=w b=four z", "a=u b=five z"],
        &["connect to alpha now", "connect to 10.0.0.1 now", "connect to beta now"],
        &["free: 12 B of all", "free: 1.5 KB of all", "free: 3 GB of all"],
    ] {
        assert_eq!(count(messages), 1, "{:?}", templates(messages));
    }
}

#[test]
fn messages_of_other_words_are_other_patterns() {
    for messages in [
        ["VM paused by event", "VM resumed by event", "VM started by event", "VM stopped by event"].as_slice(),
        &[
            "cron startup succeeded",
            "sshd startup succeeded",
            "klogd startup succeeded",
            "cupsd startup succeeded",
            "syslogd startup succeeded",
            "portmap startup succeeded",
        ],
        &["onPause", "onResume", "onStart", "onStop", "onCreate", "onDestroy"],
        &["expand=true", "expand=false"],
        &["state: on", "state:on", "state on"],
        &["count of all:12 now", "count of all: 12 now"],
        &["a -- b c d e", "a ++ b c d e", "a ** b c d e", "a ~~ b c d e", "a %% b c d e", "a && b c d e"],
        &["opened (ok)", "opened [ok]", "opened ok"],
    ] {
        assert_eq!(count(messages), messages.len(), "{:?}", templates(messages));
    }
}

#[test]
fn two_places_that_vary_together_need_more_words_around_them() {
    let pairs = [("ann", "alpha"), ("bob", "bravo"), ("eve", "charlie"), ("joe", "delta"), ("kim", "echo")];
    let rich = pairs.map(|(a, b)| format!("the agent {a} opened a door on side {b} today"));
    assert_eq!(count(&rich.each_ref().map(String::as_str)), 1);
    let poor = pairs.map(|(a, b)| format!("took {a} to {b}"));
    assert_eq!(count(&poor.each_ref().map(String::as_str)), 5);
}

#[test]
fn combinations_of_a_few_values_do_not_become_patterns_without_end() {
    let value = |bit: usize| if bit == 0 { "off" } else { "on" };
    let line = |n: usize| {
        (0..10).map(|key| format!("{}={}", char::from(b'a' + key), value(n >> key & 1))).collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = (0..1024).map(line).collect();
    assert!(count(&lines.iter().map(String::as_str).collect::<Vec<_>>()) <= 32);
    let few: Vec<String> = (0..8).map(line).collect();
    assert_eq!(count(&few.iter().map(String::as_str).collect::<Vec<_>>()), 8);
}

#[test]
fn what_one_pattern_learned_is_not_said_of_others() {
    let mut miner = miner();
    for subject in "abcdefghijklm".chars() {
        miner.observe(&format!("{subject}{subject} up"));
    }
    assert_eq!(miner.len(), 1);
    let number = miner.observe("12 down").id;
    let word = miner.observe("cron down").id;
    assert_ne!(miner.resolve(word), number);
    // Nor is it of another spacing.
    let spaced = templates(&["it is:alpha for all", "it is: 12 for all"]);
    assert_eq!(spaced, ["it is:alpha for all", "it is: <*> for all"]);
}

#[test]
fn a_word_that_proves_to_vary_leads_all_its_patterns_to_the_oldest() {
    let mut miner = miner();
    let words = ["ann", "bob", "eve", "joe", "kim", "lea"];
    let sights = words.map(|word| miner.observe(&format!("cart of {word} is full")));
    assert_eq!(sights.map(|sight| sight.is_new), [true, true, true, true, false, false]);
    let oldest = sights[0].id;
    assert!(sights.iter().all(|sight| miner.resolve(sight.id) == oldest));
    assert_eq!(miner.template(sights[3].id).unwrap(), "cart of <*> is full");
    assert_eq!(miner.len(), 1);
    assert_eq!(miner.observe("cart of zoe is full"), Sight { id: oldest, is_new: false });
}

#[test]
fn what_two_wildcards_were_learned_for_is_known_in_any_combination() {
    let mut miner = miner();
    let words = ["ann", "bob", "eve", "joe", "kim"];
    let mut last = None;
    for a in words {
        for b in words {
            last = Some(miner.observe(&format!("transfer from {a} to {b} is done")).id);
        }
    }
    let id = miner.resolve(last.unwrap());
    assert_eq!(miner.template(id).unwrap(), "transfer from <*> to <*> is done");
    assert_eq!(miner.observe("transfer from lea to zoe is done"), Sight { id, is_new: false });
}

#[test]
fn the_order_of_lines_does_not_matter() {
    let words = ["ann", "bob", "eve", "joe", "kim", "lea"];
    let mut messages: Vec<String> = Vec::new();
    for word in words {
        messages.push(format!("cart of {word} is full"));
        messages.push(format!("user {word} logged in from 10.0.0.1"));
        messages.push(format!("cart {word}"));
    }
    let of = |messages: &[String]| {
        let mut templates = templates(&messages.iter().map(String::as_str).collect::<Vec<_>>());
        templates.sort();
        templates
    };
    let forward = of(&messages);
    messages.reverse();
    assert_eq!(of(&messages), forward);
    messages.sort();
    assert_eq!(of(&messages), forward);
}

#[test]
fn parameters_are_what_stands_at_the_wildcards() {
    let mut miner = miner();
    let ids =
        ["ann", "bob", "eve"].map(|user| miner.observe(&format!("open /a/{user}.txt for user {user} took 3 ms")).id);
    assert_eq!(miner.template(ids[1]).unwrap(), "open <*> for user <*> took <*>");
    let message = "open /b for user  zoe took 12.5 s";
    assert_eq!(miner.parameters(ids[2], message), ["/b", "zoe", "12.5 s"]);
    assert!(miner.parameters(ids[2], "close /b for user zoe took 12.5 s").is_empty());
    assert!(miner.parameters(ids[2], "open /b for user zoe").is_empty());
}

#[test]
fn a_very_long_line_ends_in_one_wildcard_for_the_rest() {
    let mut miner = miner();
    for message in ["word ".repeat(10_000), "= ".repeat(10_000), "x".repeat(10_000), "ü".repeat(5_000)] {
        let id = miner.observe(&message).id;
        assert!(miner.template(id).unwrap().ends_with("<*>"));
        let parameters = miner.parameters(id, &message);
        assert!(
            parameters.last().unwrap().ends_with(message.trim_end().chars().last().unwrap()) || message.ends_with(' ')
        );
        assert!(message.ends_with(parameters.last().unwrap()));
    }
}

#[test]
fn the_least_used_pattern_is_forgotten_and_its_id_never_used_again() {
    let messages = ["first", "the second", "as a third"];
    for seldom in messages {
        let mut miner = Miner::new(Config { patterns_max: 3, ..Config::default() });
        let ids = messages.map(|message| miner.observe(message).id);
        for often in messages.iter().filter(|message| **message != seldom) {
            assert!((0..3).all(|_| !miner.observe(often).is_new));
        }
        let new = miner.observe("one more of them").id;
        assert_eq!((miner.len(), miner.forgotten()), (3, 1));
        for (message, id) in messages.into_iter().zip(ids) {
            assert_eq!(miner.template(id).is_none(), message == seldom);
            assert_eq!(miner.parameters(id, message), [""; 0]);
        }
        let again = miner.observe(seldom);
        assert!(again.is_new && again.id > new);
    }
}

#[test]
fn a_miner_without_room_still_answers() {
    let mut miner = Miner::new(Config { patterns_max: 0, bytes_max: 0 });
    for message in ["one", "two of them", "three"] {
        assert!(miner.observe(message).is_new);
        assert_eq!(miner.len(), 1);
    }
}

/// Put parameters where the wildcards are; spaces and what stands for them become one.
fn filled(template: &str, parameters: &[&str]) -> String {
    let mut parts = template.split("<*>");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (part, parameter) in parts.zip(parameters) {
        text.push_str(parameter);
        text.push_str(part);
    }
    one_space(&text)
}

fn one_space(text: &str) -> String {
    let is_space = |c: char| c <= ' ' || c == '\u{7f}';
    text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn message() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "open",
        "closed",
        "user",
        "for",
        "ann",
        "bob",
        "eve",
        "kim",
        "joe",
        "=",
        "a=b",
        "x={y 1}",
        "(",
        ")",
        "[",
        "]",
        "/a/b",
        "12",
        "3 ms",
        "Jul",
        "1,2",
        "a,b",
        "\"q r\"",
        "'",
        "...",
        "10.0.0.1",
        "ü",
        "-",
        ":",
        "aa:bb:cc:dd",
        "http://a/b",
        "C:\\a",
    ]);
    let line = prop::collection::vec((words, prop::bool::ANY), 0..40).prop_map(|words| {
        words.into_iter().map(|(word, space)| format!("{word}{}", if space { " " } else { "" })).collect::<String>()
    });
    prop_oneof![4 => line, 1 => any::<String>(), 1 => "[ -~]{0,300}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_message_is_its_template_with_its_parameters(messages in prop::collection::vec(message(), 1..20)) {
        let mut miner = miner();
        let ids: Vec<PatternId> = messages.iter().map(|message| miner.observe(message).id).collect();
        for (id, message) in ids.into_iter().zip(&messages) {
            let template = miner.template(id).unwrap();
            prop_assume!(!message.contains("<*>"));
            let parameters = miner.parameters(id, message);
            prop_assert_eq!(parameters.len(), template.matches("<*>").count(), "{} {:?}", template, message);
            prop_assert_eq!(filled(&template, &parameters), one_space(message));
        }
    }

    #[test]
    fn ids_lead_to_patterns_that_stand_and_limits_hold(
        messages in prop::collection::vec(message(), 1..100),
        patterns_max in 1_usize..5000,
    ) {
        let mut miner = Miner::new(Config { patterns_max, bytes_max: 64 << 10 });
        let mut ids = Vec::new();
        for message in &messages {
            let sight = miner.observe(message);
            prop_assert_eq!(miner.resolve(sight.id), sight.id);
            prop_assert!(miner.template(sight.id).is_some());
            prop_assert!(miner.len() <= patterns_max);
            prop_assert!(miner.bytes() <= 64 << 10);
            ids.push(sight.id);
        }
        for id in ids {
            prop_assert_eq!(miner.resolve(miner.resolve(id)), miner.resolve(id));
        }
    }
}
