//! The Huffman code of HPACK's strings.
//!
//! The code is canonical: of the lengths alone follow all codes, shortest first and in the order of bytes among equals. Most
//! text has codes of up to eight bits, which one look-up decodes. Format: RFC 7541, section 5.2 and appendix B.
//! Invariant: never more comes out than the room that is given.

/// Bits of each byte's code. The end of a string has a code of its own, of 30 ones, which none contains whole.
#[rustfmt::skip]
const BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
/// The longest code.
const BITS_MAX: usize = 30;
/// Codes that are looked up at once.
const SHORT_BITS: u32 = 8;

/// Made of [`BITS`].
struct Code {
    /// By the next eight bits: byte and length; length 0 if the code is longer.
    short: [(u8, u8); 1 << SHORT_BITS],
    /// All bytes in the order of their codes.
    bytes: [u8; 256],
    /// By length: the first code, and where its byte stands.
    first: [(u32, u32); BITS_MAX + 2],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut made = Code { short: [(0, 0); 1 << SHORT_BITS], bytes: [0; 256], first: [(0, 0); BITS_MAX + 2] };
    let (mut code, mut place, mut bits) = (0, 0, 1);
    while bits <= BITS_MAX {
        code <<= 1;
        made.first[bits] = (code, place);
        let mut byte = 0;
        while byte < 256 {
            if BITS[byte] as usize == bits {
                made.bytes[place as usize] = byte as u8;
                if bits as u32 <= SHORT_BITS {
                    let (mut at, end) = (code << (SHORT_BITS - bits as u32), (code + 1) << (SHORT_BITS - bits as u32));
                    while at < end {
                        made.short[at as usize] = (byte as u8, bits as u8);
                        at += 1;
                    }
                }
                (code, place) = (code + 1, place + 1);
            }
            byte += 1;
        }
        bits += 1;
    }
    made.first[BITS_MAX + 1] = (code << 1, place);
    made
}

/// Decode into `room`: how many bytes, and whether that is all. `None` if it is no such code.
pub(super) fn decode(coded: &[u8], room: &mut [u8]) -> Option<(usize, bool)> {
    // The next bits, left in the word, and how many.
    let (mut word, mut held, mut length) = (0_u64, 0_u32, 0);
    let mut coded = coded.iter();
    loop {
        while held <= 56 {
            let Some(byte) = coded.next() else { break };
            word |= u64::from(*byte) << (56 - held);
            held += 8;
        }
        // What is left at the end is padding: up to seven ones.
        if held < 8 && word >> (64 - held.max(1)) == (1_u64 << held.max(1)) - 1 || held == 0 {
            return Some((length, true));
        }
        let (byte, bits) = match CODE.short[(word >> (64 - SHORT_BITS)) as usize] {
            (_, 0) => long(word)?,
            found => found,
        };
        if u32::from(bits) > held {
            return None;
        }
        let Some(place) = room.get_mut(length) else { return Some((length, false)) };
        *place = byte;
        (word, held, length) = (word << bits, held - u32::from(bits), length + 1);
    }
}

/// A code of more than [`SHORT_BITS`].
fn long(word: u64) -> Option<(u8, u8)> {
    for bits in SHORT_BITS as usize + 1..=BITS_MAX {
        let code = (word >> (64 - bits)) as u32;
        let ((first, place), (_, next)) = (CODE.first[bits], CODE.first[bits + 1]);
        if code.wrapping_sub(first) < next - place {
            return Some((*CODE.bytes.get((place + code - first) as usize)?, bits as u8));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes 0 to 255 as another implementation codes them.
    const ALL: &str = "ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffebfffffecfff\
        ffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3fffffe7fffffebfffffed\
        4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58f265cd9f469d5af66dddbf871e5f9c\
        ff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7ffbffdffffffcfffe6ffff4bfff9ffffa3fffd3ff\
        ff53fffd5ffffb3fffeb7fffdaffffb7ffff73fffeeffffdeffffebffffbfffffd9ffffdbfffebffffe0ffffeeffffc3ffff8bffff1fff\
        fe4fffee7fffb1ffff97fffd9ffffcdffff9fffffbffffdafffeeffff4ffffb7fffee7fffe8ffffd3fffdeffffd5fffeeffffbdffffe1f\
        ffdfffff7fffff5ffffecffff07fff87fffe0ffff17fffedffff87ffff77fffeffffeaffff8bfffe3ffff93ffff87fffcbffff37ffff1f\
        ffff83ffffe1fffebfffe3ffff3fffff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbffffff2fffff8fffffb7fff97fff8ffff\
        fe6fffffc1fffff87ffffe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3fffffc9fffff97fffb3ffffcffffb7fffcdff\
        ff4ffff9ffffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffffa7ffffd7fffff9bffffecfffffb7fffff3fffffe8fff\
        ffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7ffffff0fffffbbf";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    fn text(hex: &str) -> Option<String> {
        let mut room = [0; 64];
        let (length, is_all) = decode(&bytes(hex), &mut room)?;
        Some(format!("{}{}", String::from_utf8_lossy(&room[..length]), if is_all { "" } else { "..." }))
    }

    #[test]
    fn every_byte_has_its_code() {
        let mut room = [0; 256];
        assert_eq!(decode(&bytes(ALL), &mut room), Some((256, true)));
        assert_eq!(room.to_vec(), (0..=255).collect::<Vec<u8>>());
    }

    /// The examples of RFC 7541, appendix C.4 and C.6.
    #[test]
    fn strings_of_the_specification_are_read() {
        let table = [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("640eff", "307"),
            ("", ""),
        ];
        for (coded, expected) in table {
            assert_eq!(text(coded).as_deref(), Some(expected), "{coded}");
        }
    }

    #[test]
    fn padding_is_ones_and_less_than_a_byte_and_room_is_kept() {
        assert_eq!(text("a8eb10649cbfff"), None, "a byte of padding");
        assert_eq!(text("6400"), Some("300".to_owned()), "zeros are a digit");
        assert_eq!(text("a8eb10649cbe"), None, "padding of zeros");
        assert_eq!(text("3fffffff"), None, "the end's own code");
        assert_eq!(decode(&bytes("a8eb10649cbf"), &mut [0; 3]), Some((3, false)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(coded in prop::collection::vec(any::<u8>(), 0..100), room in 0_usize..64) {
            let _ = decode(&coded, &mut vec![0; room]);
        }
    }
}
