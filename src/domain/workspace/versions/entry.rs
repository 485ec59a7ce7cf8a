//! What is in one directory: its names, and a file of it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use git2::IndexEntry;
use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::{
    super::{figures::Figures, rules::Rules, temporary},
    Lack, LackReason,
    content::{self, Read},
    crew::Shared,
    manifest::{File, Kind},
    objects::{Keeper, MAX_STORED},
    seed::Seed,
};

/// The names in a directory that can belong to a version or lead to what does, and whether it is a repository.
pub(super) fn names(dir: &OwnedFd) -> Result<(Vec<(OsString, FileType)>, bool), Errno> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let (mut found, mut is_repository) = (Vec::new(), false);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        is_repository |= name == b".git";
        if name == b"." || name == b".." || name.eq_ignore_ascii_case(b".git") {
            continue;
        }
        if temporary::is_one(name) {
            if temporary::is_left(name) {
                // Of a server that was killed. It is nobody's, and would be shown in listings for good.
                let _ = rustix::fs::unlinkat(dir, entry.file_name(), AtFlags::empty());
            }
            continue;
        }
        match entry.file_type() {
            FileType::Directory | FileType::RegularFile | FileType::Symlink | FileType::Unknown => {
                found.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
            _ => {}
        }
    }
    Ok((found, is_repository))
}

impl Shared<'_> {
    /// A file as it is now, and whether it is as it was. None if it is gone or unknown.
    pub(super) fn file(
        &self,
        keeper: &Keeper<'_>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        old: Option<&File>,
        (rules, seed): (Option<&Rules>, Option<(&Seed, &[IndexEntry])>),
    ) -> io::Result<Option<(File, bool)>> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // The directory shows its names and no more.
            Err(Errno::ACCESS | Errno::PERM) => {
                self.lacks(Lack::file(path.as_os_str().as_bytes().to_vec(), LackReason::Unreadable));
                return Ok(None);
            }
            Err(_) => return Ok(None),
        };
        let Some(kind) = Kind::of(&stat) else { return Ok(None) };
        self.note_link(|| path.to_owned(), &stat);
        if let Some(old) = old.filter(|old| old.is_as(&stat)) {
            return Ok(Some((*old, true)));
        }
        if let Some((seed, below)) = seed
            && let Some(file) = seed.file(below, keeper, path, kind, &stat, rules)
        {
            return Ok(Some((file, false)));
        }
        if kind != Kind::Link && Figures::of(&stat).size > MAX_STORED {
            // That it is not in what was found so far makes its directory another one in any case.
            self.lock().late.push(path.as_os_str().as_bytes().to_vec());
            return Ok(None);
        }
        match content::read(keeper, dir, name, kind, self.scan.limits)? {
            Read::File(file) => {
                let unchanged = old.is_some_and(|old| (old.oid, old.kind) == (file.oid, file.kind));
                // New figures are kept, but make no new tree.
                let known = old.is_some_and(|old| old.figures == file.figures && old.racy == file.racy);
                Ok(Some((file, unchanged && known)))
            }
            Read::Gone => Ok(None),
            Read::Lacks(reason) => {
                self.lacks(Lack::file(path.as_os_str().as_bytes().to_vec(), reason));
                Ok(None)
            }
        }
    }
}
