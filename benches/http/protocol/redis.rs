//! Redis: `INCR` in RESP, as its own benchmark sends it.

use std::ops::Range;

use super::{Found, number};

pub const REQUEST: &[u8] = b"*2\r\n$4\r\nINCR\r\n$2\r\nid\r\n";

/// `:123\r\n`, or `-ERR ...\r\n`.
#[inline]
pub fn read(bytes: &[u8], ids: &mut Vec<Range<u64>>) -> Found {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Found::Part };
    let length = end + 1;
    match bytes.strip_prefix(b":").and_then(number) {
        Some((id, _)) => {
            ids.push(id..id + 1);
            Found::Answer { length }
        }
        None => Found::Refusal { length },
    }
}
