//! `/files`.

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use super::{
    access,
    error::{ApiError, Problem, Result},
    extract::{Body, Query, query},
    message::EventCursor,
};
use crate::domain::{
    Conditions, DeleteFile, Encoding, Error, FileContent, FileInfo, FileText, FileWritten, List, ListFiles, NewContent,
    OpenCode, Pagination, ReadFile, WriteFile,
};

/// A page of files.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FileList {
    /// The files, in the byte order of their paths.
    files: Vec<FileInfo>,
    /// Where the page stands; `total` is not counted and 0.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

/// A file that was read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FileContent)]
pub(super) struct Content {
    /// The content, as `encoding` says.
    content: String,
    /// `utf-8`: `content` is the text. `base64`: it stands for bytes.
    encoding: Encoding,
    /// The whole file, also where only a piece was read.
    file_info: FileInfo,
}

/// A file that is to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WriteFile)]
pub(super) struct NewFile {
    /// The content, as `encoding` says.
    content: String,
    /// `utf-8` (the default) or `base64`.
    #[schema(inline)]
    encoding: Option<Encoding>,
    /// Make the directories that are missing.
    create_dirs: Option<bool>,
}

/// Which files are wanted. The lists are taken out of the query by hand: they repeat their key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFilesParams {
    path: Option<String>,
    recursive: Option<bool>,
    exclude_hidden: Option<bool>,
    include_ignored: Option<bool>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Which piece of a file is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFileParams {
    /// `utf-8` or `base64`. Default: `utf-8` where the bytes are that.
    #[param(inline)]
    encoding: Option<Encoding>,
    /// Bytes to skip.
    #[param(minimum = 0)]
    offset: Option<i64>,
    /// Bytes to read at most. Default: to the end.
    #[param(minimum = 0)]
    length: Option<i64>,
}

/// What is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteFileParams {
    /// Delete a directory with all that is in it.
    pub(super) recursive: Option<bool>,
}

