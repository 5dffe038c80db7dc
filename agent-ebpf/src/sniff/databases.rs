//! MySQL, PostgreSQL and Redis: by messages whose length is that of the call, or that nothing else begins with.
//!
//! In: the first bytes of what a call moved, and how many it moved. Invariant: as in [`sniff`](super::sniff): fixed places only.

use super::{MYSQL, POSTGRESQL, REDIS, Seen, Sniffed, UNKNOWN, client, is_visible, server, when};

/// A packet that is all of the call: the server's greeting, the client's answer to it, or a command.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn mysql(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let bytes = u32::from_le_bytes([p[0], p[1], p[2], 0]);
    if bytes.wrapping_add(4) != length || bytes == 0 {
        return UNKNOWN;
    }
    if p[3] == 1 {
        // Capabilities of version 4.1, and what is reserved behind them.
        let is_reserved = (p[13] | p[14] | p[15] | p[16] | p[17] | p[18] | p[19] | p[20] | p[21] | p[22] | p[23]) == 0;
        return when(bytes >= 32 && p[5] & 2 != 0 && p[7] < 0x80 && is_reserved, client(MYSQL));
    }
    let is_text = |byte: u8| {
        byte.is_ascii_alphabetic() || matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b'(' | b'/' | b'-' | b'#')
    };
    let is_command = match p[4] {
        // Its version, which begins with a number.
        10 => {
            let is_version = p[5].is_ascii_digit() && (p[6] == b'.' || p[6].is_ascii_digit() && p[7] == b'.');
            return when(p[3] == 0 && bytes >= 32 && is_version, server(MYSQL));
        }
        // A query; what stands before its text where it may have attributes.
        3 => bytes > 1 && (is_text(p[5]) || p[5] == 0 && p[6] == 1 && is_text(p[7])),
        22 => bytes > 1 && is_text(p[5]),
        // The execution of a statement, once.
        23 => bytes >= 10 && p[9] < 0x10 && p[10] == 1 && p[11] == 0 && p[12] == 0 && p[13] == 0,
        // A ping, and the reset of the connection.
        14 | 31 => bytes == 1,
        _ => false,
    };
    when(p[3] == 0 && is_command, client(MYSQL))
}

/// A first message, a query, messages about a statement; or a login, a result, an error.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn postgresql(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if p[0] == 0 {
        let bytes = u32::from_be_bytes([p[0], p[1], p[2], p[3]]);
        let is_first = match u32::from_be_bytes([p[4], p[5], p[6], p[7]]) {
            0x0003_0000 | 0x0003_0002 => is_letter(p[8]) && bytes > 8,
            // For encryption by SSL or GSS.
            80_877_103 | 80_877_104 => bytes == 8,
            _ => false,
        };
        return when(is_first && bytes == length, client(POSTGRESQL));
    }
    // Behind the byte that names the message. Longer ones are not expected to show the rest that is asked for here.
    let bytes = u32::from_be_bytes([p[1], p[2], p[3], p[4]]);
    if bytes < 4 || bytes >= length || p[1] != 0 {
        return UNKNOWN;
    }
    let is_text = |byte: u8| is_letter(byte) || matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b'(' | b'/' | b'-');
    match p[0] {
        b'Q' if bytes + 1 == length && bytes > 5 && is_text(p[5]) => client(POSTGRESQL),
        // Of a statement without a name, or with one; something follows.
        b'P' if p[2] == 0 && bytes + 6 <= length && (p[5] == 0 && is_text(p[6]) || is_letter(p[5]) && bytes > 8) => {
            client(POSTGRESQL)
        }
        // To the portal without a name, and its execution, of at least ten bytes, behind.
        b'B' if p[2] == 0 && bytes >= 12 && bytes + 11 <= length && p[5] == 0 && (p[6] == 0 || is_letter(p[6])) => {
            client(POSTGRESQL)
        }
        // A login by any method of the list.
        b'R' if p[5] == 0 && p[6] == 0 && p[7] == 0 && p[8] <= 12 && (8..512).contains(&bytes) => server(POSTGRESQL),
        b'Z' if bytes == 5 && length == 6 && matches!(p[5], b'I' | b'T' | b'E') => server(POSTGRESQL),
        // A statement is parsed, or bound; the next message of the answer.
        b'1' if bytes == 4 && matches!(p[5], b'2' | b't' | b'Z') && p[6] == 0 && p[7] == 0 => server(POSTGRESQL),
        b'2' if bytes == 4 && matches!(p[5], b'C' | b'D' | b'E' | b'T' | b'n') && p[6] == 0 && p[7] == 0 => {
            server(POSTGRESQL)
        }
        // Each column has a name, and 18 bytes behind it.
        b'T' if p[2] == 0 && p[5] == 0 && p[6] > 0 && bytes >= 6 + 20 * p[6] as u32 && is_visible(p[7]) => {
            server(POSTGRESQL)
        }
        b'E' if p[2] == 0 && p[5] == b'S' && p[6].is_ascii_uppercase() && p[7].is_ascii_uppercase() => {
            server(POSTGRESQL)
        }
        _ => UNKNOWN,
    }
}

