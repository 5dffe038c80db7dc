//! HTTP/2 by hand, for what no client library would send.

/// What a client begins with: the preface and its settings.
pub(crate) fn begin(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &payload)].concat()
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113, 6.5.2.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// RFC 9113, 4.1.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Each header a literal that nobody is to remember (RFC 7541, 6.2.2), without Huffman's code.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut length = text.len();
        // An integer of a prefix of 7 bits.
        let mut bytes = vec![length.min(127) as u8];
        if length >= 127 {
            length -= 127;
            while length >= 128 {
                bytes.push(length as u8 | 128);
                length >>= 7;
            }
            bytes.push(length as u8);
        }
        bytes.extend(text.bytes());
        bytes
    };
    headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The head of a gRPC export of logs.
pub(crate) fn export(key: &str) -> Vec<u8> {
    let bearer = format!("Bearer {key}");
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", crate::otlp::Signal::Logs.method()),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &bearer),
    ])
}
