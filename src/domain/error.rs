//! What a caller may see of a failure, and the cause that only the log sees.

use std::{error::Error as StdError, fmt, time::Duration};

/// What went wrong, as far as a caller can act on it. The doors map each code once, in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Malformed, out of range, an unknown field or model.
    InvalidArgument,
    /// There is no such thing.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// Nothing that the caller accepts can be given.
    NotAcceptable,
    /// The body is of a type that is not taken here.
    UnsupportedMediaType,
    /// No token, or one that is not good.
    Unauthenticated,
    /// A path leads out of the workspace, or a right is missing.
    PermissionDenied,
    /// A turn runs.
    AgentBusy,
    /// Another turn runs than the one that was named.
    StaleTurn,
    /// It was answered before.
    AlreadyResolved,
    /// No model is configured.
    NoModel,
    /// A file or directory is in the way.
    AlreadyExists,
    /// What the request depends on is not so; the detail has what is.
    PreconditionFailed,
    /// The first request with this key is still at work.
    InProgress,
    /// Another request had this key.
    IdempotencyKeyReused,
    /// A patch would lack something.
    PatchIncomplete,
    /// Over a limit, which the detail names.
    TooLarge,
    /// The piece that was asked for begins behind the end.
    RangeNotSatisfiable,
    /// A fault of ours.
    Internal,
    /// The operation is not served yet.
    Unimplemented,
    /// Too often.
    RateLimited,
    /// Not now; later it may work.
    Unavailable,
    /// The disk is full; nothing was left half-written.
    InsufficientStorage,
}

impl Code {
    /// The code as it stands in problem documents and, in upper case, in gRPC's ErrorInfo.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAcceptable => "not_acceptable",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::AgentBusy => "agent_busy",
            Self::StaleTurn => "stale_turn",
            Self::AlreadyResolved => "already_resolved",
            Self::NoModel => "no_model",
            Self::AlreadyExists => "already_exists",
            Self::PreconditionFailed => "precondition_failed",
            Self::InProgress => "in_progress",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::PatchIncomplete => "patch_incomplete",
            Self::TooLarge => "too_large",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::Internal => "internal",
            Self::Unimplemented => "unimplemented",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::InsufficientStorage => "insufficient_storage",
        }
    }

    /// Whether the same request may succeed later, unchanged.
    pub fn retryable(self) -> bool {
        match self {
            Self::AgentBusy | Self::InProgress | Self::RateLimited | Self::Unavailable | Self::InsufficientStorage => {
                true
            }
            Self::InvalidArgument
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NotAcceptable
            | Self::UnsupportedMediaType
            | Self::Unauthenticated
            | Self::PermissionDenied
            | Self::StaleTurn
            | Self::AlreadyResolved
            | Self::NoModel
            | Self::AlreadyExists
            | Self::PreconditionFailed
            | Self::IdempotencyKeyReused
            | Self::PatchIncomplete
            | Self::TooLarge
            | Self::RangeNotSatisfiable
            | Self::Internal
            | Self::Unimplemented => false,
        }
    }
}

/// A field of a request that is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `parts[0].text`.
    pub field: String,
    /// What is wrong with it, in lower case.
    pub message: String,
}

/// An error that a caller may see. The cause is for the log alone: nothing here displays it.
#[derive(Debug)]
pub struct Error {
    code: Code,
    detail: String,
    fields: Vec<FieldError>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// Most bytes of a detail.
const MAX_DETAIL: usize = 1000;
/// Most bytes of a field's path.
const MAX_FIELD: usize = 200;

/// What the verbs of the domain answer.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of that code; `detail` says in lower case what the caller can do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        // What a caller sent may be quoted here, and that may be megabytes; gRPC carries this in a header.
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        Self { code, detail, fields: Vec::new(), retry_after: None, cause: None }
    }

    /// A fault of ours: the caller is told no more than that, the log gets the cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(Code::Internal, "the server failed; its log has the cause under this request id")
        }
    }

    /// A bad field of the request.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (mut field, mut message) = (field.into(), message.into());
        field.truncate(field.floor_char_boundary(MAX_FIELD));
        message.truncate(message.floor_char_boundary(MAX_DETAIL));
        let detail = format!("{field}: {message}");
        Self { fields: vec![FieldError { field, message }], ..Self::new(Code::InvalidArgument, detail) }
    }

    /// The same error, if the caller is at fault and nothing is named yet, as one of this field. The words stay.
    pub fn of_field(mut self, field: &str) -> Self {
        if self.code == Code::InvalidArgument && self.fields.is_empty() {
            self.fields.push(FieldError { field: field.to_owned(), message: self.detail.clone() });
        }
        self
    }

    /// The same error of something inside the request: `path` is then `parts[0].path`.
    pub fn inside(mut self, parent: &str) -> Self {
        for bad in &mut self.fields {
            let field = format!("{parent}.{}", bad.field);
            if let Some(words) = self.detail.strip_prefix(&bad.field) {
                self.detail = format!("{field}{words}");
            }
            bad.field = field;
        }
        self
    }

    /// The same error, of which that field is the reason.
    pub fn about(mut self, field: impl Into<String>) -> Self {
        self.fields.push(FieldError { field: field.into(), message: self.detail.clone() });
        self
    }

    /// Nothing of that kind has this name.
    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {kind} \"{name}\""))
    }

    /// The same error with the time after which asking again makes sense.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened and what the caller can do, in lower case.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The bad fields, if the request was at fault.
    pub fn fields(&self) -> &[FieldError] {
        &self.fields
    }

    /// When to ask again, where that is known.
    pub fn retry_after_hint(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The cause, for the log and nobody else.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync)> {
        self.cause.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for Error {}
