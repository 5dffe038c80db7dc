//! Lays file, environment and flags over the defaults, and remembers who said what.
//!
//! Keys come in as TOML (file) or as text (environment, flags) and leave as one TOML table that deserializes to [`Config`].
//! Invariant: no key passes that `default.toml` does not list, and each keeps the type it has there.

use super::{Config, DEFAULT_FILE, DEFAULTS, Error};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The variable that names the file.
const FILE_VARIABLE: &str = "OLLYSTACK_GATEWAY_CONFIG";

/// Keys whose values are never shown and never come by flag.
pub(super) const SECRETS: [&str; 2] = ["clickhouse.password", "kafka.sasl_password"];

/// What the command line says: the file, and keys with their values as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// Key path, value.
    pub(crate) keys: Vec<(String, String)>,
}

/// The merged table, and where each key that is not the default came from.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    table: Table,
    origins: BTreeMap<String, String>,
    strangers: Vec<String>,
}

/// Read file and environment of this process and put everything together.
pub(crate) fn load(flags: &Flags) -> Result<(Config, Layers), Error> {
    let file = match (&flags.file, std::env::var_os(FILE_VARIABLE)) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(path)) => Some(PathBuf::from(path)),
        (None, None) => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
    };
    let text = match file {
        None => None,
        Some(path) => match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            Err(source) => return Err(Error::Read { path, source }),
        },
    };
    // A variable that is not UTF-8 cannot hold one of our values: it is left out rather than guessed at.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let layers = Layers::new(text.as_ref().map(|(path, text)| (path.as_path(), text.as_str())), environment, flags)?;
    let config = layers.config()?;
    Ok((config, layers))
}

impl Layers {
    /// Defaults, then file, then environment, then flags.
    pub(crate) fn new(
        file: Option<(&Path, &str)>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Layers, Error> {
        let table = parse(DEFAULTS, "the built-in default.toml")?;
        let mut layers = Layers { table, origins: BTreeMap::new(), strangers: Vec::new() };
        if let Some((path, text)) = file {
            let origin = path.display().to_string();
            layers.overlay("", parse(text, &origin)?, &origin)?;
        }
        let names: BTreeMap<String, String> =
            layers.keys().into_iter().map(|key| (environment_name(&key), key)).collect();
        for (name, value) in environment {
            if let Some(key) = names.get(&name) {
                layers.set(key, &value, &name)?;
            } else if name.starts_with("OLLYSTACK_GATEWAY_") && name != FILE_VARIABLE {
                // Kubernetes sets OLLYSTACK_GATEWAY_SERVICE_HOST and the like: a stranger here is worth a word, not a refusal.
                layers.strangers.push(name);
            }
        }
        for (key, value) in &flags.keys {
            if let Some(key) = SECRETS.iter().find(|secret| *secret == key) {
                let allowed = format!("every process can read flags: use {} or {key}_file", environment_name(key));
                return Err(Error::Value { key, found: "given as a flag".to_owned(), allowed });
            }
            layers.set(key, value, &format!("--set {key}"))?;
        }
        Ok(layers)
    }

    /// The checked configuration.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        let config = Config::deserialize(Value::Table(self.table.clone()))
            .map_err(|e| Error::Form(e.to_string().trim_end().replace('\n', " ")))?;
        config.check()
    }

    /// Environment variables that look like ours and name no key.
    pub(crate) fn strangers(&self) -> &[String] {
        &self.strangers
    }

    /// The paths of all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        fn walk(prefix: &str, table: &Table, keys: &mut Vec<String>) {
            for (name, value) in table {
                match value {
                    Value::Table(inner) => walk(&format!("{prefix}{name}."), inner, keys),
                    _ => keys.push(format!("{prefix}{name}")),
                }
            }
        }
        let mut keys = Vec::new();
        walk("", &self.table, &mut keys);
        keys
    }

    /// The value of a key, and who set it when it is not the default.
    pub(crate) fn get(&self, key: &str) -> Option<(&Value, Option<&str>)> {
        let mut path = key.split('.');
        let mut value = self.table.get(path.next()?)?;
        for name in path {
            value = value.as_table()?.get(name)?;
        }
        Some((value, self.origins.get(key).map(String::as_str)))
    }

    fn overlay(&mut self, prefix: &str, overlay: Table, origin: &str) -> Result<(), Error> {
        for (name, value) in overlay {
            let key = format!("{prefix}{name}");
            match value {
                Value::Table(inner) if matches!(self.slot(&key), Some(Value::Table(_))) => {
                    self.overlay(&format!("{key}."), inner, origin)?;
                }
                value => self.put(&key, value, origin)?,
            }
        }
        Ok(())
    }

    /// Set a key from text, read as the type that its default has.
    fn set(&mut self, key: &str, text: &str, origin: &str) -> Result<(), Error> {
        let value = match self.slot(key) {
            Some(Value::Integer(_)) => text.trim().parse().map(Value::Integer).ok(),
            Some(Value::Float(_)) => text.trim().parse().map(Value::Float).ok(),
            Some(Value::Boolean(_)) => text.trim().parse().map(Value::Boolean).ok(),
            _ => None,
        };
        self.put(key, value.unwrap_or_else(|| Value::String(text.to_owned())), origin)
    }

    fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<(), Error> {
        let hint = self.nearest(key).map(|name| format!(" (is {name} meant?)")).unwrap_or_default();
        let value = match (self.slot(key), value) {
            (Some(Value::Float(_)), Value::Integer(whole)) => Value::Float(whole as f64),
            (_, value) => value,
        };
        match self.slot(key) {
            Some(slot) if slot.same_type(&value) => *slot = value,
            Some(slot) => {
                let expected = match slot {
                    Value::Integer(_) => "a whole number",
                    Value::Float(_) => "a number",
                    Value::Boolean(_) => "true or false",
                    Value::Table(_) => "a section",
                    _ => "a text in quotes",
                };
                // The value of a secret must not reach the terminal by way of an error.
                let found = if SECRETS.contains(&key) { "***".to_owned() } else { value.to_string() };
                return Err(Error::Type { origin: origin.to_owned(), key: key.to_owned(), found, expected });
            }
            None => return Err(Error::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), hint }),
        }
        self.origins.insert(key.to_owned(), origin.to_owned());
        Ok(())
    }

    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        let mut path = key.split('.');
        let mut value = self.table.get_mut(path.next()?)?;
        for name in path {
            value = value.as_table_mut()?.get_mut(name)?;
        }
        Some(value)
    }

    /// The key that has the same last name, or shares the longest start: what a slip of the pen probably meant.
    fn nearest(&self, key: &str) -> Option<String> {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let shared = |other: &str| other.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
        let keys = self.keys();
        if let Some(same) = keys.iter().find(|other| last(other) == last(key)) {
            return Some(same.clone());
        }
        let section = key.rfind('.').map_or(0, |dot| dot + 1);
        keys.into_iter().filter(|other| shared(other) >= section + 3).max_by_key(|other| shared(other))
    }
}

/// TOML with an error that names the line and never quotes it: it may hold a password.
fn parse(text: &str, origin: &str) -> Result<Table, Error> {
    text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        Error::Syntax { origin: origin.to_owned(), message: format!("{place}{}", e.message()) }
    })
}

/// The environment variable of a key.
pub(crate) fn environment_name(key: &str) -> String {
    let path = key.replace('.', "_").to_uppercase();
    if key.starts_with("clickhouse.") { format!("OLLYSTACK_{path}") } else { format!("OLLYSTACK_GATEWAY_{path}") }
}
