//! The configuration as text: the annotated file of defaults, and what is in effect with its origin.
//!
//! Invariant: the annotated file parses to `Config::default()` and names every key; the tests hold it to that.

use super::Loaded;
use std::collections::BTreeMap;

/// The annotated defaults: a working /etc/ollystack/agent.toml.
pub(crate) fn annotated() -> &'static str {
    include_str!("agent.toml")
}

/// Every key with the value in effect and, where it is not the default, what set it. Secrets print as `***`.
pub(crate) fn effective(loaded: &Loaded) -> String {
    match toml::to_string(&loaded.config) {
        Ok(text) => with_origins(&text, &loaded.origins),
        Err(error) => format!("# cannot be shown: {error}\n"),
    }
}

fn with_origins(text: &str, origins: &BTreeMap<String, String>) -> String {
    let mut section = String::new();
    let mut shown = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let key = line.split_once(" = ").map(|(key, _)| format!("{section}{key}"));
        match key.and_then(|key| origins.get(&key)) {
            Some(origin) => shown.push_str(&format!("{line}  # {origin}\n")),
            None => shown.push_str(&format!("{line}\n")),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, keys, load};
    use std::collections::BTreeSet;

    #[test]
    fn the_annotated_file_is_the_default_configuration() {
        let config: Config = toml::from_str(annotated()).unwrap();
        let annotated = serde_json::to_value(config).unwrap();
        let default = serde_json::to_value(Config::default()).unwrap();
        for key in keys::all() {
            let pointer = format!("/{}", key.path.join("/"));
            assert_eq!(annotated.pointer(&pointer), default.pointer(&pointer), "{} in agent.toml", key.dotted());
        }
    }

    #[test]
    fn the_annotated_file_lists_every_key_of_every_section_and_no_other() {
        let mut listed = BTreeSet::new();
        let mut section = String::new();
        for line in annotated().lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                section = format!("{}.", name.0);
            } else if let Some((key, _)) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")
                && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                assert!(listed.insert(format!("{section}{key}")), "{section}{key} is listed twice");
            }
        }
        let known: BTreeSet<String> = keys::all().iter().map(keys::Key::dotted).collect();
        assert_eq!(listed.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "listed, not known");
        assert_eq!(known.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "known, not listed");
    }

    #[test]
    fn every_key_of_the_annotated_file_has_a_comment() {
        let mut commented = false;
        for line in annotated().lines() {
            let key = line.split_once(" = ").filter(|(key, _)| !key.contains(' ') && !key.starts_with("# "));
            match key {
                Some((key, value)) => assert!(commented || value.contains(" # "), "{key} has no comment"),
                None => commented = line.starts_with("# "),
            }
        }
    }

    #[test]
    fn the_effective_configuration_says_where_values_come_from_and_hides_the_key() {
        let variables = [("OLLYSTACK_API_KEY", "olly_k"), ("OLLYSTACK_ADMIN_LISTEN", "127.0.0.1:1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let empty = tempfile::NamedTempFile::new().unwrap();
        let text = effective(&load(Some(empty.path()), variables.into_iter(), &[]).unwrap());
        assert!(text.contains("api_key = \"***\"  # environment OLLYSTACK_API_KEY"), "{text}");
        assert!(text.contains("listen = \"127.0.0.1:1\"  # environment OLLYSTACK_ADMIN_LISTEN"), "{text}");
        assert!(text.contains("level = \"info\"\n") && !text.contains("olly_k"), "{text}");
    }
}
