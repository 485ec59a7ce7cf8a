//! Writing and deleting files.

use std::{os::unix::ffi::OsStrExt, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{Conditions, FileInfo};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    snapshot::Take,
    version::VersionCause,
    workspace::{RelativePath, Written, blocking},
};

/// A file that is to be written as a whole.
#[derive(Clone, Debug)]
pub struct WriteFile {
    /// Its path.
    pub path: Vec<u8>,
    /// What is to be in it.
    pub content: NewContent,
    /// Make the directories that are missing.
    pub create_dirs: bool,
    /// What must be so.
    pub conditions: Conditions,
}

/// What is to be in a file.
#[derive(Clone, Debug)]
pub enum NewContent {
    /// This text.
    Utf8(String),
    /// The bytes that this base64 stands for.
    Base64(String),
    /// These bytes.
    Bytes(Bytes),
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWritten {
    /// The file as it is now.
    pub file_info: FileInfo,
    /// Whether it did not exist before.
    pub created: bool,
}

/// A file or directory that is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteFile {
    /// Its path.
    pub path: Vec<u8>,
    /// A directory with all that is in it.
    pub recursive: bool,
    /// What must be so.
    pub conditions: Conditions,
}

/// How long an answer waits for the version of what was changed.
const VERSION_WAIT: Duration = Duration::from_secs(2);

impl OpenCode {
    /// Writes a file of the workspace as a whole, all or nothing, and syncs it. An existing file keeps its mode; through
    /// a link its target is written.
    ///
    /// `not_found`: its directory is missing and `create_dirs` is not set. `already_exists`: a directory is in the way,
    /// or a file is where a directory is needed. `precondition_failed`: a condition does not hold. `too_large`: over
    /// the limit for files. `insufficient_storage`: the disk of the workspace or of the log is full, and the old content is
    /// there as it was.
    pub async fn write_file(&self, wish: WriteFile) -> Result<FileWritten> {
        let WriteFile { path, content, create_dirs, conditions } = wish;
        let content = match content {
            NewContent::Utf8(text) => Bytes::from(text),
            NewContent::Bytes(bytes) => bytes,
            NewContent::Base64(text) => {
                let bytes = STANDARD.decode(text);
                bytes.map_err(|error| Error::field("content", format!("is not base64: {error}")))?.into()
            }
        };
        self.check_file_size(content.len() as u64)?;
        self.0.store.refuse_when_full()?;
        let path = self.0.workspace.for_client_bytes(&path)?;
        let checks = conditions.checks()?;
        let domain = self.clone();
        // Whoever leaves now leaves no half of it.
        self.to_the_end(async move {
            let (workspace, named) = (domain.0.workspace.clone(), path.clone());
            let written = blocking(move || {
                let mut incoming = workspace.begin(&path, create_dirs, &checks)?;
                incoming.write(&path, &content)?;
                workspace.finish(&path, create_dirs, &checks, incoming)
            });
            Ok(domain.written(&named, written.await?).await)
        })
        .await
    }

    /// Deletes a file of the workspace, a link itself, or a directory.
    ///
    /// `already_exists`: the directory is not empty and `recursive` is not set. `permission_denied`: it is the workspace
    /// itself, lies in a `.git`, or is a directory with a `.git`, or anything that cannot be read, anywhere in it.
    /// `insufficient_storage`: the log takes no event that could tell of it.
    pub async fn delete_file(&self, wish: DeleteFile) -> Result<()> {
        let DeleteFile { path, recursive, conditions } = wish;
        if path.is_empty() || path == b"." {
            return Err(Error::new(Code::PermissionDenied, "the workspace itself is not deleted"));
        }
        self.0.store.refuse_when_full()?;
        let path = self.0.workspace.for_client_bytes(&path)?;
        let checks = conditions.checks()?;
        let domain = self.clone();
        self.to_the_end(async move {
            let workspace = domain.0.workspace.clone();
            let changed = blocking(move || workspace.delete(&path, recursive, &checks)).await?;
            domain.file_changed(changed).await;
            Ok(())
        })
        .await
    }

    /// What every verb that has written does then.
    pub(super) async fn written(&self, path: &RelativePath, written: Written) -> FileWritten {
        let Written { canonical, facts, etag, created } = written;
        self.file_changed(canonical).await;
        let file_info = FileInfo::new(path.as_path().as_os_str().as_bytes(), facts, Some(etag));
        FileWritten { file_info, created }
    }

    /// The one place that every change by a client comes through, right after it was made: it becomes a version. It is
    /// called in a task that runs to its end even if the client has left.
    async fn file_changed(&self, canonical: PathBuf) {
        let take = Take { paths: Some(vec![canonical]), ..Take::new(VersionCause::Write) };
        // Where a long look is under way, the version follows by itself.
        if let Ok(Err(error)) = tokio::time::timeout(VERSION_WAIT, self.take_and_record(take)).await {
            tracing::warn!(error = %error, cause = ?error.cause(), "what a client changed has no version");
        }
    }

    /// Whether a file may have so many bytes.
    pub(super) fn check_file_size(&self, bytes: u64) -> Result<()> {
        let limit = self.0.settings.max_file_bytes;
        if bytes > limit {
            return Err(Error::new(
                Code::TooLarge,
                format!("a file may have at most {limit} bytes here (OPENCODE_MAX_FILE_BYTES)"),
            ));
        }
        Ok(())
    }
}
