//! Settings from their four sources into one configuration: flag over environment over file over default.
//!
//! Each layer is checked as it is laid on, so that an error names the file, the variable or the flag it came from.
//! Invariant: no message of this module shows the value of a secret.

use super::{Config, keys};
use serde::Deserialize;
use serde_json::Value as Default;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the file is looked for when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/ollystack/agent.toml";

/// A configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// All layers merged.
    pub(crate) config: Config,
    /// The file that was read, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// For each key that is not at its default: what set it, for people.
    pub(crate) origins: BTreeMap<String, String>,
    /// What is odd but not wrong.
    pub(crate) warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file that was asked for cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{origin}: {message}")]
    Value {
        /// File and line, variable or flag.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`{}; `ollystack-agent config print` lists every key", suggest(near))]
    Unknown {
        /// File and line, or flag.
        origin: String,
        /// Dotted.
        key: String,
        /// What it may have meant.
        near: Option<String>,
    },
    /// Would be readable by every user of the host.
    #[error(
        "the API key does not go on the command line, where others can read it: use OLLYSTACK_API_KEY or --api-key-file"
    )]
    KeyInFlag,
}

fn suggest(near: &Option<String>) -> String {
    near.as_ref().map(|key| format!(", did you mean `{key}`?")).unwrap_or_default()
}

/// Merge the layers. `file`: named by the user (then it must exist), or none to try the default place. `flags`: dotted
/// key and text, in the order given.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, ConfigError> {
    let (path, text) = match file {
        Some(path) => (path.to_owned(), Some(read(path)?)),
        None => {
            let path = PathBuf::from(DEFAULT_FILE);
            let text = if path.exists() { Some(read(&path)?) } else { None };
            (path, text)
        }
    };
    // The lowest layer, in full: a section that a file names in part keeps our defaults for the rest, not its stage's own.
    let mut merged = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut loaded = Loaded {
        config: Config::default(),
        file: text.as_ref().map(|_| path.clone()),
        origins: BTreeMap::new(),
        warnings: Vec::new(),
    };
    if let Some(text) = text {
        let table = parse_file(&path, &text)?;
        note_origins(&table, "", &format!("file {}", path.display()), &mut loaded.origins);
        overlay(&mut merged, table);
    }
    lay_environment(&mut merged, environment, &mut loaded)?;
    for (key, text) in flags {
        if key == "api_key" {
            return Err(ConfigError::KeyInFlag);
        }
        let origin = format!("flag --set {key}");
        let known = keys::all().into_iter().find(|known| known.dotted() == *key).ok_or_else(|| {
            let all = keys::all();
            let dotted: Vec<String> = all.iter().map(keys::Key::dotted).collect();
            let near = keys::nearest(key, dotted.iter().map(String::as_str)).map(str::to_owned);
            ConfigError::Unknown { origin: origin.clone(), key: key.clone(), near }
        })?;
        lay(&mut merged, &known, text, &origin)?;
        loaded.origins.insert(known.dotted(), format!("flag for {key}"));
    }
    loaded.config = finish(merged, "configuration")?;
    Ok(loaded)
}

fn overlay(base: &mut toml::Table, over: toml::Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => overlay(base, over),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}

/// Syntax, then names, then types, each error with its line.
fn parse_file(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
    let at = |span: Option<std::ops::Range<usize>>| match span {
        Some(span) => format!("{} {}", path.display(), place(text, span.start)),
        None => path.display().to_string(),
    };
    // `message`, not the whole error: that one quotes the line, and the line may hold the key.
    let value = |error: toml::de::Error| ConfigError::Value {
        origin: at(error.span()),
        message: error.message().replace('\n', "; "),
    };
    let table: toml::Table = text.parse().map_err(value)?;
    if let Some((key, near)) = keys::unknown(&table) {
        return Err(ConfigError::Unknown { origin: path.display().to_string(), key, near });
    }
    toml::from_str::<Config>(text).map_err(value)?;
    Ok(table)
}

/// The line, and the key if the line begins with one; nothing of the value.
fn place(text: &str, offset: usize) -> String {
    let number = text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let key = text.lines().nth(number).and_then(|line| Some(line.split_once('=')?.0.trim()));
    let plain = |key: &&str| {
        key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte))
    };
    match key.filter(plain) {
        Some(key) => format!("line {}: {key}", number + 1),
        None => format!("line {}", number + 1),
    }
}

fn note_origins(table: &toml::Table, prefix: &str, origin: &str, origins: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => note_origins(inner, &format!("{prefix}{name}."), origin, origins),
            _ => {
                origins.insert(format!("{prefix}{name}"), origin.to_owned());
            }
        }
    }
}

/// Variables that steer the program and are no keys.
const NOT_KEYS: [&str; 2] = ["OLLYSTACK_CONFIG", "OLLYSTACK_LOG"];

fn lay_environment(
    merged: &mut toml::Table,
    environment: impl Iterator<Item = (String, String)>,
    loaded: &mut Loaded,
) -> Result<(), ConfigError> {
    let known = keys::all();
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with("OLLYSTACK_")).collect();
    variables.sort();
    for (name, text) in variables {
        if NOT_KEYS.contains(&name.as_str()) {
            continue;
        }
        let Some(key) = known.iter().find(|key| key.variable() == name) else {
            let names: Vec<String> = known.iter().map(keys::Key::variable).collect();
            let near = keys::nearest(&name, names.iter().map(String::as_str)).map(str::to_owned);
            // A warning only: orchestrators add variables of their own (OLLYSTACK_GATEWAY_SERVICE_HOST).
            loaded
                .warnings
                .push(format!("environment variable {name} is not a setting and was ignored{}", suggest(&near)));
            continue;
        };
        lay(merged, key, &text, &format!("environment variable {name}"))?;
        loaded.origins.insert(key.dotted(), format!("environment {name}"));
    }
    Ok(())
}

