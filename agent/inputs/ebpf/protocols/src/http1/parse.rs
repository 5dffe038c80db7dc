//! HTTP/1.x heads as the kernel copied them: possibly cut, possibly hostile, never trusted.
//!
//! In: the first bytes of a message, at most 1 KiB, body included if it came in one piece. Out: what a span needs. A line
//! that is cut by the end of the copy is left out rather than guessed. Invariant: no input panics, and every string out is no
//! longer than the input. Grammar: RFC 9112, sections 2 to 5.

use crate::http::{METHODS, Request, Response, authority, context, number};
use memchr::{memchr, memmem};
use std::sync::LazyLock;

/// What a response's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body_bytes: Option<u64>,
    /// It goes on as HTTP/2 behind this head.
    pub(crate) is_upgrade: bool,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Response {
        Response { status: Some(answer.status), body_bytes: answer.body_bytes }
    }
}

/// Whether more bytes may make a request of these.
pub(crate) fn may_become_request(head: &[u8]) -> bool {
    METHODS.iter().any(|method| method.as_bytes().starts_with(head))
}

/// The method of a request, and what follows it; `None` if these bytes do not begin one.
fn method(head: &[u8]) -> Option<(&'static str, &[u8])> {
    METHODS.into_iter().find_map(|method| Some((method, head.strip_prefix(method.as_bytes())?.strip_prefix(b" ")?)))
}

/// A request; `None` if these bytes do not begin one.
pub(crate) fn request(head: &[u8]) -> Option<Request> {
    let (method, rest) = method(head)?;
    let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    let mut request = Request {
        method,
        path: end.and_then(|end| path(method, &rest[..end])),
        version: end.and_then(|end| version(rest[end..].strip_prefix(b" ")?)),
        host: None,
        port: None,
        user_agent: None,
        body_bytes: None,
        context: None,
    };
    for (name, value) in headers(rest) {
        if is(name, b"host") {
            (request.host, request.port) = authority(value);
        } else if is(name, b"user-agent") {
            request.user_agent = Some(text(value));
        } else if is(name, b"content-length") {
            request.body_bytes = request.body_bytes.or(number(value));
        } else if is(name, b"traceparent") {
            request.context = context(value);
        }
    }
    Some(request)
}

/// A response; `None` if these bytes do not begin one.
pub(crate) fn response(head: &[u8]) -> Option<Answer> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', status @ ..] = rest else { return None };
    let (status, after) = status.split_at_checked(3)?;
    if !matches!(after.first(), None | Some(b' ' | b'\r' | b'\n')) {
        return None;
    }
    let status = number(status).and_then(|status| u16::try_from(status).ok()).filter(|s| (100..600).contains(s))?;
    if status == 101 {
        let is_upgrade = headers(rest).any(|(name, value)| is(name, b"upgrade") && is(value, b"h2c"));
        return Some(Answer { status, body_bytes: None, is_upgrade });
    }
    let length = headers(rest).find(|(name, _)| is(name, b"content-length"));
    Some(Answer { status, body_bytes: length.and_then(|(_, value)| number(value)), is_upgrade: false })
}

/// Whether more bytes may make a response of these.
pub(crate) fn may_become_response(head: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    head.len() < b"HTTP/1.1 200".len() && head.starts_with(&START[..START.len().min(head.len())])
}

/// Bytes of a head with its empty line; `None` if it is not all here.
pub(crate) fn head_bytes(message: &[u8]) -> Option<usize> {
    static END: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));
    END.find(message).map(|at| at + 4)
}

/// Header lines, after the first line, up to the empty one or to where the copy ends.
fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = memchr(b'\n', head).map_or(&[][..], |end| &head[end + 1..]);
    std::iter::from_fn(move || {
        loop {
            // Without its line feed the line is cut.
            let end = memchr(b'\n', rest)?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                return None;
            }
            if let Some(colon) = memchr(b':', line) {
                return Some((&line[..colon], line[colon + 1..].trim_ascii()));
            }
        }
    })
}

fn is(name: &[u8], wanted: &[u8]) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

