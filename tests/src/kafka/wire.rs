//! One request to a broker and its answer, by Kafka's own protocol; tools of Kafka would start a Java of their own for each.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A broker that is stopped accepts, and says nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers are some hundred bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks one of Kafka's requests by its number, in a version whose headers are the plain ones; the answer is what is behind its header.
pub(super) fn ask(broker: SocketAddr, request: u16, version: u16, body: &[u8]) -> Result<Vec<u8>> {
    let correlation = [0; 4];
    let head = [request.to_be_bytes().as_slice(), &version.to_be_bytes(), &correlation, &string("tests")].concat();
    let mut stream = TcpStream::connect_timeout(&broker, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let length = (head.len() + body.len()) as u32;
    stream.write_all(&[length.to_be_bytes().as_slice(), &head, body].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer.get(correlation.len()..).context("the answer ends too early")?.to_vec())
}

/// As requests have it.
pub(super) fn string(text: &str) -> Vec<u8> {
    [(text.len() as u16).to_be_bytes().as_slice(), text.as_bytes()].concat()
}
