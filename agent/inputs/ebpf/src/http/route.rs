//! From a path to an operation of low cardinality: `/users/7/orders/3f2a9c81d0` is `/users/{id}/orders/{id}`.
//!
//! A guess where a framework would know: a segment counts as an identifier when it is a number, a UUID, a run of hexadecimal
//! digits, or long and full of digits. Invariant: no more than [`SEGMENTS_MAX`] segments and [`BYTES_MAX`] bytes come out.

/// Deeper segments become `*`.
const SEGMENTS_MAX: usize = 8;
/// Longer segments are no names.
const SEGMENT_BYTES_MAX: usize = 48;
/// The whole.
const BYTES_MAX: usize = 200;

/// The operation of a path.
pub(crate) fn route(path: &str) -> String {
    let mut route = String::with_capacity(path.len());
    for (number, segment) in path.split('/').enumerate().skip(1) {
        if number > SEGMENTS_MAX || route.len() + segment.len().min(SEGMENT_BYTES_MAX) >= BYTES_MAX {
            route.push_str("/*");
            break;
        }
        route.push('/');
        route.push_str(if is_identifier(segment) { "{id}" } else { segment });
    }
    if route.is_empty() { "/".to_owned() } else { route }
}

fn is_identifier(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_hex = || bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let is_number = digits > 0 && bytes.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'));
    is_number
        || (bytes.len() >= 8 && digits > 0 && is_hex())
        || (bytes.len() >= 16 && digits * 4 >= bytes.len())
        || bytes.len() > SEGMENT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn no_path_makes_a_long_operation() {
        for path in ["/x".repeat(5_000), format!("/{}", "x".repeat(5_000)), format!("/{}", "é/".repeat(5_000))] {
            assert!(route(&path).len() <= BYTES_MAX + 2, "{}", route(&path));
        }
    }
}
