//! From a path to an operation of low cardinality: `/users/7/orders/3f2a9c81d0` is `/users/{id}/orders/{id}`.
//!
//! A guess where a framework would know, and by the looks of each segment alone: numbers, UUIDs, hexadecimal digits, tokens
//! that mix classes of characters, dates, addresses of mail, and what is escaped are values; words and versions are names.
//! What looks like a name and varies nevertheless is left to [`crate::Routes`]. Invariant: no more than [`SEGMENTS_MAX`]
//! segments and [`ROUTE_BYTES_MAX`] bytes come out.

/// Deeper segments become `*`.
const SEGMENTS_MAX: usize = 8;
/// Longer segments are no names.
const SEGMENT_BYTES_MAX: usize = 48;
/// The longest route: with a method before it, 200 bytes at most.
pub(crate) const ROUTE_BYTES_MAX: usize = 190;
/// What stands for a value.
const VALUE: &str = "{id}";

/// The operation of a path.
pub fn route(path: &str) -> String {
    let mut route = String::with_capacity(path.len().min(ROUTE_BYTES_MAX));
    for (number, segment) in segments(path).enumerate().skip(1) {
        // A value within a segment is replaced, so none comes out longer than it is and the value's stand-in.
        let longest = segment.len().min(SEGMENT_BYTES_MAX) + VALUE.len();
        if number > SEGMENTS_MAX || route.len() + "/".len() + longest + "/*".len() > ROUTE_BYTES_MAX {
            route.push_str("/*");
            break;
        }
        route.push('/');
        push(segment, &mut route);
    }
    if route.is_empty() { "/".to_owned() } else { route }
}

/// What is between slashes. As `split`, which takes longer to look for each slash than a loop over the few bytes before it.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let text = rest?;
        let (segment, after) = match text.bytes().position(|byte| byte == b'/') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        rest = after;
        Some(segment)
    })
}

/// A segment, with [`VALUE`] for what in it is one.
fn push(segment: &str, route: &mut String) {
    // As most are: small letters, which are a name, and digits, which are a value.
    if segment.len() <= SEGMENT_BYTES_MAX && segment.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return route.push_str(segment);
    }
    if segment.bytes().all(|byte| byte.is_ascii_digit()) {
        return route.push_str(VALUE);
    }
    // Parameters of the segment, as in `;jsessionid=...`.
    let segment = segment.split_once(';').map_or(segment, |(name, _)| name);
    if segment.len() <= SEGMENT_BYTES_MAX {
        // `id=7`, `Orders(7)`, `7:cancel`, `7.json`.
        if let Some((name, _)) = segment.split_once('=').filter(|(name, _)| is_word(name)) {
            return route.extend([name, "=", VALUE]);
        }
        if let Some((name, _)) =
            segment.strip_suffix(')').and_then(|it| it.split_once('(')).filter(|(name, _)| is_word(name))
        {
            return route.extend([name, "(", VALUE, ")"]);
        }
        for mark in [":", "."] {
            let Some((stem, end)) = segment.rsplit_once(mark) else { continue };
            let is_end = end.len() <= 16 && (mark == ":" || end.len() <= 5) && is_word(end);
            if is_end && is_identifier(stem) && !is_mail(stem) {
                return route.extend([VALUE, mark, end]);
            }
        }
    }
    route.push_str(if is_identifier(segment) { VALUE } else { segment });
}

/// Letters, and digits behind them.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_mail(text: &str) -> bool {
    text.contains('@') || text.contains("%40")
}

/// Whether a segment of a path, or of another name, is a value and no name.
pub(crate) fn is_identifier(segment: &str) -> bool {
    let is_separator = |byte: char| matches!(byte, '-' | '_' | '.' | ',' | ':' | '~' | '+' | '*' | '|');
    let has_digit = segment.bytes().any(|byte| byte.is_ascii_digit());
    let is_number = || segment.chars().all(|char| char.is_ascii_digit() || is_separator(char));
    segment.len() > SEGMENT_BYTES_MAX
        || segment.contains(['%', '@', ' ', '"', '\'', '<', '>', '\u{FFFD}'])
        || has_digit && (is_number() || is_spread(segment))
        || segment.split(is_separator).any(is_token)
}

/// Long and full of digits, whatever is between them.
fn is_spread(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    segment.len() >= 16 && digits * 4 >= segment.len()
}

