//! Redaction: secrets and personal data leave every string of a record before it reaches disk or wire.
//!
//! Records come from the inputs, redacted ones go on to be reduced, so that no pattern, operation or series ever holds a secret.
//! A text is looked through three times, quickly: for words that announce a secret or that
//! keys begin with ([`words`]), for `@` ([`address`]), and for long runs of digits and capitals ([`number`]). Only what these passes
//! point at is looked at closely. Invariants: a text without anything to redact is not copied; time is linear in the length of
//! the text, whatever it holds; what was redacted is counted by kind and shown nowhere.

mod address;
mod assignment;
mod command;
mod config;
mod kind;
mod mark;
mod name;
mod number;
mod private_key;
mod records;
#[cfg(test)]
mod tests;
mod token;
mod words;

pub use config::{Config, HashKey, RULE_BYTES_MAX, RULES_MAX, Rule, Rules};
pub use kind::{Action, Kind};

use hashbrown::HashMap;
use kind::{Counts, Find, What};
use mark::Hasher;
use ollystack_record::otlp::logs::v1::ScopeLogs;
use ollystack_record::otlp::trace::v1::ScopeSpans;
use ollystack_record::{Attribute, Resource, Sample, Series, Template};
use prost::Message;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use words::Words;

/// Resources remembered with what became of them; those of one host's applications are fewer.
const RESOURCES_MAX: usize = 64;
/// A larger one is redacted each time. 64 resources of 4 KiB, and as many redacted, are 512 KiB.
const RESOURCE_BYTES_MAX: usize = 4 << 10;

/// How a series is rewritten when it is first seen; none: as it is.
pub type Rewrite = Box<dyn Fn(&Series) -> Option<Series> + Send>;

/// Redacts records. One owner; what it shares with [`Redactor::rewrite`] is read only, but for the counters.
#[derive(Debug)]
pub struct Redactor {
    redaction: Option<Arc<Redaction>>,
    /// By hash: as it came, as it goes on.
    resources: HashMap<u64, (Arc<Resource>, Arc<Resource>)>,
}

/// How often what was redacted since the start, by the names of kinds and rules; what was never found is left out. What requests that the
/// kernel saw have in common counts once for many.
pub type Stats = BTreeMap<String, u64>;

impl Redactor {
    /// As configured.
    pub fn new(config: &Config) -> Redactor {
        let redaction = config.enabled.then(|| Arc::new(Redaction::new(config)));
        Redactor { redaction, resources: HashMap::new() }
    }

    /// One text.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.redaction.as_ref().map_or(Cow::Borrowed(text), |redaction| redaction.text(text))
    }

    /// A resource; the same answer for the same resource, at the cost of a comparison.
    pub fn resource(&mut self, resource: &Arc<Resource>) -> Arc<Resource> {
        let Some(redaction) = &self.redaction else { return Arc::clone(resource) };
        if let Some((known, redacted)) = self.resources.get(&resource.hash())
            && (Arc::ptr_eq(known, resource) || known == resource)
        {
            return Arc::clone(redacted);
        }
        let redacted = redaction.resource(resource).map_or_else(|| Arc::clone(resource), Arc::new);
        let bytes: usize = resource.attributes().iter().map(Message::encoded_len).sum();
        if bytes <= RESOURCE_BYTES_MAX {
            if self.resources.len() >= RESOURCES_MAX {
                self.resources.clear();
            }
            self.resources.insert(resource.hash(), (Arc::clone(resource), Arc::clone(&redacted)));
        }
        redacted
    }

    /// Forget what became of resources: it is worked out anew.
    pub fn forget(&mut self) {
        self.resources = HashMap::new();
    }

    /// A series: scope, metric and attributes. None: nothing to redact.
    pub fn series(&self, series: &Series) -> Option<Series> {
        self.redaction.as_ref()?.series(series)
    }

    /// [`Redactor::series`] for whoever sees each series first.
    pub fn rewrite(&self) -> Rewrite {
        let redaction = self.redaction.clone();
        Box::new(move |series| redaction.as_ref()?.series(series))
    }

    /// Log records and their scopes.
    pub fn logs(&self, scopes: &mut [ScopeLogs]) {
        if let Some(redaction) = &self.redaction {
            scopes.iter_mut().for_each(|scope| redaction.scope_logs(scope));
        }
    }

    /// Spans and their scopes.
    pub fn spans(&self, scopes: &mut [ScopeSpans]) {
        if let Some(redaction) = &self.redaction {
            scopes.iter_mut().for_each(|scope| redaction.scope_spans(scope));
        }
    }

    /// What requests have in common; the same if there is nothing to redact.
    pub fn template(&self, template: &Arc<Template>) -> Arc<Template> {
        let redacted = self.redaction.as_ref().and_then(|redaction| redaction.template(template));
        redacted.map_or_else(|| Arc::clone(template), Arc::new)
    }

    /// What is a request's own. Keys are ours: see [`Redactor::may_change_keys`].
    pub fn own(&self, attributes: &mut [Attribute]) {
        if let Some(redaction) = &self.redaction {
            attributes.iter_mut().for_each(|attribute| redaction.own(attribute));
        }
    }

    /// Whether even a key of the semantic conventions may have to go: somebody's own rule may match anything.
    pub fn may_change_keys(&self) -> bool {
        self.redaction.as_ref().is_some_and(|redaction| !redaction.rules.is_empty())
    }

    /// The exemplars of samples; their series go through [`Redactor::rewrite`].
    pub fn samples(&self, samples: &mut [Sample]) {
        if let Some(redaction) = &self.redaction {
            samples.iter_mut().for_each(|sample| redaction.sample(sample));
        }
    }

    /// What was redacted.
    pub fn stats(&self) -> Stats {
        self.redaction.as_ref().map(|redaction| redaction.stats()).unwrap_or_default()
    }
}

