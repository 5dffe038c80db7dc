//! What to do with chosen lines: `[[patterns.rules]]`.
//!
//! Invariant: a rule is asked once for a pattern and window, so that its cost does not grow with the lines.

use crate::config::Error;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// The most that a rule's compiled expression may take; a larger one is refused.
pub const RULE_BYTES_MAX: usize = 256 << 10;

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// For the lines of this `service.name`; empty: of all.
    pub service: String,
    /// A regular expression that the pattern, or the first line of it in a window, must match; empty: all do.
    #[serde(rename = "match")]
    pub matches: String,
    /// What to do.
    pub action: Action,
}

/// What to do with the lines of a pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// What their number says: whole if they are few, news or errors, else folded.
    #[default]
    Fold,
    /// Every line whole, however many.
    Whole,
    /// Never a line whole, not even an error: only their number, and examples.
    Count,
}

/// All rules, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<(String, Option<Regex>, Action)>);

impl Rules {
    pub(crate) fn new(rules: &[Rule]) -> Result<Rules, Error> {
        let compile = |(index, rule): (usize, &Rule)| {
            let regex = (!rule.matches.is_empty())
                .then(|| RegexBuilder::new(&rule.matches).size_limit(RULE_BYTES_MAX).build())
                .transpose()
                .map_err(|error| Error {
                    field: "patterns.rules",
                    value: format!("`{}` as match of rule {}", rule.matches, index + 1),
                    allowed: format!("a regular expression ({error})"),
                })?;
            Ok((rule.service.clone(), regex, rule.action))
        };
        rules.iter().enumerate().map(compile).collect::<Result<_, Error>>().map(Rules)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to do with the lines of `service` that are as this message, whose pattern is `template`.
    pub(crate) fn action(&self, service: &str, message: &str, template: Option<&str>) -> Action {
        let matches = |regex: &Regex| regex.is_match(message) || template.is_some_and(|text| regex.is_match(text));
        let chosen = self
            .0
            .iter()
            .find(|(name, regex, _)| (name.is_empty() || name == service) && regex.as_ref().is_none_or(matches));
        chosen.map_or(Action::Fold, |(_, _, action)| *action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_service_and_text_stands() {
        let rule =
            |service: &str, matches: &str, action| Rule { service: service.into(), matches: matches.into(), action };
        let rules = [
            rule("shop", "^payment ", Action::Whole),
            rule("", "health <\\*>", Action::Count),
            rule("shop", "", Action::Count),
        ];
        let rules = Rules::new(&rules).unwrap();
        let table = [
            ("shop", "payment of 5", None, Action::Whole),
            ("other", "payment of 5", None, Action::Fold),
            ("other", "health 200", Some("health <*>"), Action::Count),
            ("other", "health 200", None, Action::Fold),
            ("shop", "x", None, Action::Count),
        ];
        for (service, message, template, expected) in table {
            assert_eq!(rules.action(service, message, template), expected, "{service} {message}");
        }
    }
}