/// Set one key from text, then check that the whole still reads.
fn lay(merged: &mut toml::Table, key: &keys::Key, text: &str, origin: &str) -> Result<(), ConfigError> {
    let value =
        parse_value(&key.default, text).map_err(|message| ConfigError::Value { origin: origin.to_owned(), message })?;
    insert(merged, &key.path, value);
    finish(merged.clone(), origin).map(drop)
}

fn insert(table: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [section, rest @ ..] => {
            let inner = table.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Text from a variable or a flag as the type that the default has.
fn parse_value(default: &Default, text: &str) -> Result<toml::Value, String> {
    let as_toml =
        |text: &str| format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    match default {
        Default::String(_) => Ok(toml::Value::String(text.to_owned())),
        Default::Bool(_) => match text.trim() {
            "true" => Ok(toml::Value::Boolean(true)),
            "false" => Ok(toml::Value::Boolean(false)),
            other => Err(format!("`{other}` is neither true nor false")),
        },
        Default::Number(_) => as_toml(text.trim())
            .filter(|value| value.is_integer() || value.is_float())
            .ok_or_else(|| format!("`{text}` is not a number")),
        Default::Array(_) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect()))
        }
        Default::Array(_) | Default::Object(_) => {
            as_toml(text.trim()).ok_or_else(|| format!("`{text}` is not a TOML value"))
        }
        Default::Null => Ok(as_toml(text.trim()).unwrap_or_else(|| toml::Value::String(text.to_owned()))),
    }
}

fn finish(merged: toml::Table, origin: &str) -> Result<Config, ConfigError> {
    Config::deserialize(toml::Value::Table(merged)).map_err(|error| ConfigError::Value {
        origin: origin.to_owned(),
        message: error.to_string().trim().replace('\n', "; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>().into_iter()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn error(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        let file = file(text);
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let error = load(Some(file.path()), variables(environment), &flags).unwrap_err().to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let file = file("endpoint = 'https://file'\nstate_dir = '/file'\n[admin]\nlisten = 'file'");
        let environment = variables(&[("OLLYSTACK_ENDPOINT", "https://env"), ("OLLYSTACK_STATE_DIR", "/env")]);
        let flags = [("endpoint".to_owned(), "https://flag".to_owned())];
        let loaded = load(Some(file.path()), environment, &flags).unwrap();
        assert_eq!(loaded.config.endpoint, "https://flag");
        assert_eq!(loaded.config.state_dir, "/env");
        assert_eq!(loaded.config.admin.listen, "file");
        assert_eq!(loaded.config.log, super::super::Log::default());
        assert_eq!(loaded.origins["state_dir"], "environment OLLYSTACK_STATE_DIR");
    }

    #[test]
    fn a_section_that_is_set_in_part_keeps_the_agents_defaults_for_the_rest() {
        let file = file("[otlp.limits]\nconnections_max = 7");
        let config = load(Some(file.path()), variables(&[]), &[]).unwrap().config;
        let expected = Config::default().otlp.limits.in_flight_bytes_max;
        assert_eq!((config.otlp.limits.connections_max, config.otlp.limits.in_flight_bytes_max), (7, expected));
        assert_ne!(ollystack_input_otlp::Config::default().limits.in_flight_bytes_max, expected);
    }

    #[test]
    fn two_variables_are_a_whole_configuration() {
        let environment = variables(&[("OLLYSTACK_API_KEY", "olly_k"), ("OLLYSTACK_ENDPOINT", "https://e")]);
        let empty = file("");
        let loaded = load(Some(empty.path()), environment, &[]).unwrap();
        assert_eq!((loaded.config.api_key.expose(), loaded.config.endpoint.as_str()), ("olly_k", "https://e"));
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_key_and_the_nearest_known_one() {
        let message = error("[admin]\nlisten = 'a'\nlissten = 'b'", &[], &[]);
        assert!(message.starts_with("FILE: unknown key `admin.lissten`, did you mean `admin.listen`?"), "{message}");
        let message = error("", &[], &[("limits.memory_bytes", "1")]);
        assert!(
            message.contains("unknown key `limits.memory_bytes`, did you mean `limits.memory_bytes_max`"),
            "{message}"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_source() {
        let message = error("\n\n[limits]\nmemory_bytes_max = 'lots'", &[], &[]);
        assert!(message.starts_with("FILE line 4: memory_bytes_max: "), "{message}");
        let message = error("", &[("OLLYSTACK_LIMITS_MEMORY_BYTES_MAX", "lots")], &[]);
        assert_eq!(message, "environment variable OLLYSTACK_LIMITS_MEMORY_BYTES_MAX: `lots` is not a number");
    }

    #[test]
    fn a_foreign_variable_is_a_warning_only() {
        let empty = file("");
        let loaded = load(Some(empty.path()), variables(&[("OLLYSTACK_GATEWAY_PORT", "tcp://1")]), &[]).unwrap();
        assert_eq!(loaded.warnings.len(), 1);
    }

    #[test]
    fn no_error_shows_the_key() {
        for text in ["api_key = olly_secret", "api_key = [\"olly_secret\"]", "api_key = \"olly_secret"] {
            let message = error(text, &[], &[]);
            assert!(!message.contains("secret"), "{message}");
        }
        let message = error("api_key = 4711", &[], &[]);
        assert!(!message.contains("4711"), "{message}");
        let message = error("", &[], &[("api_key", "olly_secret")]);
        assert!(message.contains("OLLYSTACK_API_KEY") && !message.contains("secret"), "{message}");
    }
}
