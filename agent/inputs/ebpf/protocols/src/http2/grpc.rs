//! gRPC's names and status codes.
//!
//! Sources: "gRPC over HTTP2", "HTTP to gRPC status code mapping" and "Status codes and their use in gRPC"; which of them
//! are a server's errors: OpenTelemetry's semantic conventions for gRPC. Invariant: a method's name is no longer than
//! [`NAME_BYTES_MAX`] and made of what names are made of.

/// The longest name of a service and its method.
const NAME_BYTES_MAX: usize = 200;

/// By code.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const CANCELLED: u64 = 1;
const UNKNOWN: u64 = 2;
pub(super) const DEADLINE_EXCEEDED: u64 = 4;
const PERMISSION_DENIED: u64 = 7;
const RESOURCE_EXHAUSTED: u64 = 8;
const UNIMPLEMENTED: u64 = 12;
const INTERNAL: u64 = 13;
const UNAVAILABLE: u64 = 14;
const DATA_LOSS: u64 = 15;
const UNAUTHENTICATED: u64 = 16;

/// `None` if it is no error. A code that gRPC does not define is its UNKNOWN.
pub(super) fn error(code: u64) -> Option<&'static str> {
    let place = usize::try_from(code).ok().filter(|code| *code < NAMES.len()).unwrap_or(UNKNOWN as usize);
    (place != 0).then(|| NAMES[place])
}

/// Whether a server's span with this code is no error.
pub(super) fn is_fault_of_client(code: u64) -> bool {
    code < NAMES.len() as u64
        && !matches!(code, UNKNOWN | DEADLINE_EXCEEDED | UNIMPLEMENTED | INTERNAL | UNAVAILABLE | DATA_LOSS)
}

/// What an answer without a code of gRPC's means, as from a proxy.
pub(super) fn of_http_status(status: u16) -> u64 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// What a stream that was reset means, by HTTP/2's error code.
pub(super) fn of_reset(code: u32) -> u64 {
    match code {
        0x7 => UNAVAILABLE,
        0x8 => CANCELLED,
        0xB => RESOURCE_EXHAUSTED,
        0xC => PERMISSION_DENIED,
        _ => INTERNAL,
    }
}

/// Service and method of a path.
pub(super) fn method(path: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'$');
        !name.is_empty() && name.bytes().all(is_part)
    };
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (path.len() <= NAME_BYTES_MAX && is_name(service) && is_name(method)).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_errors_by_their_names_and_some_of_them_the_clients_own() {
        let table = [
            (0, None, true),
            (1, Some("CANCELLED"), true),
            (2, Some("UNKNOWN"), false),
            (4, Some("DEADLINE_EXCEEDED"), false),
            (5, Some("NOT_FOUND"), true),
            (12, Some("UNIMPLEMENTED"), false),
            (13, Some("INTERNAL"), false),
            (14, Some("UNAVAILABLE"), false),
            (15, Some("DATA_LOSS"), false),
            (16, Some("UNAUTHENTICATED"), true),
            (17, Some("UNKNOWN"), false),
            (u64::MAX, Some("UNKNOWN"), false),
        ];
        for (code, name, is_the_clients) in table {
            assert_eq!((error(code), is_fault_of_client(code)), (name, is_the_clients), "{code}");
        }
    }

    #[test]
    fn answers_without_a_code_have_the_one_that_a_client_makes_of_them() {
        let names = |codes: &[u64]| codes.iter().map(|code| error(*code).unwrap()).collect::<Vec<_>>();
        assert_eq!(
            names(&[400, 401, 403, 404, 429, 500, 503].map(of_http_status)),
            [
                "INTERNAL",
                "UNAUTHENTICATED",
                "PERMISSION_DENIED",
                "UNIMPLEMENTED",
                "UNAVAILABLE",
                "UNKNOWN",
                "UNAVAILABLE"
            ]
        );
        assert_eq!(
            names(&[0, 7, 8, 11, 12].map(of_reset)),
            ["INTERNAL", "UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"]
        );
    }

    #[test]
    fn methods_are_names_or_nothing() {
        let long = format!("/{}/Get", "s".repeat(NAME_BYTES_MAX));
        let table = [
            ("/shop.v1.Orders/Get", Some(("shop.v1.Orders", "Get"))),
            ("/a/b/Get", Some(("a/b", "Get"))),
            ("/Get", None),
            ("/shop.Orders/", None),
            ("//Get", None),
            ("/shop Orders/Get", None),
            ("shop/Get", None),
            (long.as_str(), None),
        ];
        for (path, expected) in table {
            assert_eq!(method(path), expected, "{path}");
        }
    }
}
