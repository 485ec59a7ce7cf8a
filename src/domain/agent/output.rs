//! A command's output on its way to those who watch: bounded in size and rate, without ever slowing the command.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::act::Board;
use crate::domain::error::Error;

/// Most bytes of one delta.
const DELTA: usize = 16 * 1024;
/// At most one delta in this time.
const PACE: Duration = Duration::from_millis(50);
/// Most bytes that are shown of one call.
const TOTAL: usize = 1024 * 1024;

/// Shows what comes until the tool has ended. What is more than the bounds allow is dropped here: the result has
/// its own rules for what is kept.
pub(super) async fn show(board: &Board, index: usize, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), Error> {
    let mut waiting: Vec<u8> = Vec::new();
    let (mut taken, mut cut) = (0, false);
    let mut next = Instant::now();
    loop {
        tokio::select! {
            piece = pieces.recv() => {
                let Some(piece) = piece else { break };
                let room = TOTAL - taken;
                cut |= piece.len() > room;
                let kept = &piece[..piece.len().min(room)];
                taken += kept.len();
                waiting.extend_from_slice(kept);
            }
            () = tokio::time::sleep_until(next), if whole(&waiting, DELTA) > 0 => {
                emit(board, index, &mut waiting, false).await?;
                next = Instant::now() + PACE;
            }
        }
    }
    // The tool has ended: one last delta, and what does not fit into it is in the result.
    if !waiting.is_empty() || cut {
        let more = cut || waiting.len() > DELTA;
        emit(board, index, &mut waiting, more).await?;
    }
    Ok(())
}

async fn emit(board: &Board, index: usize, waiting: &mut Vec<u8>, truncated: bool) -> Result<(), Error> {
    let end = match whole(waiting, DELTA) {
        0 => waiting.len().min(DELTA),
        end => end,
    };
    let text: Vec<u8> = waiting.drain(..end).collect();
    board.grew(index, String::from_utf8_lossy(&text).into_owned(), truncated).await
}

/// Bytes at the beginning, at most `limit`, that do not end inside a character.
fn whole(bytes: &[u8], limit: usize) -> usize {
    let window = &bytes[..bytes.len().min(limit)];
    match std::str::from_utf8(window) {
        Ok(_) => window.len(),
        // Only an unfinished last character waits for its rest; bytes that are no UTF-8 at all do not.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            let tail = window.len().saturating_sub(4);
            (tail..window.len())
                .rev()
                .find(|start| window[*start] >= 0xc0)
                .filter(|start| std::str::from_utf8(&window[*start..]).is_err_and(|error| error.error_len().is_none()))
                .unwrap_or(window.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn a_split_character_waits_and_garbage_does_not() {
        assert_eq!(whole("aé".as_bytes(), 2), 1);
        assert_eq!(whole("aé".as_bytes(), 9), 3);
        assert_eq!(whole(b"a\xff\xfe", 9), 3);
        assert_eq!(whole(b"a\xffb\xc3", 9), 3);
        assert_eq!(whole(b"", 9), 0);
    }
}
