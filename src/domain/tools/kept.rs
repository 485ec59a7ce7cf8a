//! What the model is shown of a command's output.

use std::collections::VecDeque;

/// Bytes of output that the model is shown: the first half and the last.
const MAX_OUTPUT_BYTES: usize = 30_000;

/// The first and the last half of what was written, however much it was.
#[derive(Default)]
pub(super) struct Kept {
    first: Vec<u8>,
    last: VecDeque<u8>,
    /// All bytes that came.
    pub(super) total: u64,
}

impl Kept {
    const HALF: usize = MAX_OUTPUT_BYTES / 2;

    /// Takes what was written next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (first, rest) = bytes.split_at(bytes.len().min(Self::HALF - self.first.len()));
        self.first.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(Self::HALF)..];
        let over = (self.last.len() + rest.len()).saturating_sub(Self::HALF);
        self.last.drain(..over);
        self.last.extend(rest);
    }

    /// In words: no character is split at the cut, and what is no text is shown as U+FFFD.
    pub(super) fn text(&self) -> String {
        let mut bytes = self.first.clone();
        let cut = self.total - (self.first.len() + self.last.len()) as u64;
        let last: Vec<u8> = self.last.iter().copied().collect();
        if cut == 0 {
            bytes.extend(last);
            return words(&bytes);
        }
        let start = last.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        let end = bytes.len() - split_character(&bytes);
        let cut = cut + (start + bytes.len() - end) as u64;
        format!("{}\n[{cut} bytes cut here]\n{}", words(&bytes[..end]), words(&last[start..]))
    }
}

/// How many bytes at the end begin a character that is not whole.
fn split_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(4)..];
    match std::str::from_utf8(tail) {
        Ok(_) => 0,
        // Where the four bytes begin inside a character themselves, the last chunk still tells how the end is.
        Err(_) => match tail.utf8_chunks().last().map(|chunk| chunk.invalid()) {
            Some(invalid @ [0xc2..=0xf4, ..]) => invalid.len(),
            _ => 0,
        },
    }
}

/// NUL is no character for some model APIs.
fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_its_first_and_last_half() {
        let mut kept = Kept::default();
        for _ in 0..1_000 {
            kept.push("é".repeat(100).as_bytes());
        }
        assert!(kept.first.len() + kept.last.len() <= MAX_OUTPUT_BYTES);
        let text = kept.text();
        assert_eq!(text.replace('é', ""), format!("\n[{} bytes cut here]\n", 200_000 - MAX_OUTPUT_BYTES));
        let mut odd = Kept::default();
        odd.push(b"x");
        odd.push("é".repeat(MAX_OUTPUT_BYTES).as_bytes());
        odd.push(b"y");
        assert!(!odd.text().contains('\u{fffd}'));
        let mut small = Kept::default();
        small.push(&[0xc3]);
        small.push(&[0xa9, 0, 0xff]);
        assert_eq!(small.text(), "é\u{fffd}\u{fffd}");
    }
}
