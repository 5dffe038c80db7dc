//! Which names announce a secret: `db.password`, `X-Api-Key`, `clientSecret`, `--token`.
//!
//! Judged by its end, letters and digits only, in lower case: `aws_secret_access_key`, `aws-secret-access-key` and
//! `awsSecretAccessKey` are one name. Invariant: only the last [`TAIL`] letters and digits are looked at, so that a name costs
//! the same however long it is.

use crate::kind::Kind;
use crate::mark;

/// Longer than every name below and the word before it.
const TAIL: usize = 24;

/// Ends of names, and whether a letter may stand before: `mypassword` is a name of a password, `compass` none of a pass.
const SECRETS: [(&str, Kind, bool); 39] = [
    ("password", Kind::Password, true),
    ("passwort", Kind::Password, true),
    ("passwd", Kind::Password, true),
    ("passphrase", Kind::Password, true),
    ("passcode", Kind::Password, true),
    ("pass", Kind::Password, false),
    ("pwd", Kind::Password, true),
    ("secret", Kind::Password, true),
    ("credential", Kind::Password, true),
    ("credentials", Kind::Password, true),
    ("cvv", Kind::Password, false),
    ("cvc", Kind::Password, false),
    ("token", Kind::Token, true),
    ("jwt", Kind::Token, false),
    ("bearer", Kind::Token, false),
    ("authorization", Kind::Token, true),
    ("cookie", Kind::Token, true),
    ("phpsessid", Kind::Token, true),
    ("jsessionid", Kind::Token, true),
    ("sig", Kind::Token, false),
    ("xamzsignature", Kind::Token, false),
    ("xgoogsignature", Kind::Token, false),
    ("apikey", Kind::Key, true),
    ("accesskey", Kind::Key, true),
    ("secretkey", Kind::Key, true),
    ("privatekey", Kind::Key, true),
    ("accountkey", Kind::Key, true),
    ("sharedkey", Kind::Key, true),
    ("encryptionkey", Kind::Key, true),
    ("signingkey", Kind::Key, true),
    ("masterkey", Kind::Key, true),
    ("authkey", Kind::Key, true),
    ("appkey", Kind::Key, false),
    ("licensekey", Kind::Key, true),
    ("ingestkey", Kind::Key, true),
    ("writekey", Kind::Key, true),
    ("subscriptionkey", Kind::Key, true),
    ("aeskey", Kind::Key, true),
    ("hmackey", Kind::Key, true),
];

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
    if !may_end_so(name) {
        return None;
    }
    let mut tail = [0; TAIL];
    let mut first = TAIL;
    // Whether the letter at this place begins a word: after a separator, or a capital after a small letter.
    let mut begins = [true; TAIL];
    for (at, byte) in name.iter().enumerate().rev() {
        if !byte.is_ascii_alphanumeric() {
            continue;
        }
        if first == 0 {
            break;
        }
        first -= 1;
        tail[first] = byte.to_ascii_lowercase();
        begins[first] = match at.checked_sub(1).and_then(|before| name.get(before)) {
            Some(before) if before.is_ascii_uppercase() => byte.is_ascii_digit(),
            Some(before) => !before.is_ascii_alphanumeric() || byte.is_ascii_uppercase(),
            None => true,
        };
    }
    let tail = &tail[first..];
    let ends = |end: &str| tail.ends_with(end.as_bytes());
    let found = SECRETS
        .iter()
        .find(|(end, _, inside)| ends(end) && (*inside || begins[TAIL - end.len()]))
        .map(|(_, kind, _)| *kind)?;
    (found != Kind::Token || !OTHERS.iter().any(|other| ends(other))).then_some(found)
}

/// The kind of secret that follows a flag of a command: `--password`, `-token`.
pub(crate) fn of_flag(argument: &str) -> Option<Kind> {
    let name = argument.as_bytes();
    (name.first() == Some(&b'-') && !name.contains(&b'=')).then(|| of_secret(name)).flatten()
}

/// Rules most names out by their last three letters, since every attribute's key comes by here.
fn may_end_so(name: &[u8]) -> bool {
    let [.., a, b, c] = name else { return false };
    matches!(
        [a | 32, b | 32, c | 32],
        [b'o', b'r', b'd' | b't']
            | [b's', b'w', b'd']
            | [b'p', b'w', b'd']
            | [b'a', b's', b'e' | b's']
            | [b'o', b'd', b'e']
            | [b'r', b'e', b't' | b'r']
            | [b'i', b'a', b'l']
            | [b'a', b'l', b's']
            | [b'c', b'v', b'v' | b'c']
            | [b'j', b'w', b't']
            | [b'i', b'o', b'n']
            | [b'k', b'i', b'e']
            | [b's', b'i', b'd']
            | [b'n', b'i', b'd']
            | [b's', b'i', b'g']
            | [b'u', b'r', b'e']
            | [b'k', b'e', b'n' | b'y']
    )
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
    fn every_name_of_the_table_is_found() {
        for (name, kind, _) in SECRETS {
            let expected = if name == "secretkey" { Kind::Key } else { kind };
            assert_eq!(of_secret(name.as_bytes()), Some(expected), "{name}");
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
