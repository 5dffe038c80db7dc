//! `config print`: the annotated defaults with the values that hold here, and who set them.
//!
//! Invariant: every key of `default.toml` is printed with its comment; a secret never is.

use super::layers::SECRETS;
use super::{DEFAULTS, Error, Layers};
use toml_edit::{DocumentMut, Item, Value};

/// The text of `config print`.
pub(crate) fn print(layers: &Layers) -> Result<String, Error> {
    let broken = |message: String| Error::Syntax { origin: "the built-in default.toml".to_owned(), message };
    let mut document: DocumentMut = DEFAULTS.parse().map_err(|e: toml_edit::TomlError| broken(e.to_string()))?;
    for key in layers.keys() {
        let Some((value, Some(origin))) = layers.get(&key) else { continue };
        let mut slot: &mut Item = document.as_item_mut();
        for name in key.split('.') {
            slot = &mut slot[name];
        }
        let default = slot.to_string().trim().to_owned();
        let mut shown: Value = match value {
            toml::Value::Integer(number) => (*number).into(),
            toml::Value::Boolean(flag) => (*flag).into(),
            _ if SECRETS.contains(&key.as_str()) => "***".into(),
            toml::Value::String(text) => text.as_str().into(),
            other => return Err(broken(format!("{key} is {other}, expected a number, a text or a boolean"))),
        };
        *shown.decor_mut() = toml_edit::Decor::new(" ", format!(" # {origin}; default {default}"));
        *slot = Item::Value(shown);
    }
    Ok(document.to_string())
}