/// A command of the list; or a reply that is a string or a number, and all of the call.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn redis(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let digit = |byte: u8| byte.is_ascii_digit();
    let number = |byte: u8| (byte & 0x0F) as u32;
    let is_end = |a: u8, b: u8| a == b'\r' && b == b'\n';
    match p[0] {
        // A count of one to three digits, then the command, a string of one or two.
        b'*' if digit(p[1]) && p[1] != b'0' => {
            let is_command = if is_end(p[2], p[3]) {
                is_redis_command([p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]])
            } else if digit(p[2]) && is_end(p[3], p[4]) {
                is_redis_command([p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12]])
            } else {
                digit(p[2]) && digit(p[3]) && is_end(p[4], p[5]) && {
                    is_redis_command([p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13]])
                }
            };
            when(is_command, client(REDIS))
        }
        b'$' => {
            let is_none = p[1] == b'-' && p[2] == b'1' && is_end(p[3], p[4]) && length == 5;
            let is_short = digit(p[1]) && is_end(p[2], p[3]) && length == number(p[1]) + 6;
            let is_long = digit(p[1])
                && digit(p[2])
                && (is_end(p[3], p[4]) && length == 10 * number(p[1]) + number(p[2]) + 7
                    || digit(p[3])
                        && is_end(p[4], p[5])
                        && length == 100 * number(p[1]) + 10 * number(p[2]) + number(p[3]) + 8);
            when(is_none || is_short || is_long, server(REDIS))
        }
        b':' if digit(p[1]) => {
            let is_short = is_end(p[2], p[3]) && length == 4 || digit(p[2]) && is_end(p[3], p[4]) && length == 5;
            when(is_short, server(REDIS))
        }
        _ => UNKNOWN,
    }
}

/// `$3\r\nGET`: the first letters of a command, as replies have the same form.
#[inline(always)]
fn is_redis_command(p: [u8; 8]) -> bool {
    let word = if p[0] != b'$' || !p[1].is_ascii_digit() {
        return false;
    } else if p[2] == b'\r' && p[3] == b'\n' {
        [p[4] & 0xDF, p[5] & 0xDF, p[6] & 0xDF]
    } else if p[1] == b'1' && p[2].is_ascii_digit() && p[3] == b'\r' && p[4] == b'\n' {
        [p[5] & 0xDF, p[6] & 0xDF, p[7] & 0xDF]
    } else {
        return false;
    };
    matches!(
        &word,
        b"ACL"
            | b"APP"
            | b"ASK"
            | b"AUT"
            | b"BIT"
            | b"BLM"
            | b"BLP"
            | b"BRP"
            | b"BZP"
            | b"CLI"
            | b"CLU"
            | b"COM"
            | b"CON"
            | b"COP"
            | b"DBS"
            | b"DEC"
            | b"DEL"
            | b"DIS"
            | b"DUM"
            | b"ECH"
            | b"EVA"
            | b"EXE"
            | b"EXI"
            | b"EXP"
            | b"FCA"
            | b"FLU"
            | b"FUN"
            | b"GEO"
            | b"GET"
            | b"HDE"
            | b"HEL"
            | b"HEX"
            | b"HGE"
            | b"HIN"
            | b"HKE"
            | b"HLE"
            | b"HMG"
            | b"HMS"
            | b"HSC"
            | b"HSE"
            | b"HVA"
            | b"INC"
            | b"INF"
            | b"JSO"
            | b"KEY"
            | b"LIN"
            | b"LLE"
            | b"LMO"
            | b"LPO"
            | b"LPU"
            | b"LRA"
            | b"LRE"
            | b"LTR"
            | b"MEM"
            | b"MGE"
            | b"MON"
            | b"MSE"
            | b"MUL"
            | b"OBJ"
            | b"PER"
            | b"PEX"
            | b"PFA"
            | b"PFC"
            | b"PIN"
            | b"PSE"
            | b"PSU"
            | b"PSY"
            | b"PTT"
            | b"PUB"
            | b"RAN"
            | b"REN"
            | b"REP"
            | b"RES"
            | b"ROL"
            | b"RPO"
            | b"RPU"
            | b"SAD"
            | b"SCA"
            | b"SCR"
            | b"SDI"
            | b"SEL"
            | b"SET"
            | b"SIN"
            | b"SIS"
            | b"SME"
            | b"SMI"
            | b"SPO"
            | b"SPU"
            | b"SRE"
            | b"SSU"
            | b"STR"
            | b"SUB"
            | b"SUN"
            | b"TIM"
            | b"TOU"
            | b"TTL"
            | b"TYP"
            | b"UNL"
            | b"UNS"
            | b"UNW"
            | b"WAI"
            | b"WAT"
            | b"XAC"
            | b"XAD"
            | b"XAU"
            | b"XCL"
            | b"XDE"
            | b"XGR"
            | b"XIN"
            | b"XLE"
            | b"XRA"
            | b"XRE"
            | b"XTR"
            | b"ZAD"
            | b"ZCA"
            | b"ZCO"
            | b"ZIN"
            | b"ZMS"
            | b"ZPO"
            | b"ZRA"
            | b"ZRE"
            | b"ZSC"
    )
}

