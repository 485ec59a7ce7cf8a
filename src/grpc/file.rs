//! The RPCs of files, and their conversions.

use tonic::{Response, Status};

use super::{
    Result,
    message::page_query,
    pb,
    session::{signed, text, time, with_cursor},
};
use crate::domain::{
    Conditions, DeleteFile, Encoding, Error, FileContent, FileInfo, FileText, FileWritten, List, ListFiles, NewContent,
    OpenCode, PageQuery, ReadFile, WriteFile,
};

pub(super) async fn list_files(domain: &OpenCode, wish: pb::ListFilesRequest) -> Result<pb::ListFilesResponse> {
    let pb::ListFilesRequest {
        path,
        recursive,
        patterns,
        exclude_patterns,
        exclude_hidden,
        include_ignored,
        pagination,
    } = wish;
    let PageQuery { limit, offset, cursor, order: _ } = page_query(pagination);
    if offset.is_some_and(|offset| offset != 0) {
        return Err(Error::field("offset", "files are listed by cursor").into());
    }
    let wish =
        ListFiles { path, recursive, patterns, exclude_patterns, exclude_hidden, include_ignored, limit, cursor };
    let List { items, pagination, as_of } = domain.list_files(wish).await?;
    let answer = pb::ListFilesResponse {
        files: items.into_iter().map(Into::into).collect(),
        pagination: Some(pagination.into()),
        as_of: as_of.to_string(),
        as_of_seq: as_of.seq,
    };
    Ok(with_cursor(answer, as_of))
}

pub(super) async fn read_file(domain: &OpenCode, wish: pb::ReadFileRequest) -> Result<pb::ReadFileResponse> {
    let pb::ReadFileRequest { path, encoding, offset, length, if_match, if_none_match } = wish;
    let wish = ReadFile {
        path: path.into_bytes(),
        encoding: Encoding::parse(&encoding)?,
        offset: Some(offset),
        length,
        conditions: conditions(if_match, if_none_match),
    };
    let FileContent { text, file_info } = domain.read_file(wish).await?;
    let file_info = Some(file_info.into());
    let not_modified = text.is_none();
    let (content, data, encoding) = match text {
        None => (String::new(), Vec::new(), String::new()),
        Some(FileText::Utf8(text)) => (text, Vec::new(), Encoding::Utf8.as_str().to_owned()),
        Some(FileText::Base64(bytes)) => (String::new(), bytes, Encoding::Base64.as_str().to_owned()),
    };
    Ok(Response::new(pb::ReadFileResponse { content, file_info, data: data.into(), encoding, not_modified }))
}

pub(super) async fn write_file(domain: &OpenCode, wish: pb::WriteFileRequest) -> Result<pb::WriteFileResponse> {
    let pb::WriteFileRequest { path, content, create_dirs, data, encoding, if_match, if_none_match } = wish;
    let encoding = Encoding::parse(&encoding)?;
    let content = match (data.is_empty(), encoding) {
        (false, _) if !content.is_empty() => {
            return Err(Error::field("data", "cannot be combined with content").into());
        }
        (false, _) => NewContent::Bytes(data),
        (true, Some(Encoding::Base64)) => NewContent::Base64(content),
        (true, Some(Encoding::Utf8) | None) => NewContent::Utf8(content),
    };
    let conditions = conditions(if_match, if_none_match);
    let written = domain.write_file(WriteFile { path: path.into_bytes(), content, create_dirs, conditions }).await?;
    let FileWritten { file_info, created } = written;
    Ok(Response::new(pb::WriteFileResponse { file_info: Some(file_info.into()), created }))
}

pub(super) async fn delete_file(domain: &OpenCode, wish: pb::DeleteFileRequest) -> Result<()> {
    let pb::DeleteFileRequest { path, recursive, if_match, if_none_match } = wish;
    let conditions = conditions(if_match, if_none_match);
    domain.delete_file(DeleteFile { path: path.into_bytes(), recursive, conditions }).await.map_err(Status::from)?;
    Ok(Response::new(()))
}

fn conditions(if_match: String, if_none_match: String) -> Conditions {
    Conditions { if_match: text(if_match), if_none_match: text(if_none_match), ..Conditions::default() }
}

impl From<FileInfo> for pb::FileInfo {
    fn from(file: FileInfo) -> Self {
        let FileInfo { path, is_directory, size, modified_at, mime_type, etag, mode, symlink_target, addressable } =
            file;
        Self {
            path,
            is_directory,
            size: signed(size),
            modified_at: Some(time(modified_at)),
            mime_type: mime_type.unwrap_or_default().into_owned(),
            etag: etag.unwrap_or_default(),
            mode: Some(mode),
            symlink_target,
            addressable: Some(addressable),
        }
    }
}
