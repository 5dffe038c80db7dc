//! Every key the configuration knows, read off the default configuration itself: for checking files, for naming
//! environment variables and for suggesting what a misspelt key may have meant.
//!
//! Invariant: a key is known if and only if `Config` has it, because the tree is `Config::default()` serialized.

use super::Config;
use serde_json::Value;

/// One key with its default.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// From the outermost section inwards, for example `["process", "window_ms"]`.
    pub(crate) path: Vec<String>,
    /// The default, which also gives the type.
    pub(crate) default: Value,
}

impl Key {
    /// As written in a flag or a message: `process.window_ms`.
    pub(crate) fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// The environment variable that sets it: `OLLYSTACK_PROCESS_WINDOW_MS`.
    pub(crate) fn variable(&self) -> String {
        format!("OLLYSTACK_{}", self.path.join("_").to_uppercase())
    }
}

/// The default configuration as a tree: tables inside, values at the leaves.
pub(crate) fn tree() -> Value {
    let mut tree = serde_json::to_value(Config::default()).unwrap_or_default();
    if let Some(Value::Object(export)) = tree.get_mut("export") {
        // The exporter's section has a place for the endpoint, which `run` fills: it is set once, at the top.
        export.remove("endpoint");
    }
    tree
}

/// All keys, in the order of the sections.
pub(crate) fn all() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&tree(), &mut Vec::new(), &mut keys);
    keys
}

fn collect(node: &Value, path: &mut Vec<String>, keys: &mut Vec<Key>) {
    match node {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, child) in fields {
                path.push(name.clone());
                collect(child, path, keys);
                path.pop();
            }
        }
        leaf => keys.push(Key { path: path.clone(), default: leaf.clone() }),
    }
}

/// The first key of `table` that `Config` does not have: its dotted path and the nearest known one in the same section.
pub(crate) fn unknown(table: &toml::Table) -> Option<(String, Option<String>)> {
    find_unknown(table, &tree(), "")
}

fn find_unknown(table: &toml::Table, known: &Value, prefix: &str) -> Option<(String, Option<String>)> {
    let Value::Object(fields) = known else { return None };
    if fields.is_empty() {
        return None;
    }
    for (name, value) in table {
        let dotted = format!("{prefix}{name}");
        match (fields.get(name), value) {
            (None, _) => {
                let here = nearest(name, fields.keys().map(String::as_str)).map(|near| format!("{prefix}{near}"));
                // A key of the right name in the wrong section is the other common slip.
                let elsewhere = || all().iter().find(|key| key.path.last() == Some(name)).map(Key::dotted);
                return Some((dotted, here.or_else(elsewhere)));
            }
            (Some(child), toml::Value::Table(inner)) => {
                if let Some(found) = find_unknown(inner, child, &format!("{dotted}.")) {
                    return Some(found);
                }
            }
            (Some(_), _) => {}
        }
    }
    None
}

/// The candidate that `name` most likely stands for, if one is near enough to be worth saying.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| match candidate.starts_with(name) || name.starts_with(candidate) {
        // A unit left out or added is the commonest slip.
        true => 1,
        false => strsim::damerau_levenshtein(name, candidate),
    };
    candidates
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_keys_share_an_environment_variable() {
        let keys = all();
        let variables: BTreeSet<_> = keys.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), keys.len());
    }

    #[test]
    fn the_two_variables_of_zero_configuration_are_keys_like_any_other() {
        let variables: BTreeSet<_> = all().iter().map(Key::variable).collect();
        assert!(variables.contains("OLLYSTACK_API_KEY") && variables.contains("OLLYSTACK_ENDPOINT"));
    }

    #[test]
    fn a_misspelt_key_brings_up_the_right_one() {
        let cases = [
            ("endpont = ''", "endpont", Some("endpoint")),
            ("[admin]\nlisen = ''", "admin.lisen", Some("admin.listen")),
            ("[admin]\nendpoint = ''", "admin.endpoint", Some("endpoint")),
            ("[host]\ninterval = 5", "host.interval", Some("host.interval_ms")),
            ("zzzzzzzz = 1", "zzzzzzzz", None),
        ];
        for (text, key, near) in cases {
            let found = unknown(&text.parse().unwrap());
            assert_eq!(found, Some((key.to_owned(), near.map(str::to_owned))), "{text}");
        }
        assert_eq!(unknown(&"[admin]\nlisten = ''".parse().unwrap()), None);
    }
}
