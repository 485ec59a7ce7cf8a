//! What the file system says of a file, and what kind of content it has.

use std::{borrow::Cow, fs::Metadata, os::unix::fs::MetadataExt, path::Path};

use jiff::Timestamp;
use rustix::fs::{FileType, Stat};

use super::mime_type;

/// Bytes from the beginning of a file by which its kind is told.
pub(crate) const HEAD: usize = 8 * 1024;

/// What the system says of a file or directory.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub is_directory: bool,
    /// In bytes; 0 for what is neither a file nor a link.
    pub size: u64,
    pub modified_at: Timestamp,
    /// The permission bits.
    pub mode: u32,
    /// `None` for a directory.
    pub mime_type: Option<Cow<'static, str>>,
}

impl Facts {
    /// Of something in a directory, told by its name.
    pub(super) fn of_entry(path: &Path, stat: &Stat) -> Self {
        let kind = FileType::from_raw_mode(stat.st_mode);
        // The names that file managers have for these.
        let mime_type = match kind {
            FileType::Directory => None,
            FileType::RegularFile => Some(by_name(path)),
            FileType::Symlink => Some("inode/symlink"),
            FileType::Fifo => Some("inode/fifo"),
            FileType::Socket => Some("inode/socket"),
            FileType::CharacterDevice => Some("inode/chardevice"),
            FileType::BlockDevice => Some("inode/blockdevice"),
            FileType::Unknown => Some("application/octet-stream"),
        };
        let sized = matches!(kind, FileType::RegularFile | FileType::Symlink);
        Self {
            is_directory: kind == FileType::Directory,
            size: if sized { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            modified_at: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            mode: stat.st_mode & 0o7777,
            mime_type: mime_type.map(Cow::Borrowed),
        }
    }

    /// Of a file that was opened or written, told by its name and the first [`HEAD`] bytes of its content.
    pub(crate) fn of_file(path: &Path, metadata: &Metadata, head: &[u8]) -> Self {
        let whole = head.len() < HEAD;
        // The last character may have been cut.
        let cut = match std::str::from_utf8(head) {
            Err(error) if !whole && error.error_len().is_none() => &head[..error.valid_up_to()],
            Ok(_) | Err(_) => head,
        };
        Self {
            is_directory: false,
            size: metadata.len(),
            modified_at: time(metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode() & 0o7777,
            mime_type: Some(mime_type(path, cut).into()),
        }
    }
}

/// The MIME type that a name claims; nothing is read.
fn by_name(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        // Here these are TypeScript, and no video.
        Some("ts" | "mts" | "cts" | "tsx") => "text/plain",
        Some(_) | None => mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream"),
    }
}

fn time(seconds: i64, nanos: i64) -> Timestamp {
    // Years that no calendar has are shown as the nearest one.
    let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).unwrap_or(nearest)
}
