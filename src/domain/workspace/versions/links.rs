//! Files with more than one name. Who writes through a name elsewhere is not heard of here: each look asks for their
//! figures, whatever was heard.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Stat};

use super::{crew::Shared, manifest::Dir, open_dir, watch::News};

/// Most files whose figures are asked for each time; where there are more, each look is at everything.
const MAX_LINKS: usize = 1000;

/// The files of a workspace that have other names.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Each with its inode: the same name may have become one of another file.
    paths: BTreeMap<Vec<u8>, u64>,
    /// There are more of them than are kept.
    too_many: bool,
}

impl Shared<'_> {
    /// Keeps a file that has other names.
    pub(super) fn note_link(&self, path: impl FnOnce() -> PathBuf, stat: &Stat) {
        if Links::is_one(stat) {
            self.lock().links.note(path().into_os_string().into_vec(), stat.st_ino);
        }
    }
}

impl Links {
    /// Whether a file has other names.
    pub(super) fn is_one(stat: &Stat) -> bool {
        stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
    }

    /// Keeps a file that has other names.
    pub(super) fn note(&mut self, path: Vec<u8>, inode: u64) {
        if self.paths.len() < MAX_LINKS || self.paths.contains_key(&path) {
            self.paths.insert(path, inode);
        } else {
            self.too_many = true;
        }
    }

    /// Whether there are more than can be asked for.
    pub(super) fn are_too_many(&self) -> bool {
        self.too_many
    }

    /// Whether these are all among them.
    pub(super) fn has_all(&self, others: &Self) -> bool {
        !others.too_many && others.paths.iter().all(|(path, inode)| self.paths.get(path) == Some(inode))
    }

    /// Keeps these too.
    pub(super) fn add(&mut self, others: Self) {
        self.too_many |= others.too_many;
        others.paths.into_iter().for_each(|(path, inode)| self.note(path, inode));
    }

    /// Adds those that were changed to what was heard of, and forgets those that have no other name any more.
    pub(super) fn ask(&mut self, root: BorrowedFd<'_>, known: &Dir, news: &mut News) {
        let mut open: Option<(PathBuf, Option<OwnedFd>)> = None;
        self.paths.retain(|bytes, _| {
            let path = Path::new(OsStr::from_bytes(bytes));
            let (Some(file), Some(dir), Some(name)) = (known.file(bytes), path.parent(), path.file_name()) else {
                return false;
            };
            // Those of one directory follow each other.
            let above = match &open {
                Some((last, above)) if last == dir => above,
                Some(_) | None => {
                    let above = open_dir(root, if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
                    &open.insert((dir.to_owned(), above)).1
                }
            };
            let stat = above.as_ref().map(|above| rustix::fs::statat(above.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW));
            let stat = stat.and_then(Result::ok);
            if stat.as_ref().is_none_or(|stat| !file.is_as(stat)) {
                news.dirty.insert(dir.as_os_str().as_bytes().to_vec());
            }
            stat.is_some_and(|stat| Self::is_one(&stat))
        });
    }
}
