//! What requests carry: bodies, queries and paths, with every rejection in our own words.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponseParts, ResponseParts},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    error::ApiError,
    shape::{NESTED, Shape},
};
use crate::domain::{Code, Error, IdempotencyKey, ReplyToken};

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Most bytes of a body, told to every request.
#[derive(Clone, Copy)]
pub(super) struct MaxBody(pub(super) usize);

/// A JSON body. Unknown fields are refused by the types themselves.
pub(super) struct Body<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct OptionalBody<T>(pub(super) T);

/// A query. Unknown parameters are refused by the types themselves.
pub(super) struct Query<T>(pub(super) T);

/// A path's variable part.
pub(super) struct Path<T>(pub(super) T);

/// No query parameters: any is refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(no_json().into());
        }
        parse(&read(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(no_json().into());
        }
        Ok(Self(parse::<Option<T>>(&bytes)?.unwrap_or_default()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// A query as it stands in a URL.
pub(super) fn query<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    let pairs = serde_urlencoded::Deserializer::new(url::form_urlencoded::parse(text.as_bytes()));
    let parsed = serde_path_to_error::deserialize(pairs);
    parsed.map_err(|error| field_error(&error.path().to_string(), &error.inner().to_string()).into())
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(path_error(&rejection).into()),
        }
    }
}

fn path_error(rejection: &PathRejection) -> Error {
    if let PathRejection::FailedToDeserializePathParams(failed) = rejection {
        match failed.kind() {
            ErrorKind::ParseErrorAtKey { key, value, .. } => {
                return Error::field(key, format!("is no number in range: {value:?}"));
            }
            ErrorKind::InvalidUtf8InPathParam { key } => return Error::field(key, "is not UTF-8"),
            // What is left are mistakes of ours in the type of a path.
            _ => {}
        }
    }
    Error::new(Code::InvalidArgument, rejection.body_text())
}

fn no_json() -> Error {
    Error::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json")
}

fn over_the_limit() -> Error {
    Error::new(Code::TooLarge, "the body is over the limit of this server (OPENCODE_MAX_BODY_BYTES)")
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Error::new(Code::UnsupportedMediaType, "send the body as it is, without Content-Encoding").into());
    }
    // Before anything is read: a client that waits for leave to send is spared it.
    let length = http_body::Body::size_hint(request.body()).lower();
    if request.extensions().get::<MaxBody>().is_some_and(|max| length > max.0 as u64) {
        return Err(over_the_limit().into());
    }
    match tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE => Err(over_the_limit().into()),
        Ok(Err(rejection)) => Err(Error::new(Code::InvalidArgument, rejection.body_text()).into()),
        Err(_) => Err(Error::new(Code::InvalidArgument, format!("the body did not come within {BODY_TIME:?}")).into()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Error::new(Code::InvalidArgument, "the body is a list; an object is wanted").into());
    }
    // What else is wrong with it, the type itself says best.
    if let Err(error) = serde_json::from_slice::<Shape>(bytes)
        && error.to_string().starts_with(NESTED)
    {
        return Err(Error::new(Code::InvalidArgument, error.to_string()).into());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| field_error(&error.path().to_string(), &error.inner().to_string()))?;
    json.end()
        .map_err(|error| Error::new(Code::InvalidArgument, format!("the body is not one JSON value: {error}")))?;
    Ok(value)
}

/// Names the field: serde names an unknown one in its message, and the path leads to its parent.
fn field_error(path: &str, message: &str) -> Error {
    let quoted = |prefix: &str| {
        let rest = &message[message.find(prefix)? + prefix.len()..];
        rest.split('`').next().map(str::to_owned)
    };
    let named = quoted("unknown field `").or_else(|| quoted("missing field `")).or_else(|| quoted("duplicate field `"));
    let field = match (path, named) {
        ("." | "?" | "", None) => {
            return Error::new(Code::InvalidArgument, format!("the request is not valid: {message}"));
        }
        ("." | "?" | "", Some(name)) => name,
        (path, Some(name)) if path.rsplit('.').next() == Some(name.as_str()) => path.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
        (path, None) => path.to_owned(),
    };
    Error::field(field, message)
}

/// The key by which a request may be sent again.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::field(NAME, "is there more than once").into());
    }
    // What is no text is no key either.
    let text = value.to_str().unwrap_or_default();
    Ok(Some(IdempotencyKey::parse(NAME, text)?))
}

/// Says of an answer that it was given before.
pub(super) struct Replayed(pub(super) bool);

impl IntoResponseParts for Replayed {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        if self.0 {
            parts.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        Ok(parts)
    }
}

/// What a client shows to answer permission requests or to loosen the mode.
pub(super) fn reply_token(headers: &HeaderMap) -> Option<ReplyToken> {
    let value = headers.get("x-reply-token")?;
    Some(ReplyToken::new(String::from_utf8_lossy(value.as_bytes()).into_owned()))
}
