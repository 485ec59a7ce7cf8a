//! `grpc-timeout`: under axum nobody keeps it but us. It runs over the whole call, streams included; what it ends is
//! the client's view, never a turn. One that cannot be read is refused: the protocol says nothing of it, and to wait
//! without a limit is not what the caller has asked for.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    middleware::Next,
    response::Response,
};
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::error;
use crate::domain::Error;

/// The header that carries it.
const NAME: &str = "grpc-timeout";

/// Ends the call when its time is up.
pub(super) async fn keep(request: Request, next: Next) -> Response {
    let Some(header) = request.headers().get(NAME) else { return next.run(request).await };
    let Some(time) = header.to_str().ok().and_then(parse) else {
        return Status::from(Error::field(NAME, "is at most eight digits and one of H, M, S, m, u, n")).into_http();
    };
    let deadline = Instant::now() + time;
    let request_id = error::request_id(&request);
    match tokio::time::timeout_at(deadline, next.run(request)).await {
        Ok(response) => response.map(|body| {
            let deadline = Box::pin(tokio::time::sleep_until(deadline));
            Body::new(Timed { body, deadline, request_id, over: false })
        }),
        Err(_) => exceeded().into_http(),
    }
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the call's own deadline has passed; a turn that it began goes on")
}

/// At most eight digits and a unit, as the protocol has it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

struct Timed {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    request_id: String,
    over: bool,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            self.over = true;
            let mut trailers = HeaderMap::new();
            // Only a message that is no header value could fail, and ours is one.
            let _ = error::whole(&exceeded(), &self.request_id).add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_protocol_allows() {
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
