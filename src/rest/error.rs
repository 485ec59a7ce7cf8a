//! Errors as problem documents (RFC 9457): one envelope for everything that the router answers.

use std::any::Any;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Code, Error};

/// An error of the domain on its way out.
pub(super) struct ApiError(pub(super) Error);

/// What handlers answer.
pub(super) type Result<T> = std::result::Result<T, ApiError>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// A problem document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:opencode:problem:<code>`.
    #[serde(rename = "type")]
    problem_type: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do about it.
    detail: String,
    /// The code.
    code: &'static str,
    /// The request's id, under which the server's log knows more.
    request_id: String,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField>,
}

/// A field of the request that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ProblemField {
    /// Its path, such as `parts[0].text`.
    field: String,
    /// What is wrong with it.
    message: String,
}

/// The status of each code: the one table of this door.
pub(super) fn status(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "The request is not valid"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "A token is needed"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "This is not allowed"),
        Code::NotFound => (StatusCode::NOT_FOUND, "There is no such thing"),
        Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "The path has no such method"),
        Code::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "Nothing that Accept takes can be given"),
        Code::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body's type is not taken here"),
        Code::AgentBusy => (StatusCode::CONFLICT, "A turn runs"),
        Code::StaleTurn => (StatusCode::CONFLICT, "Another turn runs"),
        Code::AlreadyResolved => (StatusCode::CONFLICT, "It was answered before"),
        Code::NoModel => (StatusCode::CONFLICT, "No model is configured"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "Something is in the way"),
        Code::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "A condition does not hold"),
        Code::InProgress => (StatusCode::CONFLICT, "The first request with this key is still at work"),
        Code::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "Another request had this key"),
        Code::PatchIncomplete => (StatusCode::UNPROCESSABLE_ENTITY, "The patch would lack something"),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Over a limit"),
        Code::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, "There is no such piece"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "The server failed"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "Not served yet"),
        Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too often"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not now"),
        Code::InsufficientStorage => (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        if let Some(cause) = error.cause() {
            tracing::error!(code = error.code().as_str(), %cause, "a request failed");
        }
        let code = error.code();
        let (status, title) = status(code);
        let errors = error.fields().iter();
        let problem = Problem {
            problem_type: format!("urn:opencode:problem:{}", code.as_str()),
            title,
            status: status.as_u16(),
            detail: error.detail().to_owned(),
            code: code.as_str(),
            // Filled in where the answer leaves: a handler does not know it.
            request_id: String::new(),
            retryable: code.retryable(),
            errors: errors.map(|bad| ProblemField { field: bad.field.clone(), message: bad.message.clone() }).collect(),
        };
        let mut response = status.into_response();
        if let Some(after) = error.retry_after_hint() {
            response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if code == Code::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Writes the body of problems, with the request's id. Errors that the libraries make become problems here too.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = Json(Problem { request_id: id, ..problem }).into_response().into_body();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    Response::from_parts(parts, body)
}

/// A path that nothing serves.
pub(crate) fn unknown_path(path: &str) -> Response {
    let error = Error::new(Code::NotFound, format!("nothing is at {path}; /openapi.json and /docs have all paths"));
    ApiError(error).into_response()
}

/// A body of a type that is not taken.
pub(crate) fn unsupported_type(detail: &str) -> Response {
    ApiError(Error::new(Code::UnsupportedMediaType, detail)).into_response()
}

/// A path that only takes POST.
pub(crate) fn must_be_posted(path: &str) -> Response {
    let error = Error::new(Code::MethodNotAllowed, format!("{path} is a gRPC method, which is called by POST"));
    ([(header::ALLOW, HeaderValue::from_static("POST"))], ApiError(error)).into_response()
}

/// A path without such a method; the router adds `Allow`.
pub(super) async fn method_not_allowed(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} has no method {method}; the header Allow has those that it has");
    ApiError(Error::new(Code::MethodNotAllowed, detail)).into_response()
}

/// A handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    ApiError(Error::internal(format!("a handler panicked: {words}"))).into_response()
}
