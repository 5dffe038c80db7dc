//! The operation a span belongs to: its name with what varies from request to request replaced.
//!
//! Used alike by RED metrics and by sampling's thresholds. A name without a path is taken as it is: instrumentation is asked by the
//! semantic conventions to keep span names low in cardinality. Segments of paths that are numbers, UUIDs, long hexadecimal
//! or otherwise look made by a machine become `{id}`, and a query is cut off. Invariant: two requests that differ only in ids have
//! one operation.

use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::value::string_attribute;
use ollystack_schema::names::semconv::{HTTP_REQUEST_METHOD, HTTP_ROUTE};
use std::borrow::Cow;

/// Longer names are cut: an operation is a key in several tables.
const NAME_BYTES_MAX: usize = 256;

/// A segment at least this long that has digits in it was hardly chosen by a person.
const TOKEN_BYTES_MIN: usize = 16;

/// The operation of a span.
pub fn operation(span: &Span) -> Cow<'_, str> {
    if let (Some(method), Some(route)) =
        (string_attribute(&span.attributes, HTTP_REQUEST_METHOD), string_attribute(&span.attributes, HTTP_ROUTE))
    {
        return Cow::Owned(cut(&format!("{method} {route}")).to_owned());
    }
    let name = cut(&span.name);
    match name.find('/') {
        Some(at) if at == 0 || name.as_bytes()[at - 1] == b' ' => template(name, at),
        _ => Cow::Borrowed(name),
    }
}

/// Replace the ids in the path that starts at `at`; without any, the name is borrowed.
fn template(name: &str, at: usize) -> Cow<'_, str> {
    let (before, path) = name.split_at(at);
    let path = path.split(['?', '#']).next().unwrap_or(path);
    if !path.split('/').any(is_id) {
        return Cow::Borrowed(&name[..before.len() + path.len()]);
    }
    let segments: Vec<&str> = path.split('/').map(|segment| if is_id(segment) { "{id}" } else { segment }).collect();
    Cow::Owned(format!("{before}{}", segments.join("/")))
}

/// Whether a segment of a path, or a label of a name, was made by a machine: a number, a UUID, long hexadecimal or another token.
pub fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if bytes.is_empty() || digits == 0 {
        return false;
    }
    let number = digits == bytes.len();
    let uuid = bytes.len() == 36 && bytes.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    let hexadecimal = bytes.len() >= 8 && bytes.iter().all(u8::is_ascii_hexdigit);
    let token = bytes.len() >= TOKEN_BYTES_MIN
        && digits >= 2
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'~'));
    number || uuid || hexadecimal || token
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::string;

    fn of(name: &str) -> String {
        operation(&Span { name: name.into(), ..Span::default() }).into_owned()
    }

    #[test]
    fn ids_in_paths_are_replaced() {
        for (name, expected) in [
            ("GET /users/42/orders/7", "GET /users/{id}/orders/{id}"),
            ("GET /o/123e4567-e89b-12d3-a456-426614174000", "GET /o/{id}"),
            ("/blob/deadbeef01", "/blob/{id}"),
            ("GET /a/b?c=1", "GET /a/b"),
            ("POST /v1/traces", "POST /v1/traces"),
            ("GET /api/v2/things", "GET /api/v2/things"),
            ("GET /t/eyJhbGciOi12JIUzI1NiJ9", "GET /t/{id}"),
            ("orders process", "orders process"),
            ("and/or", "and/or"),
            ("", ""),
        ] {
            assert_eq!(of(name), expected);
        }
    }

    #[test]
    fn the_route_is_believed_over_the_name() {
        let attributes = vec![string("http.request.method", "GET"), string("http.route", "/u/:id")];
        assert_eq!(operation(&Span { name: "GET".into(), attributes, ..Span::default() }), "GET /u/:id");
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let name = "é".repeat(1000);
        assert_eq!(of(&name).len(), NAME_BYTES_MAX);
    }
}
