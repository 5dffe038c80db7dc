//! Keys and tokens that show what they are by how they begin.
//!
//! Beginnings and lengths as the vendors document them. Invariant: a token is taken only if it stands alone and has a digit or a
//! capital, so that words with the same beginning stay.

use crate::kind::{Find, Kind};

/// How a key looks.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) prefix: &'static str,
    /// What follows the prefix: at least this many
    least: usize,
    /// and at most this many
    most: usize,
    /// of these.
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Alphanumeric,
    Upper,
    Hex,
    /// Also `_`.
    Word,
    /// Also `_` and `-`: Base64 for URLs.
    Url,
    /// Also `.`.
    Dotted,
    /// Also `/`: the path of a hook.
    Path,
}

/// How many sets of characters there are.
const OF: usize = Of::Path as usize + 1;

impl Of {
    fn holds(self, byte: u8) -> bool {
        match self {
            Of::Alphanumeric => byte.is_ascii_alphanumeric(),
            Of::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Of::Hex => byte.is_ascii_hexdigit(),
            Of::Word => byte.is_ascii_alphanumeric() || byte == b'_',
            Of::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Of::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            Of::Path => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/'),
        }
    }
}

const fn shape(prefix: &'static str, least: usize, of: Of) -> Shape {
    Shape { prefix, least, most: usize::MAX, of }
}

const fn exactly(prefix: &'static str, count: usize, of: Of) -> Shape {
    Shape { prefix, least: count, most: count, of }
}

/// Beginnings of keys.
pub(crate) static KEYS: [Shape; 42] = [
    exactly("AKIA", 16, Of::Upper),                   // AWS access key id
    exactly("ASIA", 16, Of::Upper),                   // AWS, temporary
    shape("AIza", 35, Of::Url),                       // Google API
    shape("GOCSPX-", 20, Of::Url),                    // Google OAuth client secret
    shape("ya29.", 20, Of::Url),                      // Google OAuth access token
    shape("ghp_", 30, Of::Alphanumeric),              // GitHub, personal
    shape("gho_", 30, Of::Alphanumeric),              // OAuth
    shape("ghu_", 30, Of::Alphanumeric),              // user to server
    shape("ghs_", 30, Of::Dotted),                    // server to server
    shape("ghr_", 30, Of::Alphanumeric),              // refresh
    shape("github_pat_", 22, Of::Word),               // fine-grained
    shape("glpat-", 20, Of::Dotted),                  // GitLab, personal
    shape("gldt-", 20, Of::Url),                      // deploy
    shape("glrt-", 20, Of::Dotted),                   // runner
    shape("glcbt-", 20, Of::Url),                     // CI job
    shape("glptt-", 20, Of::Url),                     // trigger
    shape("xox", 12, Of::Url),                        // Slack: xoxb-, xoxp-, ...
    shape("xapp-", 10, Of::Url),                      // app
    shape("hooks.slack.com/services/", 20, Of::Path), // incoming hook
    shape("sk_live_", 10, Of::Alphanumeric),          // Stripe, secret
    shape("rk_live_", 10, Of::Alphanumeric),          // restricted
    shape("sk_test_", 10, Of::Alphanumeric),
    shape("rk_test_", 10, Of::Alphanumeric),
    shape("whsec_", 20, Of::Alphanumeric), // hook signing
    shape("npm_", 30, Of::Alphanumeric),
    shape("pypi-AgE", 40, Of::Url),
    shape("SG.", 40, Of::Dotted),             // SendGrid
    shape("sk-", 20, Of::Url),                // OpenAI, Anthropic and others
    shape("dop_v1_", 60, Of::Hex),            // DigitalOcean, personal
    shape("doo_v1_", 60, Of::Hex),            // OAuth
    shape("dor_v1_", 60, Of::Hex),            // refresh
    shape("hf_", 30, Of::Alphanumeric),       // Hugging Face
    shape("hvs.", 20, Of::Url),               // Vault, service
    shape("hvb.", 20, Of::Url),               // batch
    shape("hvr.", 20, Of::Url),               // recovery
    shape("olly_", 60, Of::Word),             // ours
    exactly("dapi", 32, Of::Hex),             // Databricks
    shape("NRAK-", 27, Of::Upper),            // New Relic
    shape("glsa_", 32, Of::Word),             // Grafana, service account
    exactly("shpat_", 32, Of::Hex),           // Shopify
    shape("AGE-SECRET-KEY-1", 40, Of::Upper), // age
    shape("xkeysib-", 60, Of::Url),           // Brevo
];