/// Lists the files of the workspace, in the byte order of their paths.
///
/// A list that is not recursive shows all; a recursive one leaves out `.git` and what git's ignore rules name. A page
/// may hold fewer than `limit`, since no answer is over 3 MiB: `pagination.has_more` tells whether there are more.
#[utoipa::path(get, path = "/files", tag = "files", params(
    ("path" = Option<String>, Query, description = "Directory to list, relative to the workspace. Default: the workspace"),
    ("recursive" = Option<bool>, Query, description = "List what is in its directories too, all the way down"),
    ("patterns" = Option<Vec<String>>, Query, description = "Globs relative to the workspace; a file is listed if any \
        matches. One without a slash holds at any depth. Repeat the key for more"),
    ("exclude_patterns" = Option<Vec<String>>, Query, description = "Globs; what any matches is left out, with all in it"),
    ("exclude_hidden" = Option<bool>, Query, description = "Leave out names that begin with a dot"),
    ("include_ignored" = Option<bool>, Query, description = "List also what ignore rules such as `.gitignore` name"),
    ("limit" = Option<i64>, Query, description = "1 to 10,000; zero or absent is 10,000", minimum = 0, maximum = 10000),
    ("cursor" = Option<String>, Query, description = "`pagination.next_cursor` of the page before"),
), responses(
    (status = 200, description = "A page", body = FileList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_files(State(domain): State<OpenCode>, uri: Uri) -> Result<(EventCursor, Json<FileList>)> {
    let wish = list_wish(uri.query().unwrap_or_default())?;
    let List { items, pagination, as_of } = domain.list_files(wish).await?;
    let list = FileList { files: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}

fn list_wish(text: &str) -> Result<ListFiles> {
    let (mut patterns, mut exclude_patterns) = (Vec::new(), Vec::new());
    let mut others = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match name.as_ref() {
            "patterns" => patterns.push(value.into_owned()),
            "exclude_patterns" => exclude_patterns.push(value.into_owned()),
            _ => drop(others.append_pair(&name, &value)),
        }
    }
    let ListFilesParams { path, recursive, exclude_hidden, include_ignored, limit, cursor } = query(&others.finish())?;
    Ok(ListFiles {
        path: path.unwrap_or_default(),
        recursive: recursive.unwrap_or(false),
        patterns,
        exclude_patterns,
        exclude_hidden: exclude_hidden.unwrap_or(false),
        include_ignored: include_ignored.unwrap_or(false),
        limit,
        cursor,
    })
}

/// Reads a file of the workspace, whole or a piece of it.
///
/// For bytes of any size: `GET /raw/{path}`. A piece that splits a character comes as `base64`, unless `utf-8` was asked
/// for, which is then refused.
#[utoipa::path(get, path = "/files/{*path}", tag = "files", params(ReadFileParams,
    ("path" = String, Path, description = "Path relative to the workspace; `/` in it may stand as it is"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "Etags that the client has: 304 if one is right"),
), responses(
    (status = 200, description = "The file", body = Content, headers(("ETag" = String, description = "Tag of the whole content"))),
    (status = 304, description = "The client has it"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read_file(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<ReadFileParams>,
) -> Result<Response> {
    let ReadFileParams { encoding, offset, length } = params;
    let path = text_name(&uri)?;
    let conditions = conditions(&headers)?;
    let FileContent { text, file_info } =
        domain.read_file(ReadFile { path, encoding, offset, length, conditions }).await?;
    let etag = etag(&file_info);
    let (content, encoding) = match text {
        None => return Ok((StatusCode::NOT_MODIFIED, etag).into_response()),
        Some(FileText::Utf8(text)) => (text, Encoding::Utf8),
        Some(FileText::Base64(bytes)) => (STANDARD.encode(bytes), Encoding::Base64),
    };
    Ok((etag, Json(Content { content, encoding, file_info })).into_response())
}

/// Writes a file of the workspace as a whole, all or nothing.
///
/// An existing file keeps its mode; through a link its target is written. For bytes of any size: `PUT /raw/{path}`.
#[utoipa::path(put, path = "/files/{*path}", tag = "files", request_body = NewFile, params(
    ("path" = String, Path, description = "Path relative to the workspace; `/` in it may stand as it is"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "`*`: the file must not exist. Or etags that it must not have"),
), responses(
    (status = 200, description = "The file as it is now", body = FileInfo, headers(("ETag" = String, description = "Its new tag"))),
    (status = 201, description = "The file, which did not exist before", body = FileInfo, headers(("ETag" = String, description = "Its tag"))),
    (status = "default", description = "An error; nothing was changed", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn write_file(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    _: Query<super::extract::NoParams>,
    Body(file): Body<NewFile>,
) -> Result<Response> {
    let NewFile { content, encoding, create_dirs } = file;
    let content = match encoding {
        Some(Encoding::Utf8) | None => NewContent::Utf8(content),
        Some(Encoding::Base64) => NewContent::Base64(content),
    };
    let (path, conditions) = (text_name(&uri)?, conditions(&headers)?);
    let wish = WriteFile { path, content, create_dirs: create_dirs.unwrap_or(false), conditions };
    Ok(written(domain.write_file(wish).await?))
}

/// Deletes a file, a link itself, or a directory of the workspace.
///
/// A directory that holds a `.git` anywhere is not deleted.
#[utoipa::path(delete, path = "/files/{*path}", tag = "files", params(DeleteFileParams,
    ("path" = String, Path, description = "Path relative to the workspace; `/` in it may stand as it is"),
    ("If-Match" = Option<String>, Header, description = "Etags that the file must have, or `*`"),
    ("If-None-Match" = Option<String>, Header, description = "Etags that the file must not have"),
), responses(
    (status = 204, description = "It is gone"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn delete_file(
    State(domain): State<OpenCode>,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<DeleteFileParams>,
) -> Result<StatusCode> {
    let (path, conditions) = (text_name(&uri)?, conditions(&headers)?);
    domain.delete_file(DeleteFile { path, recursive: params.recursive.unwrap_or(false), conditions }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What no wildcard takes: the list with a slash behind it.
pub(super) fn fixed() -> Router<OpenCode> {
    let needs = middleware::from_fn_with_state(access::of("list_files"), access::allow);
    Router::new().route("/files/", get(list_files).layer(needs))
}

/// What was written, as every route tells it.
pub(super) fn written(written: FileWritten) -> Response {
    let FileWritten { file_info, created } = written;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    (status, etag(&file_info), Json(file_info)).into_response()
}

/// The path behind a route's own part of the URL, decoded. Escapes that are none stand for themselves.
pub(super) fn name(uri: &Uri, route: &str) -> Vec<u8> {
    percent_decode_str(uri.path().strip_prefix(route).unwrap_or_default()).collect()
}

fn text_name(uri: &Uri) -> Result<Vec<u8>> {
    match String::from_utf8(name(uri, "/files/")) {
        Ok(name) => Ok(name.into_bytes()),
        Err(_) => Err(Error::field("path", "is not UTF-8: such a name is reached under /raw").into()),
    }
}

/// The tag as a header.
pub(super) fn etag(file: &FileInfo) -> [(HeaderName, HeaderValue); 1] {
    let quoted = format!("\"{}\"", file.etag.as_deref().unwrap_or_default());
    [(header::ETAG, HeaderValue::from_str(&quoted).unwrap_or(HeaderValue::from_static("\"\"")))]
}

/// The conditions that the headers name. Dates that are none are ignored, as HTTP has it.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Conditions> {
    Ok(Conditions {
        if_match: list(headers, "if-match")?,
        if_none_match: list(headers, "if-none-match")?,
        unmodified_since: date(headers, &header::IF_UNMODIFIED_SINCE),
        modified_since: date(headers, &header::IF_MODIFIED_SINCE),
    })
}

fn list(headers: &HeaderMap, name: &str) -> Result<Option<String>> {
    let mut lists = Vec::new();
    for value in headers.get_all(name) {
        lists.push(value.to_str().map_err(|_| ApiError(Error::field(name, "is not ASCII")))?);
    }
    Ok((!lists.is_empty()).then(|| lists.join(", ")))
}

/// A time that a header names.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    DateTimeParser::new().parse_timestamp(text).ok()
}
