//! Readers that take nothing: a stream that makes no progress for a while is cut, with its connection, since an
//! h2 stream that waits for its window cannot be reached otherwise.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// All streams that are open, looked at by one task.
pub(super) struct Watch {
    patience: Duration,
    began: Instant,
    streams: Mutex<Vec<Weak<Progress>>>,
}

struct Progress {
    /// Milliseconds since the watch began when the last frame was handed over; 0 while the stream itself waits.
    handed: AtomicU64,
    connection: CancellationToken,
}

impl Watch {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self { patience, began: Instant::now(), streams: Mutex::default() })
    }

    /// Looks at every stream now and then, until `closing`.
    pub(super) async fn run(self: Arc<Self>, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(self.patience / 12) => {}
            }
            let now = self.now();
            let patience = millis(self.patience);
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).retain(|stream| {
                let Some(stream) = stream.upgrade() else { return false };
                let handed = stream.handed.load(Ordering::Relaxed);
                if handed != 0 && now.saturating_sub(handed) >= patience {
                    stream.connection.cancel();
                }
                true
            });
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed()).max(1)
    }
}

/// Puts a streaming answer under watch; a whole one has its end already.
pub(super) fn guard(response: Response, watch: &Arc<Watch>, connection: &CancellationToken) -> Response {
    if http_body::Body::size_hint(response.body()).exact().is_some() {
        return response;
    }
    response.map(|body| {
        let progress = Arc::new(Progress { handed: AtomicU64::new(0), connection: connection.clone() });
        watch.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&progress));
        Body::new(Guarded { body, progress, watch: Arc::clone(watch) })
    })
}

struct Guarded {
    body: Body,
    progress: Arc<Progress>,
    watch: Arc<Watch>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let handed = if polled.is_ready() { self.watch.now() } else { 0 };
        self.progress.handed.store(handed, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
