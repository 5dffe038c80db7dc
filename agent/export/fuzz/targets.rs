//! Fuzz targets of what an endpoint answers and of what is found on the disk.

use crate::call::taken;
use crate::frozen::{Encoding, Frozen};
use bytes::Bytes;
use ollystack_buffer::Entry;

/// The body of an answer.
pub fn answer(data: &[u8]) {
    let taken = taken(data);
    assert!(taken.message.len() <= data.len() * 4, "more words than were sent");
}

/// An entry of the buffer: signal, six bytes of description, payload. What opens never becomes larger than it says.
pub fn frozen(data: &[u8]) {
    let Some((signal, rest)) = data.split_first() else { return };
    let (meta, payload) = rest.split_at(rest.len().min(6));
    let (meta, payload) = (Bytes::copy_from_slice(meta), Bytes::copy_from_slice(payload));
    let entry = Entry { class: 0, signal: *signal, records: 1, meta, payload };
    let Ok(frozen) = Frozen::parse(entry) else { return };
    if let Ok(plain) = frozen.encoded(Encoding::Identity) {
        assert!(frozen.encoding == Encoding::Identity || plain.len() <= frozen.plain_bytes);
    }
}
