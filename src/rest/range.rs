//! Pieces of a file as HTTP asks for them: `Range` and `If-Range`.

use axum::http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};

use super::file::date;

/// Which bytes are to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// All of them.
    Whole,
    /// From the first, so many.
    From(u64, u64),
    /// The piece begins behind the end.
    Nowhere,
}

/// What the headers ask for of a file of this size and tag. More than one range is answered by the whole file, as is
/// what is no range of bytes, or was meant for another state of the file.
pub(super) fn piece(headers: &HeaderMap, size: u64, etag: &str, modified_at: Timestamp) -> Piece {
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    match range.and_then(|range| parse(range, size)) {
        Some(piece) if is_meant(headers, etag, modified_at) => piece,
        Some(_) | None => Piece::Whole,
    }
}

fn parse(range: &str, size: u64) -> Option<Piece> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        // The last bytes. Of an empty file there are none, and no way to say so but the whole.
        return match number(last)? {
            0 => Some(Piece::Nowhere),
            _ if size == 0 => None,
            count => Some(Piece::From(size.saturating_sub(count), count.min(size))),
        };
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    match (first <= last, first < size) {
        (false, _) => None,
        (true, false) => Some(Piece::Nowhere),
        (true, true) => Some(Piece::From(first, last.min(size - 1) - first + 1)),
    }
}

/// Digits alone; what is beyond all sizes is the largest one.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Whether the file is the one that the client has a part of. A date tells that only when it is not of just now.
fn is_meant(headers: &HeaderMap, etag: &str, modified_at: Timestamp) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else { return true };
    match value.to_str() {
        Ok(tag) if tag.contains('"') => tag.trim() == format!("\"{etag}\""),
        Ok(tag) if tag.trim() == etag => true,
        Ok(_) => {
            let settled = Timestamp::now().duration_since(modified_at) >= SignedDuration::from_secs(2);
            settled && date(headers, &header::IF_RANGE).is_some_and(|at| at.as_second() == modified_at.as_second())
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, size, expected) in [
            ("bytes=0-4", 10, Some(Piece::From(0, 5))),
            ("bytes=5-", 10, Some(Piece::From(5, 5))),
            ("bytes=-3", 10, Some(Piece::From(7, 3))),
            ("bytes=-30", 10, Some(Piece::From(0, 10))),
            ("bytes=9-99999999999999999999999", 10, Some(Piece::From(9, 1))),
            ("Bytes=0-0", 10, Some(Piece::From(0, 1))),
            ("bytes=10-", 10, Some(Piece::Nowhere)),
            ("bytes=-0", 10, Some(Piece::Nowhere)),
            ("bytes=0-", 0, Some(Piece::Nowhere)),
            ("bytes=-5", 0, None),
            ("bytes=5-4", 10, None),
            ("bytes=0-1,3-4", 10, None),
            ("bytes=a-b", 10, None),
            ("bytes=+1-2", 10, None),
            ("bytes=", 10, None),
            ("bytes=-", 10, None),
            ("lines=0-1", 10, None),
            ("nonsense", 10, None),
        ] {
            assert_eq!(parse(range, size), expected, "{range} of {size}");
        }
    }
}
