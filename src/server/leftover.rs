//! Bodies that were not read to their end, since the request was refused before: an HTTP/1 connection has no next
//! request then, and its client is told so. In HTTP/2 the rest of the stream is reset, which some clients take for the
//! failure of the whole: what is short is read first.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::Response,
};
use futures_util::{FutureExt, StreamExt};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// Most bytes of a leftover that are read to save the connection, and only those that are there already.
const WORTH_READING: usize = 64 * 1024;

/// How long the rest of a short body is waited for.
const WORTH_WAITING: Duration = Duration::from_millis(500);

/// Adds `Connection: close` to an answer that was made before its request had been read, or reads what is short.
pub(super) async fn tell(request: Request, next: Next) -> Response {
    if http_body::Body::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let is_http1 = request.version() <= Version::HTTP_11;
    // A client that waits for leave to send has nothing on its way that could be read.
    let waits = request.headers().contains_key(header::EXPECT);
    let (back, mut left) = oneshot::channel();
    let request = request.map(|body| Body::new(Watched { body, back: Some(back) }));
    let mut response = next.run(request).await;
    // Nothing here: it was read, or somebody still reads it.
    let Ok(body) = left.try_recv() else { return response };
    if !is_http1 {
        // Whether it ended or not is its client's affair.
        let _ = tokio::time::timeout(WORTH_WAITING, read(body)).await;
    } else if waits || read(body).now_or_never() != Some(true) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether an answer says that its request was not read to the end.
pub(super) fn is_told(response: &Response) -> bool {
    response.headers().get(header::CONNECTION).is_some_and(|value| value == "close")
}

/// Reads the rest if it is not much; answers whether that was all of it.
async fn read(body: Body) -> bool {
    let mut rest = body.into_data_stream();
    let mut read = 0;
    while let Some(piece) = rest.next().await {
        match piece {
            Ok(bytes) => read += bytes.len(),
            Err(_) => return false,
        }
        if read > WORTH_READING {
            return false;
        }
    }
    true
}

/// A body that comes back when it is dropped before its end.
struct Watched {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.back = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(back) = self.back.take().filter(|_| !http_body::Body::is_end_stream(&self.body)) {
            // Who has answered without waiting for this does not want it.
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}
