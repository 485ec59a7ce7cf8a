//! Writes down each request: from its first byte here to the last one of its answer, stream or not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use tracing::Instrument;

use crate::{
    grpc::{self, Form},
    requests::{Code, Counts, Door, Record},
};

/// Gives the request its record and its span. Behind what makes request ids, before all else.
pub(super) async fn keep(State(counts): State<Counts>, mut request: Request, next: Next) -> Response {
    let door = match grpc::form(&request) {
        Some(Form::Grpc) => Door::Grpc,
        Some(Form::Web) => Door::GrpcWeb,
        None | Some(Form::Other) => Door::Rest,
    };
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (request_id, traceparent, method) =
        (text("x-request-id"), text("traceparent"), method(request.method().as_str()));
    let span = tracing::info_span!("request", method, request_id, traceparent);
    tracing::debug!(parent: &span, path = request.uri().path(), "a request came");
    let record = Record::new(counts, request_id, door, method);
    request.extensions_mut().insert(record.clone());
    let response = next.run(request).instrument(span).await;
    // Of a call only its own status counts, which may come at the end of the stream.
    if !record.is_call() || !response.status().is_success() {
        record.set_code(Code::Http(response.status().as_u16()));
    }
    if http_body::Body::size_hint(response.body()).exact().is_some() {
        return response;
    }
    response.map(|body| Body::new(Recorded { body, _record: record }))
}

/// Methods that somebody here has made up are one.
fn method(name: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == name).unwrap_or("other")
}

/// A stream whose end is the end of its request.
struct Recorded {
    body: Body,
    _record: Record,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
