//! Errors as gRPC statuses with rich details; also those that tonic itself makes.

use std::collections::HashMap;

use axum::{extract::Request, middleware::Next, response::Response};
use tonic::{
    Code as GrpcCode, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::{Code, Cursor, Error};

const DOMAIN: &str = "opencode.v1";

/// The status of each code: the one table of this door.
fn grpc_code(code: Code) -> GrpcCode {
    match code {
        Code::InvalidArgument | Code::IdempotencyKeyReused => GrpcCode::InvalidArgument,
        Code::Unauthenticated => GrpcCode::Unauthenticated,
        Code::PermissionDenied => GrpcCode::PermissionDenied,
        Code::NotFound => GrpcCode::NotFound,
        Code::MethodNotAllowed | Code::NotAcceptable | Code::UnsupportedMediaType | Code::Unimplemented => {
            GrpcCode::Unimplemented
        }
        Code::AgentBusy | Code::StaleTurn | Code::AlreadyResolved | Code::NoModel | Code::PatchIncomplete => {
            GrpcCode::FailedPrecondition
        }
        Code::AlreadyExists => GrpcCode::AlreadyExists,
        Code::PreconditionFailed | Code::InProgress => GrpcCode::Aborted,
        Code::TooLarge | Code::RangeNotSatisfiable => GrpcCode::OutOfRange,
        Code::Internal => GrpcCode::Internal,
        Code::Unavailable => GrpcCode::Unavailable,
        Code::InsufficientStorage | Code::RateLimited => GrpcCode::ResourceExhausted,
    }
}

/// The status of an error that ends a unary call; [`finish`] adds the request's id.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(&error, "", MetadataMap::new())
    }
}

/// The status of an error in the middle of a stream, with the place to resume from.
pub(super) fn in_stream(error: &Error, request_id: &str, cursor: Cursor) -> Status {
    let mut metadata = MetadataMap::new();
    insert_cursor(&mut metadata, cursor);
    status(error, request_id, metadata)
}

/// The place up to which an answer holds.
pub(super) fn insert_cursor(metadata: &mut MetadataMap, cursor: Cursor) {
    if let Ok(value) = MetadataValue::try_from(cursor.to_string()) {
        metadata.insert("event-cursor", value);
    }
}

fn status(error: &Error, request_id: &str, metadata: MetadataMap) -> Status {
    let code = error.code();
    if let Some(cause) = error.cause() {
        tracing::error!(code = code.as_str(), %cause, "a call failed");
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(code.as_str().to_uppercase(), DOMAIN, info(request_id, code.retryable()));
    for bad in error.fields() {
        details.add_bad_request_violation(&bad.field, &bad.message);
    }
    if let Some(after) = error.retry_after_hint() {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details_and_metadata(grpc_code(code), error.detail(), details, metadata)
}

fn info(request_id: &str, retryable: bool) -> HashMap<String, String> {
    let mut info = HashMap::from([("retryable".to_owned(), retryable.to_string())]);
    if !request_id.is_empty() {
        info.insert("request_id".into(), request_id.into());
    }
    info
}

/// Gives every failed call its details and the request's id, whoever made the status.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != GrpcCode::Ok)
    else {
        return response;
    };
    whole(&in_words(status, &path), &id).into_http()
}

/// The id of a call, which every layer above has agreed on.
pub(super) fn request_id(request: &Request) -> String {
    request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

/// The status with details and the request's id.
pub(super) fn whole(status: &Status, id: &str) -> Status {
    let mut details = status.get_error_details();
    let (reason, retryable) = match details.error_info() {
        Some(known) => (known.reason.clone(), known.metadata.get("retryable").is_some_and(|value| value == "true")),
        None => foreign(status.code()),
    };
    details.set_error_info(reason, DOMAIN, info(id, retryable));
    let metadata = status.metadata().clone();
    Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
}

/// What tonic says of a method that a service does not have (nothing), and of bytes that are no message (our fault).
fn in_words(status: Status, path: &str) -> Status {
    match status.code() {
        GrpcCode::Unimplemented if status.message().is_empty() => super::no_method(path),
        GrpcCode::Internal if status.message().starts_with("failed to decode Protobuf message") => {
            Status::invalid_argument(status.message())
        }
        _ => status,
    }
}

/// The reason of a status that tonic made.
fn foreign(code: GrpcCode) -> (String, bool) {
    let code = match code {
        GrpcCode::InvalidArgument => Code::InvalidArgument,
        GrpcCode::NotFound => Code::NotFound,
        GrpcCode::OutOfRange => Code::TooLarge,
        GrpcCode::Unauthenticated => Code::Unauthenticated,
        GrpcCode::PermissionDenied => Code::PermissionDenied,
        GrpcCode::Unimplemented => Code::Unimplemented,
        GrpcCode::Unavailable => Code::Unavailable,
        GrpcCode::DeadlineExceeded => return ("DEADLINE_EXCEEDED".into(), true),
        GrpcCode::Ok
        | GrpcCode::Cancelled
        | GrpcCode::Unknown
        | GrpcCode::AlreadyExists
        | GrpcCode::ResourceExhausted
        | GrpcCode::FailedPrecondition
        | GrpcCode::Aborted
        | GrpcCode::Internal
        | GrpcCode::DataLoss => Code::Internal,
    };
    (code.as_str().to_uppercase(), code.retryable())
}