/// Whether a part between separators is made up by a machine.
fn is_token(token: &str) -> bool {
    let class = |byte: &u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        _ => 3,
    };
    let bytes = token.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let changes = bytes.windows(2).filter(|pair| class(&pair[0]) != class(&pair[1])).count();
    let is_hexadecimal = || bytes.iter().all(u8::is_ascii_hexdigit);
    // A number that is more than a version; digits enough for no word ("sha256" and "base64" are words); hexadecimal digits;
    // and what changes its class with every other character, or without digits with nearly every one.
    (digits >= 3 && digits == bytes.len())
        || digits >= 4
        || (bytes.len() >= 8 && digits > 0 && (is_hexadecimal() || changes * 2 >= bytes.len()))
        || (bytes.len() >= 10 && changes * 3 >= bytes.len() * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_become_one_word_and_names_stay() {
        let table = [
            ("/", "/"),
            ("/users/7", "/users/{id}"),
            ("/users/7/", "/users/{id}/"),
            ("/v1/orders/2c48913c-b29f-11e7-9350-020968147796/items", "/v1/orders/{id}/items"),
            ("/commit/3f2a9c81d0", "/commit/{id}"),
            ("/facade/deadbeef", "/facade/deadbeef"),
            ("/2024-01-31/report", "/{id}/report"),
            ("/files/a1b2c3d4e5f6g7h8", "/files/{id}"),
            ("/api/v2/oauth2/token", "/api/v2/oauth2/token"),
            ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/*"),
        ];
        for (path, expected) in table {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    /// Paths as services really have them.
    #[test]
    fn paths_of_well_known_services_give_their_routes() {
        let table = [
            // Kubernetes, Docker, Prometheus, Elasticsearch.
            ("/api/v1/namespaces/default/pods/web-7d9c8b6f5-x2x9k/log", "/api/v1/namespaces/default/pods/{id}/log"),
            ("/apis/apps/v1beta1/deployments", "/apis/apps/v1beta1/deployments"),
            ("/v1.43/containers/4f66ad9a0b2e/json", "/v1.43/containers/{id}/json"),
            ("/api/v1/query_range", "/api/v1/query_range"),
            ("/logs-2026.11.20/_search", "/{id}/_search"),
            // Git hosting, package registries, mail.
            ("/repos/rust-lang/rust/pulls/12345/files", "/repos/rust-lang/rust/pulls/{id}/files"),
            ("/@scope/package/-/package-1.2.3.tgz", "/{id}/package/-/package-1.2.3.tgz"),
            ("/mail/alice@example.com/inbox", "/mail/{id}/inbox"),
            ("/mail/alice%40example.com", "/mail/{id}"),
            // Object stores, payments, video: tokens of mixed classes.
            ("/v1/charges/ch_3MqLiJLkdIwHu7ix0snN0B15/refund", "/v1/charges/{id}/refund"),
            ("/watch/dQw4w9WgXcQ", "/watch/{id}"),
            ("/n/V1StGXR8_Z5jdHi6B-myT", "/n/{id}"),
            ("/events/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/events/{id}"),
            ("/t/aBcDeFgHiJkL", "/t/{id}"),
            ("/instances/i-0abc123def4567890", "/instances/{id}"),
            ("/vehicles/WDB9634031L123456", "/vehicles/{id}"),
            // Verbs, types and parameters stay.
            ("/v1/projects/my-project/jobs/81723:cancel", "/v1/projects/my-project/jobs/{id}:cancel"),
            ("/odata/Orders(10248)/Items", "/odata/Orders({id})/Items"),
            ("/users/7.json", "/users/{id}.json"),
            ("/filter/color=red", "/filter/color={id}"),
            ("/cart;jsessionid=8A2F/add", "/cart/add"),
            // Assets.
            ("/static/js/main.3f2a9c81.js", "/static/js/{id}.js"),
            ("/img/IMG_20260131_101010.jpg", "/img/{id}.jpg"),
            ("/favicon.ico", "/favicon.ico"),
            ("/.well-known/openid-configuration", "/.well-known/openid-configuration"),
            // Words with digits, versions, languages, coordinates, times.
            ("/en-US/docs/base64/sha256/utf8/x86_64", "/en-US/docs/base64/sha256/utf8/x86_64"),
            ("/api/getUserByIdAndName/OAuth2Token", "/api/getUserByIdAndName/OAuth2Token"),
            ("/weather/52.52,13.40", "/weather/{id}"),
            ("/at/2026-01-31T10:00:00Z", "/at/{id}"),
            ("/order-12345/invoice_991", "/{id}/{id}"),
            // Free text.
            ("/search/red%20shoes", "/search/{id}"),
            ("/wp-admin/setup-config.php", "/wp-admin/setup-config.php"),
        ];
        for (path, expected) in table {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn segments_are_what_split_gives() {
        for path in ["", "/", "a", "/a", "/a/", "//", "/é/b/ü", "a/b"] {
            assert_eq!(segments(path).collect::<Vec<_>>(), path.split('/').collect::<Vec<_>>(), "{path}");
        }
    }

    #[test]
    fn no_path_makes_a_long_operation() {
        let (one, many) = (format!("/{}", "x".repeat(5_000)), format!("/{}", "é/".repeat(5_000)));
        for path in ["/x".repeat(5_000), one, many, "/abcdefghijklmnopqrstuvw=1".repeat(40)] {
            assert!(route(&path).len() <= ROUTE_BYTES_MAX, "{}", route(&path));
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic_or_grow(path in "(/[!-~é]{0,60}){0,12}") {
            prop_assert!(route(&path).len() <= ROUTE_BYTES_MAX);
        }

        #[test]
        fn every_uuid_number_and_digest_is_a_value(number: u64, uuid: u128, digest in "[0-9a-f]{40}") {
            let text = format!("{uuid:032x}");
            let uuid = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-");
            prop_assert_eq!(route(&format!("/a/{number}/{digest}/{uuid}")), "/a/{id}/{id}/{id}");
        }
    }
}
