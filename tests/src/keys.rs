//! The API keys that were made, and the logs that show one of them: none may.
//!
//! From [`GatewayConfig::new_key`](crate::GatewayConfig::new_key); a [`World`](crate::World) has its logs read when it ends. Invariant:
//! a key is looked for in every log that ends after it was made.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remember a key.
pub(crate) fn made(secret: &str) {
    MADE.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
}

/// Look for keys, and for their secret parts alone, in a log.
pub(crate) fn look(log: &Path, text: &str) {
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = |key: &str| key.rsplit('_').next().is_some_and(|secret| text.contains(secret));
    if made.iter().any(|key| secret(key)) {
        let shown = format!("{} shows an API key", log.display());
        SHOWN.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
    }
}

/// Which logs showed a key since this was asked last.
pub fn keys_shown() -> Vec<String> {
    std::mem::take(&mut SHOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_log_is_found_and_its_public_part_is_none() {
        made("olly_0123456789ab_00112233445566778899aabbccddeeff");
        look(Path::new("quiet.log"), "key olly_0123456789ab of tenant acme");
        assert_eq!(keys_shown(), Vec::<String>::new());
        look(Path::new("loud.log"), "bad key 00112233445566778899aabbccddeeff!");
        assert_eq!(keys_shown(), ["loud.log shows an API key"]);
    }
}
