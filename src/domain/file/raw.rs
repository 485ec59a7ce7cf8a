//! Files of any size, as streams of bytes: no more than a piece is in memory.

use std::{fs::File, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use super::{
    Checks, Conditions, Current, FileInfo, FileWritten,
    read::{info, read_at},
};
use crate::domain::{
    OpenCode,
    error::{Error, Result},
    workspace::{Incoming, RelativePath, blocking},
};

/// Bytes that are read at a time; a slow reader costs the server no more than a few of these.
const PIECE: usize = 64 * 1024;
/// Bytes that are gathered before they are written.
const BATCH: usize = 512 * 1024;

/// A file that is open, of which everything that is told holds for the very content that is read.
pub struct RawFile {
    /// What it is.
    pub file_info: FileInfo,
    /// The client has it already, as its conditions say.
    pub not_modified: bool,
    file: Arc<File>,
}

/// A file of any size that is to be written.
#[derive(Clone, Debug, Default)]
pub struct WriteRaw {
    /// Its path.
    pub path: Vec<u8>,
    /// Its size in bytes, if that is known beforehand.
    pub size: Option<u64>,
    /// Make the directories that are missing.
    pub create_dirs: bool,
    /// What must be so, at the beginning and at the end.
    pub conditions: Conditions,
}

/// A file on its way in. Dropped before it is finished, it leaves nothing.
pub struct Upload {
    domain: OpenCode,
    path: RelativePath,
    create_dirs: bool,
    checks: Checks,
    gathered: BytesMut,
    incoming: Option<Incoming>,
}

impl OpenCode {
    /// Opens a file of the workspace to read it as bytes.
    pub async fn read_raw(&self, path: Vec<u8>, conditions: Conditions) -> Result<RawFile> {
        let checks = conditions.checks()?;
        let workspace = self.0.workspace.clone();
        blocking(move || {
            let path = workspace.for_client_bytes(&path)?;
            let file = workspace.open_file(&path)?;
            let (file_info, _) = info(&workspace, &path, &file)?;
            let etag = || Ok(file_info.etag.clone());
            let current = Current { etag: &etag, modified_at: file_info.modified_at };
            let not_modified = !checks.permit_read(&file_info.path, &current)?;
            Ok(RawFile { file_info, not_modified, file: Arc::new(file) })
        })
        .await
    }

    /// Begins to write a file of the workspace; refused at once where it could not be finished as things are. Errors as
    /// of `write_file`.
    pub async fn write_raw(&self, wish: WriteRaw) -> Result<Upload> {
        let WriteRaw { path, size, create_dirs, conditions } = wish;
        self.check_file_size(size.unwrap_or(0))?;
        self.0.store.refuse_when_full()?;
        let path = self.0.workspace.for_client_bytes(&path)?;
        let checks = conditions.checks()?;
        let begin = {
            let (workspace, path, checks) = (self.0.workspace.clone(), path.clone(), checks.clone());
            blocking(move || workspace.begin(&path, create_dirs, &checks))
        };
        let incoming = Some(begin.await?);
        Ok(Upload { domain: self.clone(), path, create_dirs, checks, gathered: BytesMut::new(), incoming })
    }
}

impl RawFile {
    /// The bytes from `start` on, `length` of them. A file that has become shorter ends the stream with an error, so
    /// that nobody takes what came for the whole.
    pub fn bytes(&self, start: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        stream::unfold((Arc::clone(&self.file), start, length), |(file, at, left)| async move {
            if left == 0 {
                return None;
            }
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let reading = Arc::clone(&file);
            let piece = blocking(move || {
                let mut piece = vec![0; wanted];
                let read = read_at(&reading, at, &mut piece)?;
                if read < wanted { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(Bytes::from(piece)) }
            });
            // After an error nothing more is asked for.
            Some(match piece.await {
                Ok(piece) => (Ok(piece), (file, at + wanted as u64, left - wanted as u64)),
                Err(error) => (Err(error), (file, at, 0)),
            })
        })
    }
}

impl Upload {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.incoming.as_ref().map_or(0, Incoming::size);
        self.domain.check_file_size(written + (self.gathered.len() + bytes.len()) as u64)?;
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= BATCH { self.store().await } else { Ok(()) }
    }

    /// Puts the file in its place, if the conditions hold still.
    pub async fn finish(mut self) -> Result<FileWritten> {
        self.store().await?;
        self.domain.0.store.refuse_when_full()?;
        let Some(incoming) = self.incoming.take() else { return Err(broken()) };
        let (domain, path, create_dirs, checks) =
            (self.domain.clone(), self.path.clone(), self.create_dirs, self.checks.clone());
        // Whoever leaves now leaves no half of it.
        self.domain
            .to_the_end(async move {
                let (workspace, named) = (domain.0.workspace.clone(), path.clone());
                let written = blocking(move || workspace.finish(&path, create_dirs, &checks, incoming)).await?;
                Ok(domain.written(&named, written).await)
            })
            .await
    }

    async fn store(&mut self) -> Result<()> {
        let Some(mut incoming) = self.incoming.take() else { return Err(broken()) };
        let (bytes, path) = (self.gathered.split(), self.path.clone());
        let stored = blocking(move || incoming.write(&path, &bytes).map(|()| incoming)).await?;
        self.incoming = Some(stored);
        Ok(())
    }
}

/// An earlier piece could not be written, and the caller went on all the same.
fn broken() -> Error {
    Error::internal("an upload went on after it had failed")
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            // Deleting what was written may take a while. Where the runtime ends, it is done here.
            drop(tokio::task::spawn_blocking(move || drop(incoming)));
        }
    }
}
