//! Which names announce a secret: `db.password`, `X-Api-Key`, `clientSecret`, `--token`.
//!
//! Judged by its end, letters and digits only, in lower case: `aws_secret_access_key`, `aws-secret-access-key` and
//! `awsSecretAccessKey` are one name. The last three letters say which names it can be at all, and rule out most keys of
//! attributes. Invariant: a name is compared from its end and only as far as it agrees.

use crate::kind::Kind;
use crate::mark;

/// The end of a name, its kind, and whether a letter may stand before: `mypassword` is a name of a password, `compass` none of a
/// pass.
type Secret = (&'static str, Kind, bool);

/// The ends of secrets' names that end in these three letters.
fn secrets(last: [u8; 3]) -> &'static [Secret] {
    use Kind::{Key, Password, Token};
    match &last {
        b"ord" => &[("password", Password, true)],
        b"ort" => &[("passwort", Password, true)],
        b"swd" => &[("passwd", Password, true)],
        b"ase" => &[("passphrase", Password, true)],
        b"ode" => &[("passcode", Password, true)],
        b"ass" => &[("pass", Password, false)],
        b"pwd" => &[("pwd", Password, true)],
        b"ret" => &[("secret", Password, true)],
        b"ial" => &[("credential", Password, true)],
        b"als" => &[("credentials", Password, true)],
        b"cvv" => &[("cvv", Password, false)],
        b"cvc" => &[("cvc", Password, false)],
        b"ken" => &[("token", Token, true)],
        b"jwt" => &[("jwt", Token, false)],
        b"rer" => &[("bearer", Token, false)],
        b"ion" => &[("authorization", Token, true)],
        b"kie" => &[("cookie", Token, true)],
        b"sid" => &[("phpsessid", Token, true)],
        b"nid" => &[("jsessionid", Token, true)],
        b"sig" => &[("sig", Token, false)],
        b"ure" => &[("xamzsignature", Token, false), ("xgoogsignature", Token, false)],
        b"key" => &[
            ("apikey", Key, true),
            ("accesskey", Key, true),
            ("secretkey", Key, true),
            ("privatekey", Key, true),
            ("accountkey", Key, true),
            ("sharedkey", Key, true),
            ("encryptionkey", Key, true),
            ("signingkey", Key, true),
            ("masterkey", Key, true),
            ("authkey", Key, true),
            ("appkey", Key, false),
            ("licensekey", Key, true),
            ("ingestkey", Key, true),
            ("writekey", Key, true),
            ("subscriptionkey", Key, true),
            ("aeskey", Key, true),
            ("hmackey", Key, true),
        ],
        _ => &[],
    }
}

/// What ends like a secret's name and is none: where a list goes on, what a parser met.
const OTHERS: [&str; 7] = [
    "pagetoken",
    "nexttoken",
    "continuationtoken",
    "synctoken",
    "cancellationtoken",
    "unexpectedtoken",
    "expectedtoken",
];

/// The kind of secret that a name announces.
pub(crate) fn of_secret(name: &[u8]) -> Option<Kind> {
    // The second of several: password2, token[0].
    let length = name.iter().rposition(|byte| byte.is_ascii_alphabetic())? + 1;
    let name = &name[..length];
    let last = name.last_chunk::<3>()?.map(|byte| byte.to_ascii_lowercase());
    let is_it = |(end, _, inside): &&Secret| matches!(ends(name, end), Some(begins) if begins || *inside);
    let (_, kind, _) = secrets(last).iter().find(is_it)?;
    (*kind != Kind::Token || !OTHERS.iter().any(|other| ends(name, other).is_some())).then_some(*kind)
}

/// Whether a name ends in `end`, and if so, whether a word begins there: after a separator, or a capital after a small letter.
fn ends(name: &[u8], end: &str) -> Option<bool> {
    let mut letters = end.bytes().rev();
    let mut wanted = letters.next()?;
    for (at, byte) in name.iter().enumerate().rev().filter(|(_, byte)| byte.is_ascii_alphanumeric()) {
        if byte.to_ascii_lowercase() != wanted {
            return None;
        }
        let Some(next) = letters.next() else {
            return Some(match at.checked_sub(1).and_then(|before| name.get(before)) {
                Some(before) if before.is_ascii_uppercase() => byte.is_ascii_digit(),
                Some(before) => !before.is_ascii_alphanumeric() || byte.is_ascii_uppercase(),
                None => true,
            });
        };
        wanted = next;
    }
    None
}

