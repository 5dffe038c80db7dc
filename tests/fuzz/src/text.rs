//! A line of text through all that reads text.
//!
//! Invariants held here: what is parsed is part of the line; a line has the pattern it is told; redacting twice is redacting once.

use ollystack_multiline::Shape;
use ollystack_patterns::{Config, Miner};
use ollystack_process::redact;

pub(crate) fn log_line(data: &[u8]) {
    let _ = Shape::head(data).with(data);
    let text = String::from_utf8_lossy(data);
    let mut miner = Miner::new(Config::default());
    let redactor = redact::Redactor::new(&redact::Config::default());
    for line in text.lines() {
        let parsed = ollystack_logs::parse(line);
        assert!(line.contains(parsed.message), "{:?} is no part of {line:?}", parsed.message);
        let sight = miner.observe(parsed.message);
        assert!(miner.template(miner.resolve(sight.id)).is_some(), "{line:?} has no pattern");
        let once = redactor.text(line).into_owned();
        let twice = redactor.text(&once);
        assert!(twice == once, "{line:?} became {once:?}, then {twice:?}");
    }
}