#[cfg(test)]
mod tests {
    use super::super::PREFIX_BYTES;
    use super::*;
    use crate::sniff::sniff;

    fn sniffed(bytes: &[u8]) -> Option<Sniffed> {
        let mut prefix = [0; PREFIX_BYTES];
        let length = bytes.len().min(PREFIX_BYTES);
        prefix[..length].copy_from_slice(&bytes[..length]);
        Some(sniff(&Seen { bytes: prefix, length: bytes.len() as u32 })).filter(|found| *found != UNKNOWN)
    }

    #[test]
    fn databases_are_known_by_whole_messages() {
        let postgresql = |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
        let first = |body: &[u8]| [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat();
        let mysql = |count: u8, body: &[u8]| [&(body.len() as u32).to_le_bytes()[..3], &[count], body].concat();
        let execute = postgresql(b'E', b"\0\0\0\0\0");
        let table = [
            (first(b"\0\x03\0\0user\0shop\0\0"), Some(client(POSTGRESQL))),
            (first(&80_877_103_u32.to_be_bytes()), Some(client(POSTGRESQL))),
            (first(b"\0\x02\0\0user\0shop\0\0"), None),
            (postgresql(b'Q', b"SELECT 1\0"), Some(client(POSTGRESQL))),
            (postgresql(b'Q', b"SELECT 1\0")[..9].to_vec(), None),
            (postgresql(b'Q', b"\x01\x02\0"), None),
            ([postgresql(b'P', b"\0SELECT 1\0\0\0"), execute.clone()].concat(), Some(client(POSTGRESQL))),
            ([postgresql(b'B', b"\0S_1\0\0\0\0\0\0\0"), execute.clone()].concat(), Some(client(POSTGRESQL))),
            (postgresql(b'B', b"\0S_1\0\0\0\0\0\0\0"), None),
            (postgresql(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"), Some(server(POSTGRESQL))),
            (postgresql(b'Z', b"I"), Some(server(POSTGRESQL))),
            ([postgresql(b'2', b""), postgresql(b'C', b"SELECT 1\0")].concat(), Some(server(POSTGRESQL))),
            (postgresql(b'E', b"SERROR\0C42P01\0\0"), Some(server(POSTGRESQL))),
            (postgresql(b'X', b""), None),
            (
                mysql(0, b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15----------ijklmnop\0"),
                Some(server(MYSQL)),
            ),
            (
                mysql(1, &[&[0x8d, 0xa2, 0xbf, 9, 0, 0, 0, 1, 45][..], &[0; 23], b"shop\0\0"].concat()),
                Some(client(MYSQL)),
            ),
            (mysql(0, b"\x03SELECT 1"), Some(client(MYSQL))),
            (mysql(0, b"\x03\0\x01SELECT 1"), Some(client(MYSQL))),
            (mysql(1, b"\x03SELECT 1"), None),
            (mysql(0, b"\x03SELECT 1")[..9].to_vec(), None),
            // One length of PostgreSQL's and another of MySQL's in the same first bytes.
            (mysql(0, &[b"\x16SELECT ".as_slice(), &[b'x'; 0x50 - 8]].concat()), Some(client(MYSQL))),
            (mysql(0, b"\x17\x01\0\0\0\0\x01\0\0\0"), Some(client(MYSQL))),
            (mysql(0, b"\x0e"), Some(client(MYSQL))),
            (mysql(0, b"\x01"), None),
            (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec(), Some(client(REDIS))),
            (b"*12\r\n$5\r\nhmset\r\n".to_vec(), Some(client(REDIS))),
            (b"*120\r\n$10\r\nPSUBSCRIBE\r\n".to_vec(), Some(client(REDIS))),
            (b"*2\r\n$4\r\nname\r\n$1\r\na\r\n".to_vec(), None),
            (b"*2\r\n:3\r\n:4\r\n".to_vec(), None),
            (b"$-1\r\n".to_vec(), Some(server(REDIS))),
            (b"$5\r\nhello\r\n".to_vec(), Some(server(REDIS))),
            (b"$12\r\nhello, hello\r\n".to_vec(), Some(server(REDIS))),
            (b"$5\r\nhello, hello\r\n".to_vec(), None),
            (b":42\r\n".to_vec(), Some(server(REDIS))),
            (b":42 is an answer\r\n".to_vec(), None),
            // NATS and POP3 have them too.
            (b"+OK\r\n".to_vec(), None),
            (b"-ERR no\r\n".to_vec(), None),
        ];
        for (bytes, expected) in table {
            assert_eq!(sniffed(&bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