/// What never changes, and the counters.
#[derive(Debug)]
struct Redaction {
    actions: [Action; Kind::ALL.len()],
    attributes: Vec<String>,
    rules: Vec<Rule>,
    words: Words,
    hasher: Hasher,
    counts: Counts,
}

impl Redaction {
    fn new(config: &Config) -> Redaction {
        let rules: Vec<Rule> = config.rules.iter().filter(|rule| rule.action != Action::Off).cloned().collect();
        Redaction {
            actions: Kind::ALL.map(|kind| config.action(kind)),
            attributes: config.attributes.clone(),
            words: Words::new(),
            hasher: Hasher::new(config.hash_key.bytes()),
            counts: Counts::new(rules.len()),
            rules,
        }
    }

    fn is_on(&self, kind: Kind) -> bool {
        self.actions[kind as usize] != Action::Off
    }

    fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut finds = Vec::new();
        self.find(text, &mut finds);
        if finds.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(self.replace(text, finds)) }
    }

    /// Everything in a text that must go, in any order; stretches may overlap.
    fn find(&self, text: &str, finds: &mut Vec<Find>) {
        let bytes = text.as_bytes();
        let on = |kind| self.is_on(kind);
        let may = words::may(bytes);
        if may.hold_word {
            self.words.find(text, &on, finds);
        }
        if may.hold_address {
            address::find(text, &on, finds);
        }
        if may.hold_number {
            number::find(bytes, &on, finds);
        }
        for (number, rule) in self.rules.iter().enumerate() {
            let mut push = |found: regex::Match<'_>| {
                let (start, end, what) = (found.start(), found.end(), What::Rule(number));
                // A group may be empty, and so may be what stands between two words.
                if start < end {
                    finds.push(Find { start, end, what, bare_json: false });
                }
            };
            if rule.pattern.captures_len() == 1 {
                rule.pattern.find_iter(text).for_each(push);
            } else {
                rule.pattern.captures_iter(text).filter_map(|found| found.get(1)).for_each(&mut push);
            }
        }
    }

    /// Of overlapping stretches the first gives the name, and all of them go.
    fn replace(&self, text: &str, mut finds: Vec<Find>) -> String {
        finds.sort_by_key(|find| (find.start, Reverse(find.end)));
        let mut redacted = String::with_capacity(text.len());
        let mut finds = finds.into_iter().peekable();
        let mut kept_to = 0;
        while let Some(mut find) = finds.next() {
            while let Some(next) = finds.next_if(|next| next.start < find.end) {
                find.end = find.end.max(next.end);
            }
            redacted.push_str(text.get(kept_to..find.start).unwrap_or_default());
            let quote = if find.bare_json { "\"" } else { "" };
            redacted.push_str(quote);
            self.mark(find.what, text.get(find.start..find.end).unwrap_or_default(), &mut redacted);
            redacted.push_str(quote);
            kept_to = find.end;
        }
        redacted.push_str(text.get(kept_to..).unwrap_or_default());
        redacted
    }

    fn replaced(&self, value: &str, kind: Kind) -> String {
        let mut mark = String::new();
        self.mark(What::Kind(kind), value, &mut mark);
        mark
    }

    fn mark(&self, what: What, value: &str, to: &mut String) {
        self.counts.add(what);
        let (name, action) = match what {
            What::Kind(kind) => (kind.name(), self.actions[kind as usize]),
            What::Rule(rule) => self.rules.get(rule).map_or(("rule", Action::Mask), |rule| (&rule.name, rule.action)),
        };
        match action {
            Action::Hash => self.hasher.hash(name, value, to),
            _ => mark::mask(name, to),
        }
    }

    fn stats(&self) -> Stats {
        let kinds = Kind::ALL.map(|kind| (kind.name().to_owned(), self.counts.of(What::Kind(kind))));
        let rules = self.rules.iter().enumerate();
        let rules = rules.map(|(number, rule)| (rule.name.clone(), self.counts.of(What::Rule(number))));
        let mut stats = Stats::new();
        for (name, count) in kinds.into_iter().chain(rules).filter(|(_, count)| *count > 0) {
            *stats.entry(name).or_default() += count;
        }
        stats
    }
}