/// Up to where a text was read for keys of each set of characters, and for JSON web tokens, and holds none.
#[derive(Default)]
pub(crate) struct RuledOut {
    keys: [usize; OF],
    jwt: usize,
}

/// The key that begins at `start` and looks so.
pub(crate) fn key(text: &[u8], start: usize, shape: &Shape, ruled_out: &mut RuledOut) -> Option<Find> {
    let end = start + shape.prefix.len();
    let ruled_out = &mut ruled_out.keys[shape.of as usize];
    if end <= *ruled_out || !begins_word(text, start) || !text[start..].starts_with(shape.prefix.as_bytes()) {
        return None;
    }
    let length = text[end..].iter().take_while(|byte| shape.of.holds(**byte)).count();
    let read = end + length;
    // A full stop ends the sentence, not the key.
    let body = &text[end..read];
    let body = &body[..body.iter().rposition(|byte| *byte != b'.').map_or(0, |last| last + 1)];
    // If there is none in the whole of it, there is none in a part of it; names may be: `hf_token=...`.
    if !body.iter().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()) {
        *ruled_out = read;
        return None;
    }
    // A key of few kinds of characters is one word; what goes on beyond them is another word.
    let narrow = matches!(shape.of, Of::Upper | Of::Hex);
    let whole = !narrow || !text.get(read).is_some_and(u8::is_ascii_alphanumeric);
    let found = (shape.least..=shape.most).contains(&body.len()) && whole;
    found.then(|| Find::new(start, end + body.len(), Kind::Key))
}

fn begins_word(text: &[u8], start: usize) -> bool {
    start.checked_sub(1).and_then(|before| text.get(before)).is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// Whether this is the id of an AWS key: then the secret itself may be near.
pub(crate) fn is_access_key_id(text: &[u8]) -> bool {
    text.starts_with(b"AKIA") || text.starts_with(b"ASIA")
}

/// The secrets of AWS keys have no beginning of their own: 40 characters of Base64, taken for one beside the id of a key.
pub(crate) fn secret_access_keys(text: &[u8], finds: &mut Vec<Find>) {
    const LENGTH: usize = 40;
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut at = 0;
    while at < text.len() {
        let length = text[at..].iter().take_while(|byte| base64(**byte)).count();
        let word = &text[at..at + length];
        let has = |is: fn(&u8) -> bool| word.iter().any(is);
        if length == LENGTH && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit) {
            finds.push(Find::new(at, at + length, Kind::Key));
        }
        at += length + 1;
    }
}

/// The token after `Bearer`, which begins at `start`.
pub(crate) fn bearer(text: &[u8], start: usize) -> Option<Find> {
    const BEARER: &[u8] = b"bearer";
    let end = start + BEARER.len();
    if !text.get(start..end)?.eq_ignore_ascii_case(BEARER) {
        return None;
    }
    let blanks = text[end..].iter().take_while(|byte| **byte == b' ').count();
    if blanks == 0 {
        return None;
    }
    let start = end + blanks;
    // RFC 6750: token68.
    let of = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    let length = text[start..].iter().take_while(|byte| of(byte)).count();
    let token = &text[start..start + length];
    let token = &token[..token.iter().rposition(|byte| *byte != b'.').map_or(0, |last| last + 1)];
    let digit = token.iter().any(u8::is_ascii_digit);
    let telling = token.len() >= 8 && digit || token.len() >= 20;
    telling.then(|| Find::new(start, start + token.len(), Kind::Token))
}

/// The JSON web token that begins at `start`: header, payload and what follows, Base64 for URLs with dots between (RFC 7519).
pub(crate) fn jwt(text: &[u8], start: usize, ruled_out: &mut RuledOut) -> Option<Find> {
    const PART_BYTES_MIN: usize = 8;
    if start < ruled_out.jwt || !begins_word(text, start) || !text[start..].starts_with(b"eyJ") {
        return None;
    }
    let part = |at: usize| text[at..].iter().take_while(|byte| Of::Url.holds(**byte)).count();
    let header = part(start);
    let payload = start + header + 1;
    if header < PART_BYTES_MIN || text.get(payload - 1) != Some(&b'.') || part(payload) < PART_BYTES_MIN {
        // What begins later in the same header ends where it does.
        ruled_out.jwt = start + header;
        return None;
    }
    let mut end = payload + part(payload);
    // A signature, or the three further parts of an encrypted token.
    for _ in 0..3 {
        match text.get(end) {
            Some(b'.') if part(end + 1) > 0 => end += 1 + part(end + 1),
            _ => break,
        }
    }
    Some(Find::new(start, end, Kind::Token))
}
