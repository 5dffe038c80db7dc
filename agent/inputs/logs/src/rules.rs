//! Which lines of which file are one record: the configuration's rules by path, else what is configured for all.
//!
//! Invariant: rules are compiled once, before anything is read; one that cannot be is refused by key.

use crate::config::MultilineMode;
use crate::frame::Framing;
use crate::join::{Layout, Multiline};
use crate::{Config, Error};
use globset::{GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};
use std::path::Path;
use std::sync::Arc;

/// Bytes that a rule may take when compiled.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// The rules, in order.
#[derive(Debug)]
pub(crate) struct Rules {
    by_path: Vec<(GlobMatcher, Arc<Regex>)>,
    otherwise: Multiline,
}

impl Rules {
    pub(crate) fn new(config: &Config) -> Result<Rules, Error> {
        let wrong = |key, found: &str, allowed| Error::Config { key, found: format!("{found:?}"), allowed };
        let mut by_path = Vec::new();
        for rule in &config.multiline_rules {
            let glob = GlobBuilder::new(&rule.include).literal_separator(true).build();
            let glob =
                glob.map_err(|_| wrong("multiline_rules.include", &rule.include, "a glob as in logs.include"))?;
            let start = RegexBuilder::new(&rule.start).size_limit(REGEX_BYTES_MAX).build().map_err(|_| {
                wrong(
                    "multiline_rules.start",
                    &rule.start,
                    "a regular expression, as the Rust crate regex has them, of no more than 1 MiB",
                )
            })?;
            by_path.push((glob.compile_matcher(), Arc::new(start)));
        }
        let otherwise = match config.multiline {
            MultilineMode::Auto => Multiline::Auto,
            MultilineMode::Off => Multiline::Off,
        };
        Ok(Rules { by_path, otherwise })
    }

    /// How to read a file that begins so.
    pub(crate) fn layout(&self, path: &Path, beginning: &[u8]) -> Layout {
        let rule = self.by_path.iter().find(|(glob, _)| glob.is_match(path));
        let multiline = rule.map_or_else(|| self.otherwise.clone(), |(_, start)| Multiline::Start(Arc::clone(start)));
        Layout { framing: Framing::of(beginning, path), multiline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MultilineRule;

    #[test]
    fn the_first_rule_that_fits_counts_and_else_the_mode() {
        let rule = |include: &str, start: &str| MultilineRule { include: include.into(), start: start.into() };
        let multiline_rules = vec![rule("/var/log/mysql/*.log", "^# Time"), rule("/var/log/**", "^x")];
        let config = Config { multiline_rules, multiline: MultilineMode::Off, ..Config::default() };
        let rules = Rules::new(&config).unwrap();
        let start = |path: &str| match rules.layout(Path::new(path), b"").multiline {
            Multiline::Start(start) => start.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(start("/var/log/mysql/slow.log"), "^# Time");
        assert_eq!(start("/var/log/a/b.log"), "^x");
        assert_eq!(start("/srv/a.log"), "Off");
    }
}
