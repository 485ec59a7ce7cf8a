//! `/raw`: files as their bytes, of any size, streamed both ways. This door alone has it: gRPC has messages, and
//! `ReadFile` reads in pieces.

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, BodyDataStream},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    error::{ApiError, Problem, Result},
    extract::{NoParams, Query},
    file::{DeleteFileParams, conditions, etag, name, written},
    range::{Piece, piece},
};
use crate::domain::{Code, DeleteFile, Error, FileInfo, FileWritten, OpenCode, RawFile, WriteRaw};

/// What RFC 8187 lets stand as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// Bytes of a refused upload that are taken all the same, and how long that may take.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// How long an upload may send nothing.
#[derive(Clone, Copy)]
pub(super) struct Stall(pub(super) Duration);

/// How a file is written.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteRawParams {
    /// Make the directories that are missing.
    create_dirs: Option<bool>,
}

/// The bytes of a file, whole or a piece.
///
/// Never content-encoded. A single range of bytes is honoured, also one from the end; more than one are answered by the
/// whole file. If the file becomes shorter while it is sent, the connection is broken off.
#[utoipa::path(get, path = "/raw/{*path}", tag = "files", params(
    ("path" = String, Path, description = "Path relative to the workspace; names that are not UTF-8 by their percent-encoded bytes"),
    ("Range" = Option<String>, Header, description = "`bytes=0-99`, `bytes=100-` or `bytes=-100`"),
    ("If-Range" = Option<String>, Header, description = "The range is meant for this etag or date; else the whole file comes"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "Etags that the client has: 304 if one is right"),
    ("If-Modified-Since" = Option<String>, Header, description = "304 if it has not changed since then"),
    ("If-Unmodified-Since" = Option<String>, Header, description = "412 if it has changed since then"),
), responses(
    (status = 200, description = "The file", body = String, content_type = "*/*", headers(
        ("ETag" = String, description = "Tag of the whole content"), ("Last-Modified" = String), ("Accept-Ranges" = String),
        ("Content-Disposition" = String))),
    (status = 206, description = "The piece", body = String, content_type = "*/*", headers(("Content-Range" = String), ("ETag" = String))),
    (status = 304, description = "The client has it"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read_raw(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    _: Query<NoParams>,
) -> Result<Response> {
    let file = domain.read_raw(name(&uri, "/raw/"), conditions(&headers)?).await?;
    Ok(answer(&file, &headers, true))
}

/// What `GET` would say of a file, without its bytes.
#[utoipa::path(head, path = "/raw/{*path}", tag = "files", params(
    ("path" = String, Path, description = "Path relative to the workspace; names that are not UTF-8 by their percent-encoded bytes"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "Etags that the client has: 304 if one is right"),
), responses(
    (status = 200, description = "The file is there", headers(
        ("ETag" = String, description = "Tag of the content"), ("Content-Length" = u64), ("Last-Modified" = String))),
    (status = 304, description = "The client has it"),
    (status = "default", description = "An error, without a body", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn head_raw(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    _: Query<NoParams>,
) -> Result<Response> {
    let file = domain.read_raw(name(&uri, "/raw/"), conditions(&headers)?).await?;
    // HTTP has ranges for GET alone.
    Ok(answer(&file, &HeaderMap::new(), false))
}

/// Writes a file of any size as a whole, all or nothing, from the bytes of the body.
///
/// The content's type is not looked at. An upload that breaks off leaves nothing.
#[utoipa::path(put, path = "/raw/{*path}", tag = "files", params(WriteRawParams,
    ("path" = String, Path, description = "Path relative to the workspace; names that are not UTF-8 by their percent-encoded bytes"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "`*`: the file must not exist. Or etags that it must not have"),
), request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The file as it is now", body = FileInfo, headers(("ETag" = String, description = "Its new tag"))),
    (status = 201, description = "The file, which did not exist before", body = FileInfo, headers(("ETag" = String, description = "Its tag"))),
    (status = "default", description = "An error; nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn write_raw(
    State(domain): State<OpenCode>,
    Extension(Stall(patience)): Extension<Stall>,
    uri: Uri,
    Query(params): Query<WriteRawParams>,
    request: Request,
) -> Result<Response> {
    let headers = request.headers();
    plain(headers)?;
    let wish = WriteRaw {
        path: name(&uri, "/raw/"),
        size: http_body::Body::size_hint(request.body()).exact(),
        create_dirs: params.create_dirs.unwrap_or(false),
        conditions: conditions(headers)?,
    };
    // Who asked first whether to send at all sends nothing that has to be taken.
    let asked = headers.contains_key(header::EXPECT);
    let mut bytes = request.into_body().into_data_stream();
    let taken = receive(&domain, wish, &mut bytes, patience).await;
    if taken.is_err() && !asked {
        // Many clients look at the answer only when they have sent all: with the connection closed in the middle they
        // would not learn what was wrong.
        let _ = tokio::time::timeout(LINGER, discard(&mut bytes)).await;
    }
    Ok(written(taken?))
}

async fn receive(
    domain: &OpenCode,
    wish: WriteRaw,
    bytes: &mut BodyDataStream,
    patience: Duration,
) -> Result<FileWritten> {
    let mut upload = domain.write_raw(wish).await?;
    loop {
        match tokio::time::timeout(patience, bytes.next()).await {
            Ok(Some(Ok(bytes))) => upload.write(&bytes).await?,
            Ok(Some(Err(error))) => {
                return Err(Error::new(Code::InvalidArgument, format!("the body broke off: {error}")).into());
            }
            Ok(None) => return Ok(upload.finish().await?),
            Err(_) => {
                let detail = format!("nothing of the body came within {patience:?}");
                return Err(Error::new(Code::InvalidArgument, detail).into());
            }
        }
    }
}

/// Takes what is sent and keeps none of it, up to a bound.
async fn discard(bytes: &mut BodyDataStream) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(bytes)) = bytes.next().await {
        match left.checked_sub(bytes.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// Deletes a file, a link itself, or a directory, also one whose name is not UTF-8.
#[utoipa::path(delete, path = "/raw/{*path}", tag = "files", params(DeleteFileParams,
    ("path" = String, Path, description = "Path relative to the workspace; names that are not UTF-8 by their percent-encoded bytes"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "Etags that the file must not have"),
), responses(
    (status = 204, description = "It is gone"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn delete_raw(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<DeleteFileParams>,
) -> Result<StatusCode> {
    let (path, conditions) = (name(&uri, "/raw/"), conditions(&headers)?);
    domain.delete_file(DeleteFile { path, recursive: params.recursive.unwrap_or(false), conditions }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses a body that is not the file as it is to be: compressed, or a piece.
fn plain(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Error::field("Content-Range", "a piece cannot be written: send the whole file").into());
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let detail = "send the bytes of the file without a Content-Encoding";
            Err(Error::new(Code::UnsupportedMediaType, detail).into())
        }
        Some(_) | None => Ok(()),
    }
}

fn answer(file: &RawFile, headers: &HeaderMap, with_body: bool) -> Response {
    let info = &file.file_info;
    let same = [
        (header::CACHE_CONTROL, Some(HeaderValue::from_static("no-cache"))),
        (header::LAST_MODIFIED, http_date(info.modified_at)),
        (header::ACCEPT_RANGES, Some(HeaderValue::from_static("bytes"))),
    ];
    let mut response = if file.not_modified {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match piece(headers, info.size, info.etag.as_deref().unwrap_or_default(), info.modified_at) {
            Piece::Whole => content(file, StatusCode::OK, (0, info.size), with_body),
            Piece::From(first, length) => content(file, StatusCode::PARTIAL_CONTENT, (first, length), with_body),
            Piece::Nowhere => {
                let detail = format!("{:?} has {} bytes, none of which are in the range", info.path, info.size);
                let mut refused = ApiError(Error::new(Code::RangeNotSatisfiable, detail)).into_response();
                set(&mut refused, header::CONTENT_RANGE, &format!("bytes */{}", info.size));
                refused
            }
        }
    };
    for (name, value) in same {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().extend(etag(info));
    response
}

fn content(file: &RawFile, status: StatusCode, (first, length): (u64, u64), with_body: bool) -> Response {
    let info = &file.file_info;
    let body = if with_body { Body::from_stream(file.bytes(first, length)) } else { Body::empty() };
    let mut response = (status, body).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length.saturating_sub(1);
        set(&mut response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{}", info.size));
    }
    let mime = info.mime_type.as_deref().unwrap_or("application/octet-stream");
    let charset = if mime.starts_with("text/") { "; charset=utf-8" } else { "" };
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(&mut response, header::CONTENT_TYPE, &format!("{mime}{charset}"));
    set(&mut response, header::CONTENT_DISPOSITION, &disposition(&info.path, mime));
    // What a user or a model wrote must not act as a page of this server.
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut response, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Shown where that does no harm, else saved; and under which name.
fn disposition(path: &str, mime: &str) -> String {
    let kind = mime.split('/').next().unwrap_or_default();
    let is_shown = ["image", "audio", "video"].contains(&kind)
        || ["text/plain", "application/json", "application/pdf"].contains(&mime);
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_ ".contains(c) { c } else { '_' }).collect();
    let how = if is_shown { "inline" } else { "attachment" };
    if plain == name {
        return format!("{how}; filename=\"{name}\"");
    }
    // For clients of before RFC 8187 first, and as it is for all others.
    format!("{how}; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NAME))
}

fn http_date(at: Timestamp) -> Option<HeaderValue> {
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()?;
    HeaderValue::from_str(&text).ok()
}
