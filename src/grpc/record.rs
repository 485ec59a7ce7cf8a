//! What the record of a request cannot know by itself: which RPC it is, and the status, which may stand in trailers.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use tonic::{Code as GrpcCode, Status};

use crate::requests::{Code, Record};

/// Every RPC of our own, as `package.Service/Method`.
const OWN: &[&str] = include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));
/// Those of the standard services.
const STANDARD: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Notes the RPC and its status. Inside of gRPC-Web, which has no trailers of its own.
pub(super) async fn note(request: Request, next: Next) -> Response {
    let Some(record) = request.extensions().get::<Record>().cloned() else { return next.run(request).await };
    let path = request.uri().path().trim_start_matches('/');
    if let Some(name) = OWN.iter().chain(&STANDARD).find(|name| **name == path) {
        record.set_route(*name);
    }
    let response = next.run(request).await;
    if let Some(status) = Status::from_header_map(response.headers()) {
        record.set_code(Code::Grpc(name(status.code())));
        return response;
    }
    response.map(|body| Body::new(Noted { body, record }))
}

/// An answer whose status is still to come.
struct Noted {
    body: Body,
    record: Record,
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            self.record.set_code(Code::Grpc(name(status.code())));
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

/// As the protocol's documents write it.
fn name(code: GrpcCode) -> &'static str {
    match code {
        GrpcCode::Ok => "OK",
        GrpcCode::Cancelled => "CANCELLED",
        GrpcCode::Unknown => "UNKNOWN",
        GrpcCode::InvalidArgument => "INVALID_ARGUMENT",
        GrpcCode::DeadlineExceeded => "DEADLINE_EXCEEDED",
        GrpcCode::NotFound => "NOT_FOUND",
        GrpcCode::AlreadyExists => "ALREADY_EXISTS",
        GrpcCode::PermissionDenied => "PERMISSION_DENIED",
        GrpcCode::ResourceExhausted => "RESOURCE_EXHAUSTED",
        GrpcCode::FailedPrecondition => "FAILED_PRECONDITION",
        GrpcCode::Aborted => "ABORTED",
        GrpcCode::OutOfRange => "OUT_OF_RANGE",
        GrpcCode::Unimplemented => "UNIMPLEMENTED",
        GrpcCode::Internal => "INTERNAL",
        GrpcCode::Unavailable => "UNAVAILABLE",
        GrpcCode::DataLoss => "DATA_LOSS",
        GrpcCode::Unauthenticated => "UNAUTHENTICATED",
    }
}
