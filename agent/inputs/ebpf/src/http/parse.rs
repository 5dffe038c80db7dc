//! HTTP/1.x heads as the kernel copied them: possibly cut, possibly hostile, never trusted.
//!
//! In: the first bytes of a message, at most 1 KiB, body included if it came in one piece. Out: what a span needs. A line
//! that is cut by the end of the copy is left out rather than guessed. Invariant: no input panics, and every string out is no
//! longer than the input. Grammar: RFC 9112, sections 2 to 5; traceparent: W3C Trace Context.

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// Without query and fragment; `None` when the target was cut or has no path.
    pub(crate) path: Option<String>,
    pub(crate) version: Option<&'static str>,
    /// Name or address, without port and brackets.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user_agent: Option<String>,
    pub(crate) body_bytes: Option<u64>,
    pub(crate) context: Option<Context>,
}

/// A response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body_bytes: Option<u64>,
}

/// An adopted trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: [u8; 16],
    pub(crate) parent: [u8; 8],
    pub(crate) flags: u8,
}

const METHODS: [&str; 9] = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// A request; `None` if these bytes do not begin one.
pub(crate) fn request(head: &[u8]) -> Option<Request> {
    let method = METHODS
        .into_iter()
        .find(|method| head.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' ')))?;
    let rest = &head[method.len() + 1..];
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
            request.user_agent = Some(String::from_utf8_lossy(value).into_owned());
        } else if is(name, b"content-length") {
            request.body_bytes = number(value);
        } else if is(name, b"traceparent") {
            request.context = context(value);
        }
    }
    Some(request)
}

/// A response; `None` if these bytes do not begin one.
pub(crate) fn response(head: &[u8]) -> Option<Response> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', status @ ..] = rest else { return None };
    let (status, after) = status.split_at_checked(3)?;
    if !matches!(after.first(), None | Some(b' ' | b'\r' | b'\n')) {
        return None;
    }
    let status = number(status).and_then(|status| u16::try_from(status).ok()).filter(|s| (100..600).contains(s))?;
    let length = headers(rest).find(|(name, _)| is(name, b"content-length"));
    Some(Response { status, body_bytes: length.and_then(|(_, value)| number(value)) })
}

/// Header lines, after the first line, up to the empty one or to where the copy ends.
fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').skip(1);
    std::iter::from_fn(move || {
        loop {
            // Without its line feed the line is cut.
            let line = lines.next()?.strip_suffix(b"\n")?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                return None;
            }
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
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
    let path = match target.windows(3).position(|window| window == b"://") {
        Some(scheme) if !target.starts_with(b"/") => {
            let rest = &target[scheme + 3..];
            match rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')) {
                Some(at) if rest[at] == b'/' => &rest[at..],
                _ => b"/",
            }
        }
        _ => target,
    };
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    path.starts_with(b"/").then(|| String::from_utf8_lossy(&path[..end]).into_owned())
}

fn version(text: &[u8]) -> Option<&'static str> {
    match text.get(..8)? {
        b"HTTP/1.1" => Some("1.1"),
        b"HTTP/1.0" => Some("1.0"),
        _ => None,
    }
}

/// `name`, `name:port` or `[v6]:port`.
fn authority(value: &[u8]) -> (Option<String>, Option<u16>) {
    let Ok(text) = std::str::from_utf8(value) else { return (None, None) };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    ((!host.is_empty()).then(|| host.to_owned()), port.and_then(|port| port.parse().ok()))
}

fn number(digits: &[u8]) -> Option<u64> {
    // A sign would parse, but is none of HTTP.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `00-<32 digits>-<16 digits>-<2 digits>`, lower case; later versions may append.
fn context(value: &[u8]) -> Option<Context> {
    let (fixed, more) = value.split_at_checked(55)?;
    let version = hex::<1>(&fixed[..2])?[0];
    let dashes = [2, 35, 52].iter().all(|at| fixed[*at] == b'-');
    let ends = more.is_empty() || (version > 0 && more[0] == b'-');
    let context =
        Context { trace: hex(&fixed[3..35])?, parent: hex(&fixed[36..52])?, flags: hex::<1>(&fixed[53..55])?[0] };
    let valid = version != 0xFF && context.trace != [0; 16] && context.parent != [0; 8];
    (dashes && ends && valid).then_some(context)
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
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
    fn authorities_lose_port_and_brackets() {
        let table: [(&[u8], Option<&str>, Option<u16>); 6] = [
            (b"a.b", Some("a.b"), None),
            (b"a:80", Some("a"), Some(80)),
            (b"[::1]:8080", Some("::1"), Some(8080)),
            (b"[::1]", Some("::1"), None),
            (b":99999", None, None),
            (b"\xff", None, None),
        ];
        for (value, host, port) in table {
            assert_eq!(authority(value), (host.map(str::to_owned), port));
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

    #[test]
    fn only_valid_trace_contexts_are_adopted() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let table = [
            (format!("00-{trace}-{parent}-00"), true),
            (format!("cc-{trace}-{parent}-01-more"), true),
            (format!("00-{trace}-{parent}-01-more"), false),
            (format!("ff-{trace}-{parent}-01"), false),
            (format!("00-{}-{parent}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{parent}-01", trace.to_uppercase()), false),
            (format!("00_{trace}-{parent}-01"), false),
            (format!("00-{trace}-{parent}-0"), false),
        ];
        for (value, adopted) in table {
            assert_eq!(context(value.as_bytes()).is_some(), adopted, "{value}");
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
