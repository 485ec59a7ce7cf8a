//! Reading a file as one answer.

use std::{
    fs::File,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    time::Duration,
};

use super::{Conditions, Current, Encoding, FileInfo};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    part::json_len,
    workspace::{Facts, HEAD, PathError, RelativePath, Workspace, blocking},
};

/// Bytes that content may have in an answer, so that no answer is over 3 MiB.
const MAX_ANSWER_BYTES: u64 = 3 * 1024 * 1024 - 16 * 1024;
/// Times that a file is read again which changes while it is read.
const TRIES: usize = 4;

/// Which file is wanted, or which piece of it.
#[derive(Clone, Debug, Default)]
pub struct ReadFile {
    /// Its path.
    pub path: Vec<u8>,
    /// How the content is to be written; by content if absent: `utf-8` where the bytes are that.
    pub encoding: Option<Encoding>,
    /// Bytes to skip, 0 if absent.
    pub offset: Option<i64>,
    /// Bytes to read at most; to the end if absent.
    pub length: Option<i64>,
    /// What must be so.
    pub conditions: Conditions,
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct FileContent {
    /// The content; `None` if the client has it already.
    pub text: Option<FileText>,
    /// The whole file, also where only a piece was read.
    pub file_info: FileInfo,
}

/// Content, by the way that it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileText {
    /// Text.
    Utf8(String),
    /// Bytes, which are to be written as base64 where only text can be.
    Base64(Vec<u8>),
}

impl OpenCode {
    /// Reads a file of the workspace, or a piece of it.
    ///
    /// `invalid_argument`: it is no regular file, or `utf-8` was asked for and the bytes are something else.
    /// `too_large`: the answer would be over 3 MiB. `range_not_satisfiable`: the offset is behind the end.
    pub async fn read_file(&self, wish: ReadFile) -> Result<FileContent> {
        let number = |field, value: Option<i64>| match value.map(u64::try_from).transpose() {
            Ok(value) => Ok(value),
            Err(_) => Err(Error::field(field, "must not be negative")),
        };
        let (offset, length) = (number("offset", wish.offset)?.unwrap_or(0), number("length", wish.length)?);
        let checks = wish.conditions.checks()?;
        let workspace = self.0.workspace.clone();
        blocking(move || {
            let path = workspace.for_client_bytes(&wish.path)?;
            let file = workspace.open_file(&path)?;
            for _ in 0..TRIES {
                let (info, is_same) = info(&workspace, &path, &file)?;
                let etag = || Ok(info.etag.clone());
                let current = Current { etag: &etag, modified_at: info.modified_at };
                if !checks.permit_read(&info.path, &current)? {
                    return Ok(FileContent { text: None, file_info: info });
                }
                let fail = |error| PathError::io(&path, error);
                let content = piece(&info, offset, length, |at, buffer| read_at(&file, at, buffer).map_err(fail))?;
                // Content and tag are of one state of the file.
                if is_same(&file.metadata().map_err(fail)?) {
                    return Ok(FileContent { text: Some(text(content, wish.encoding)?), file_info: info });
                }
            }
            let detail = format!("{:?} changes all the time: try again", path.to_string());
            Err(Error::new(Code::Unavailable, detail).retry_after(Duration::from_secs(1)))
        })
        .await
    }
}

/// What is known of an open file, and a test for its being still the same.
pub(super) fn info(
    workspace: &Workspace,
    path: &RelativePath,
    file: &File,
) -> Result<(FileInfo, impl Fn(&std::fs::Metadata) -> bool + use<>)> {
    let (etag, metadata) = workspace.tag_of(path, file)?;
    let mut head = vec![0; HEAD.min(usize::try_from(metadata.len()).unwrap_or(HEAD))];
    let read = read_at(file, 0, &mut head).map_err(|error| PathError::io(path, error))?;
    head.truncate(read);
    let facts = Facts::of_file(path.as_path(), &metadata, &head);
    let info = FileInfo::new(path.as_path().as_os_str().as_bytes(), facts, Some(etag));
    let figures = |data: &std::fs::Metadata| (data.size(), data.mtime(), data.mtime_nsec());
    let then = figures(&metadata);
    Ok((info, move |now: &std::fs::Metadata| figures(now) == then))
}

fn piece(
    info: &FileInfo,
    offset: u64,
    length: Option<u64>,
    read: impl Fn(u64, &mut [u8]) -> std::result::Result<usize, PathError>,
) -> Result<Vec<u8>> {
    let Some(rest) = info.size.checked_sub(offset) else {
        let detail = format!("offset {offset} is behind the end of {:?}, which has {} bytes", info.path, info.size);
        return Err(Error::new(Code::RangeNotSatisfiable, detail));
    };
    let wanted = length.map_or(rest, |length| length.min(rest));
    if wanted > MAX_ANSWER_BYTES {
        return Err(too_large(wanted));
    }
    let mut content = vec![0; usize::try_from(wanted).unwrap_or(0)];
    let read = read(offset, &mut content)?;
    content.truncate(read);
    Ok(content)
}

fn text(content: Vec<u8>, encoding: Option<Encoding>) -> Result<FileText> {
    let text = match (String::from_utf8(content), encoding) {
        (Ok(text), Some(Encoding::Utf8) | None) => FileText::Utf8(text),
        (Ok(text), Some(Encoding::Base64)) => FileText::Base64(text.into_bytes()),
        (Err(bytes), Some(Encoding::Base64) | None) => FileText::Base64(bytes.into_bytes()),
        (Err(error), Some(Encoding::Utf8)) => {
            let at = error.utf8_error().valid_up_to();
            return Err(Error::field("encoding", format!("the bytes are not utf-8 (at byte {at}): take base64")));
        }
    };
    let size = match &text {
        FileText::Utf8(text) => json_len(text),
        FileText::Base64(bytes) => bytes.len().div_ceil(3) * 4,
    };
    if size as u64 > MAX_ANSWER_BYTES { Err(too_large(size as u64)) } else { Ok(text) }
}

fn too_large(bytes: u64) -> Error {
    let detail = format!(
        "the answer would have {bytes} bytes, over the limit of {MAX_ANSWER_BYTES}: read it in pieces with offset and \
         length, or as bytes under /raw"
    );
    Error::new(Code::TooLarge, detail)
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
