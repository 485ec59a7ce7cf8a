//! Bringing files back: every content is looked for before the first file is touched, each file is replaced as a whole,
//! and what no version knows is left alone.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    super::{
        place::{Place, executable},
        temporary,
    },
    Versions,
    difference::Difference,
    manifest::Kind,
    open_above, open_dir,
};

/// What was done.
#[derive(Debug, Default)]
pub(in crate::domain) struct Restored {
    /// Files that are as they were.
    pub done: Vec<Vec<u8>>,
    /// Files that are not, and why in one word.
    pub skipped: Skipped,
}

/// Paths, and why they were skipped in one word.
pub(in crate::domain) type Skipped = Vec<(Vec<u8>, &'static str)>;

impl Versions {
    /// Sorts out which differences (from now to the version wanted) can be undone: the others are answered with the
    /// reason. Nothing is touched. Blocks.
    pub(in crate::domain) fn can_restore(&self, list: Vec<Difference>) -> io::Result<(Vec<Difference>, Skipped)> {
        let store = self.objects.store()?;
        let keeper = store.keeper(false)?;
        let manifest = std::sync::Arc::clone(&self.state().manifest);
        let mut skipped = Vec::new();
        let mut can = Vec::new();
        for found in list {
            let path = Path::new(OsStr::from_bytes(&found.path));
            let why = match (found.old, found.new) {
                (_, Some(side)) if !keeper.has(side.oid) => {
                    Some(if keeper.size(side.oid).is_some() { "too_large" } else { "gone" })
                }
                // What is there is in no version: it would be lost for good.
                (None, Some(_)) if !manifest.holds(&found.path) && self.is_there(path) && !self.is_hollow(path) => {
                    Some("ignored")
                }
                _ => None,
            };
            match why {
                Some(why) => skipped.push((found.path, why)),
                None => can.push(found),
            }
        }
        Ok((can, skipped))
    }

    fn is_hollow(&self, path: &Path) -> bool {
        open_above(self.root.as_fd(), path).is_some_and(|(above, name)| is_hollow(above.as_fd(), name, 0))
    }

    /// Undoes the differences. Blocks.
    pub(in crate::domain) fn restore(&self, list: &[Difference]) -> io::Result<Restored> {
        let store = self.objects.store()?;
        let keeper = store.keeper(false)?;
        let mut restored = Restored::default();
        // What goes makes room for what comes: a file for a directory of its name.
        let (come, go): (Vec<&Difference>, Vec<&Difference>) = list.iter().partition(|found| found.new.is_some());
        for found in go {
            match self.remove(Path::new(OsStr::from_bytes(&found.path))) {
                Ok(()) => restored.done.push(found.path.clone()),
                Err(error) => restored.skipped.push((found.path.clone(), reason(&error))),
            }
        }
        for found in come {
            let Some(side) = found.new else { continue };
            let outcome = match keeper.content(side.oid) {
                Some(content) => self.bring(Path::new(OsStr::from_bytes(&found.path)), side.mode, &content),
                None => Err(io::ErrorKind::NotFound.into()),
            };
            match outcome {
                Ok(()) => restored.done.push(found.path.clone()),
                Err(error) => restored.skipped.push((found.path.clone(), reason(&error))),
            }
        }
        Ok(restored)
    }

    /// Deletes a file, and the directories that are empty without it.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let Some((above, name)) = open_above(self.root.as_fd(), path) else { return Ok(()) };
        match rustix::fs::unlinkat(&above, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut here = path.parent();
        while let Some(dir) = here.filter(|dir| !dir.as_os_str().is_empty()) {
            let Some((above, name)) = open_above(self.root.as_fd(), dir) else { break };
            if rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            here = dir.parent();
        }
        Ok(())
    }

    /// Puts a file or link at a path, all or nothing.
    fn bring(&self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let above = self.make_above(path)?;
        let mut old = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        if old.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            && is_hollow(above.as_fd(), name, 0)
        {
            // Directories without a file are in no version, and nobody's loss.
            remove_hollow(above.as_fd(), name)?;
            old = None;
        }
        if mode == 0o120_000 {
            return link(&above, name, OsStr::from_bytes(content));
        }
        let is_executable = mode & 0o111 != 0;
        let place = Place::new(above, name.to_owned(), path.to_owned());
        let mut staged = place.stage()?;
        staged.write(content)?;
        if is_executable {
            staged.make_executable()?;
        }
        // The bits that git does not know stay.
        let old = old.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).map(|mut stat| {
            stat.st_mode = match (is_executable, Kind::of(&stat) == Some(Kind::Executable)) {
                (true, false) => executable(stat.st_mode),
                (false, true) => stat.st_mode & !0o111,
                (true, true) | (false, false) => stat.st_mode,
            };
            stat
        });
        place.put(staged, old.as_ref()).map(drop)
    }

    /// The directory for a path, made where it is missing; through no link.
    fn make_above(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut here = open_dir(self.root.as_fd(), Path::new(".")).ok_or(io::ErrorKind::NotFound)?;
        for part in path.parent().into_iter().flat_map(Path::components) {
            let name = part.as_os_str();
            match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            here = rustix::fs::openat(&here, name, flags, Mode::empty())?;
        }
        Ok(here)
    }
}

/// Makes a link, in the place of what is there.
fn link(above: &OwnedFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
    let temporary = temporary::name();
    rustix::fs::symlinkat(target, above, &temporary)?;
    let put = rustix::fs::renameat(above, &temporary, above, name);
    if put.is_err() {
        let _ = rustix::fs::unlinkat(above, &temporary, AtFlags::empty());
    }
    Ok(put?)
}

/// Directories below each other that are looked through for a file.
const MAX_DEPTH: usize = 64;

/// Whether there is nothing but directories in a directory.
fn is_hollow(above: BorrowedFd<'_>, name: &OsStr, depth: usize) -> bool {
    depth < MAX_DEPTH
        && folders(above, name).is_ok_and(|(dir, names)| {
            names.is_some_and(|names| names.iter().all(|name| is_hollow(dir.as_fd(), name, depth + 1)))
        })
}

/// Removes a directory of nothing but directories; one that is not empty after all stays.
fn remove_hollow(above: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (dir, names) = folders(above, name)?;
    for name in names.unwrap_or_default() {
        remove_hollow(dir.as_fd(), &name)?;
    }
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// The names in a directory; none where one of them is no directory.
fn folders(above: BorrowedFd<'_>, name: &OsStr) -> io::Result<(OwnedFd, Option<Vec<OsString>>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(above, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok((dir, None));
        }
        names.push(name.to_owned());
    }
    Ok((dir, Some(names)))
}

/// Why one file could not be brought back, in one word. On a full disk the others may still find room.
fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => "no_room",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "denied",
        io::ErrorKind::NotFound => "gone",
        _ => "in_the_way",
    }
}