fn path(method: &str, target: &[u8]) -> Option<String> {
    if method == "CONNECT" {
        return None;
    }
    // "/path", or a whole URL as proxies get it; "*" has no path.
    let scheme = if target.starts_with(b"/") { None } else { memmem::find(target, b"://") };
    let path = match scheme {
        Some(scheme) => {
            let rest = &target[scheme + 3..];
            match rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')) {
                Some(at) if rest[at] == b'/' => &rest[at..],
                _ => b"/",
            }
        }
        None => target,
    };
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    path.starts_with(b"/").then(|| text(&path[..end]))
}

/// What is no UTF-8 is marked as such. Nearly all is ASCII, which is checked faster than it is repaired.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), str::to_owned)
}

fn version(text: &[u8]) -> Option<&'static str> {
    match text.get(..8)? {
        b"HTTP/1.1" => Some("1.1"),
        b"HTTP/1.0" => Some("1.0"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "POST /users/7?token=x HTTP/1.1\r\nHost: shop.local:8080\r\nUSER-AGENT:  curl/8 \r\n\
        Content-Length: 12\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nhost: body.invalid\r\n";

    #[test]
    fn a_whole_request_is_read_and_its_body_is_not() {
        let request = request(WHOLE.as_bytes()).unwrap();
        assert_eq!((request.method, request.path.as_deref()), ("POST", Some("/users/7")));
        assert_eq!((request.host.as_deref(), request.port), (Some("shop.local"), Some(8080)));
        assert_eq!(request.user_agent.as_deref(), Some("curl/8"));
        assert_eq!((request.body_bytes, request.version), (Some(12), Some("1.1")));
        let context = request.context.unwrap();
        assert_eq!((context.trace[0], context.parent[7], context.flags), (0x0a, 0x31, 1));
    }

    #[test]
    fn what_the_copy_cuts_is_left_out() {
        let cut = |length: usize| request(&WHOLE.as_bytes()[..length]).unwrap();
        assert_eq!(cut(12).path, None);
        assert_eq!(cut(22).path.as_deref(), Some("/users/7"));
        assert_eq!(cut(22).version, None);
        let inside_host = WHOLE.find("local").unwrap();
        assert_eq!(cut(inside_host).host, None, "a cut name would be another name");
    }

    #[test]
    fn targets_of_every_form_give_the_path_alone() {
        let table = [
            ("GET / HTTP/1.1", Some("/")),
            ("GET /a?b#c HTTP/1.1", Some("/a")),
            ("GET http://h:1/a/b?c HTTP/1.1", Some("/a/b")),
            ("GET http://h?x HTTP/1.1", Some("/")),
            ("GET /to?u=http://h/ HTTP/1.1", Some("/to")),
            ("GET /to/http://h/ HTTP/1.1", Some("/to/http://h/")),
            ("OPTIONS * HTTP/1.1", None),
            ("CONNECT h:443 HTTP/1.1", None),
            ("GET  HTTP/1.1", None),
        ];
        for (line, expected) in table {
            assert_eq!(request(line.as_bytes()).unwrap().path.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn only_well_formed_responses_are_taken() {
        let ok = |text: &str| response(text.as_bytes()).map(|response| (response.status, response.body_bytes));
        assert_eq!(ok("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHello"), Some((200, Some(5))));
        assert_eq!(ok("HTTP/1.0 404"), Some((404, None)));
        assert_eq!(ok("HTTP/1.1 204\r\nContent-Length: +5\r\n\r\n"), Some((204, None)));
        assert_eq!(ok("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n"), Some((200, None)));
        for text in
            ["HTTP/1.2 200 OK", "HTTP/1.1 20", "HTTP/1.1 2000", "HTTP/1.1 099 x", "HTTP/1.1 +20 x", "HTTP/2 200", ""]
        {
            assert_eq!(ok(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(start in "(GET /|POST http://|HTTP/1.1 )?", rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [start.as_bytes(), &rest].concat();
            let _ = (request(&bytes), response(&bytes));
        }

        #[test]
        fn nothing_grows_beyond_what_came_in(text in "GET [ -~]{0,80}\r\n(Host: [ -~]{0,40}\r\n)?") {
            // Only bytes that are not text grow, by their replacement.
            let request = request(text.as_bytes()).unwrap();
            prop_assert!(request.path.map_or(0, |path| path.len()) + request.host.map_or(0, |host| host.len()) <= text.len());
        }
    }
}