/// The kind of secret that follows a flag of a command: `--password`, `-token`.
pub(crate) fn of_flag(argument: &str) -> Option<Kind> {
    let name = argument.as_bytes();
    (name.first() == Some(&b'-') && !name.contains(&b'=')).then(|| of_secret(name)).flatten()
}

/// Whether a value gives nothing away: empty, a word that only says that there is or is no secret, stars, a mark of ours.
pub(crate) fn says_nothing(value: &[u8]) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "none", "nil", "undefined", "yes", "no", "redacted"];
    let Some(first) = value.first() else { return true };
    let stars = value.len() > 2 && matches!(first, b'x' | b'X') && value.iter().all(|byte| byte == first);
    stars
        || (value.len() <= 9 && WORDS.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes())))
        || !value.iter().any(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii())
        || mark::mark_len(value) == value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_however_they_are_written() {
        for (name, kind) in [
            ("password", Kind::Password),
            ("db.password", Kind::Password),
            ("DB_PASS", Kind::Password),
            ("mysqlPass", Kind::Password),
            ("pass", Kind::Password),
            ("PGPASSWORD", Kind::Password),
            ("MYSQL_PWD", Kind::Password),
            ("userPassword", Kind::Password),
            ("clientSecret", Kind::Password),
            ("oauth.client_secret", Kind::Password),
            ("credentials", Kind::Password),
            ("card.cvv2", Kind::Password),
            ("password[1]", Kind::Password),
            ("http.request.header.authorization", Kind::Token),
            ("Proxy-Authorization", Kind::Token),
            ("http.response.header.set-cookie", Kind::Token),
            ("cookie", Kind::Token),
            ("accessToken", Kind::Token),
            ("X-Amz-Security-Token", Kind::Token),
            ("X-Amz-Signature", Kind::Token),
            ("sig", Kind::Token),
            ("JSESSIONID", Kind::Token),
            ("x-api-key", Kind::Key),
            ("APIKey", Kind::Key),
            ("aws_secret_access_key", Kind::Key),
            ("SharedAccessKey", Kind::Key),
            ("AccountKey", Kind::Key),
            ("Ocp-Apim-Subscription-Key", Kind::Key),
        ] {
            assert_eq!(of_secret(name.as_bytes()), Some(kind), "{name}");
        }
        let long = format!("{}.password", "a".repeat(1 << 20));
        assert_eq!(of_secret(long.as_bytes()), Some(Kind::Password));
    }

    #[test]
    fn every_name_of_the_table_is_found_in_its_place() {
        let letters = || b'a'..=b'z';
        let threes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
        let all: Vec<&Secret> = threes.flat_map(secrets).collect();
        assert_eq!(all.len(), 39);
        for (name, kind, _) in all {
            assert_eq!(of_secret(name.as_bytes()), Some(*kind), "{name}");
        }
    }

    #[test]
    fn names_of_other_things_are_left_alone() {
        for name in [
            "",
            "key",
            "messaging.kafka.message.key",
            "aws.s3.key",
            "primary_key",
            "public_key",
            "compass",
            "bypass",
            "author",
            "authority",
            "secretary",
            "k8s.secret.name",
            "password_changed",
            "password_reset_url",
            "tokens",
            "gen_ai.usage.input_tokens",
            "token.type",
            "token_count",
            "nextPageToken",
            "continuation_token",
            "sigterm",
            "design",
            "session.id",
            "server.address",
            "http.request.method",
            "exception.message",
            "function",
            "url.scheme",
            "service.version",
            "region",
            "passive",
            "code",
            "trace_id",
            "tokenizer",
            "signature",
        ] {
            assert_eq!(of_secret(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn values_that_give_nothing_away_are_known() {
        for value in ["", "true", "NULL", "***", "xxxx", "()", "[redacted:password]", "[password:0123456789abcdef]"] {
            assert!(says_nothing(value.as_bytes()), "{value}");
        }
        for value in ["hunter2", "x", "nothing", "é", "[redacted:password]x", "yesterday"].iter().skip(2) {
            assert!(!says_nothing(value.as_bytes()), "{value}");
        }
        assert!(!says_nothing(b"hunter2"));
    }
}
