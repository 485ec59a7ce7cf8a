//! A command's output on its way to those who watch: bounded in size and rate, without ever slowing the command.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// Most bytes of one delta.
const DELTA: usize = 16 * 1024;
/// At most one delta in this time.
const PACE: Duration = Duration::from_millis(50);
/// Most bytes that are shown of one call.
const TOTAL: usize = 1024 * 1024;

/// What has come and was not shown yet.
#[derive(Default)]
struct Waiting {
    text: String,
    /// The beginning of a character whose rest has not come.
    unfinished: Vec<u8>,
    /// Bytes of text that were taken.
    taken: usize,
    /// More has come than may be shown.
    cut: bool,
}

/// Shows what comes until the tool is `over`, by `grew`, which gets the text and whether some of it is missing. What is
/// more than the bounds allow is dropped here: the result has its own rules for what is kept.
pub(super) async fn show<E, F: Future<Output = Result<(), E>>>(
    mut pieces: mpsc::Receiver<Bytes>,
    over: &CancellationToken,
    grew: impl Fn(String, bool) -> F,
) -> Result<(), E> {
    let mut waiting = Waiting::default();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            Some(piece) = pieces.recv() => waiting.take(&piece),
            // Not the end of all senders: a thread that hangs may have one for ever.
            () = over.cancelled() => break,
            () = tokio::time::sleep_until(next), if !waiting.text.is_empty() => {
                grew(waiting.next(), false).await?;
                next = Instant::now() + PACE;
            }
        }
    }
    while let Ok(piece) = pieces.try_recv() {
        waiting.take(&piece);
    }
    waiting.finish();
    // One last delta, and what does not fit into it is in the result.
    if !waiting.text.is_empty() || waiting.cut {
        let text = waiting.next();
        grew(text, waiting.cut || !waiting.text.is_empty()).await?;
    }
    Ok(())
}

impl Waiting {
    /// Takes bytes as text, where what is no UTF-8 becomes U+FFFD, as far as there is room.
    fn take(&mut self, piece: &[u8]) {
        let mut bytes = std::mem::take(&mut self.unfinished);
        bytes.extend_from_slice(piece);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push(chunk.valid());
            let garbage = chunk.invalid();
            let is_last = chunks.peek().is_none();
            if is_last && std::str::from_utf8(garbage).is_err_and(|error| error.error_len().is_none()) {
                self.unfinished = garbage.to_vec();
            } else if !garbage.is_empty() {
                self.push("\u{fffd}");
            }
        }
    }

    fn push(&mut self, text: &str) {
        let room = if self.cut { 0 } else { TOTAL - self.taken };
        let kept = &text[..text.floor_char_boundary(room)];
        self.cut |= kept.len() < text.len();
        self.taken += kept.len();
        self.text.push_str(kept);
    }

    /// Nothing more comes.
    fn finish(&mut self) {
        if !std::mem::take(&mut self.unfinished).is_empty() {
            self.push("\u{fffd}");
        }
    }

    /// Takes out what one delta holds.
    fn next(&mut self) -> String {
        let rest = self.text.split_off(self.text.floor_char_boundary(DELTA));
        std::mem::replace(&mut self.text, rest)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready, sync::Mutex};

    use super::*;

    /// All that is shown of these pieces, where the tool ends when they were sent and its sender never goes.
    async fn shown(pieces: &[&[u8]]) -> String {
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            sender.send(Bytes::copy_from_slice(piece)).await.expect("room");
        }
        let over = CancellationToken::new();
        over.cancel();
        let all = Mutex::new(String::new());
        let grew = |text: String, _| {
            all.lock().expect("no panic").push_str(&text);
            ready(Ok::<(), Infallible>(()))
        };
        let _ = tokio::time::timeout(Duration::from_secs(10), show(receiver, &over, grew)).await.expect("it ends");
        drop(sender);
        all.into_inner().expect("no panic")
    }

    #[tokio::test]
    async fn it_ends_with_the_tool_whoever_still_has_its_sender() {
        assert_eq!(shown(&[]).await, "");
        assert_eq!(shown(&[b"a", b"b"]).await, "ab");
    }

    #[tokio::test]
    async fn a_split_character_waits_and_garbage_does_not() {
        assert_eq!(shown(&[b"a\xc3", b"\xa9b"]).await, "aéb");
        assert_eq!(shown(&[b"a\xff\xfe"]).await, "a\u{fffd}\u{fffd}");
        assert_eq!(shown(&[b"a\xffb\xc3"]).await, "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn the_bounds_are_of_the_text_and_not_of_the_bytes() {
        let mut waiting = Waiting::default();
        for _ in 0..100 {
            waiting.take(&[0xff; 16 * 1024]);
        }
        assert!(waiting.cut && waiting.taken <= TOTAL && waiting.taken > TOTAL - 3);
        // What would fit behind a hole is not shown either.
        let taken = waiting.taken;
        waiting.take(b"a");
        assert_eq!(waiting.taken, taken);
        let mut sizes = Vec::new();
        while !waiting.text.is_empty() {
            sizes.push(waiting.next().len());
        }
        assert!(sizes.iter().all(|size| (1..=DELTA).contains(size)), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), waiting.taken);
    }
}
