//! Putting a file in its place, all or nothing: written beside it, synced, and then renamed over what was there.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
};

use super::temporary;
use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};

/// Where a file is or would be: a directory that is held open and a name in it.
pub(super) struct Place {
    parent: OwnedFd,
    name: OsString,
    /// The path below the root, without links and `..`.
    pub(super) canonical: PathBuf,
}

/// A file on its way in. It goes away unless it is put in a place.
pub(super) struct Staged {
    file: File,
    /// Its directory and its name there; `None` while it has no name, where the file system can do that.
    named: Option<(OwnedFd, String)>,
}

impl Place {
    pub(super) fn new(parent: OwnedFd, name: OsString, canonical: PathBuf) -> Self {
        Self { parent, name, canonical }
    }

    /// What is there now, a link not followed.
    pub(super) fn stat(&self) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file that is there, which is no link.
    pub(super) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty())?.into())
    }

    /// What is there as far as a file may take its place: nothing, or a regular file.
    pub(super) fn replaceable(&self) -> io::Result<Option<Stat>> {
        let old = self.stat()?;
        match old.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Some(FileType::RegularFile) | None => Ok(old),
            Some(FileType::Directory) => Err(Errno::ISDIR.into()),
            // A link that took the name just now counts as special too: it was judged as none.
            Some(_) => Err(Errno::NXIO.into()),
        }
    }

    /// Begins a file that is to be put here.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        // Without a name it is in nobody's listing, and gone even after a kill.
        match rustix::fs::openat(&self.parent, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => return Ok(Staged { file: file.into(), named: None }),
            // File systems that have none, and kernels of which some layer has none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let name = temporary::name();
        let parent = self.parent.try_clone()?;
        let file = rustix::fs::openat(&parent, &name, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
        Ok(Staged { file: file.into(), named: Some((parent, name)) })
    }

    /// Puts the file here, in the place of what `replaceable` has found, which gives it its mode and owner. When this
    /// is done it is on the disk.
    pub(super) fn commit(&self, staged: Staged, old: Option<&Stat>) -> io::Result<File> {
        let file = self.put(staged, old)?;
        self.sync_parent()?;
        Ok(file)
    }

    /// The same, before its name is on the disk; for one of many.
    pub(super) fn put(&self, mut staged: Staged, old: Option<&Stat>) -> io::Result<File> {
        if let Some(old) = old {
            let own = staged.file.metadata()?;
            if (own.uid(), own.gid()) != (old.st_uid, old.st_gid) {
                // Only root may give files away; for others the file becomes theirs, as with any editor.
                let owner = (Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
                let _ = rustix::fs::fchown(&staged.file, owner.0, owner.1);
            }
            rustix::fs::fchmod(&staged.file, Mode::from_raw_mode(old.st_mode & 0o7777))?;
        }
        staged.file.sync_all()?;
        let (from, name) = match staged.named.take() {
            Some(named) => named,
            None => {
                // It gets a name beside its place first: giving it one cannot replace, and renaming can.
                let (parent, name) = (self.parent.try_clone()?, temporary::name());
                let open = format!("/proc/self/fd/{}", staged.file.as_raw_fd());
                rustix::fs::linkat(CWD, &open, &parent, &name, AtFlags::SYMLINK_FOLLOW)?;
                (parent, name)
            }
        };
        let renamed = rustix::fs::renameat(&from, &name, &self.parent, &self.name);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&from, &name, AtFlags::empty());
        }
        renamed?;
        staged.file.try_clone()
    }

    /// Deletes what is here: a file, or a link itself, or with `directory` an empty directory.
    pub(super) fn remove(&self, directory: bool) -> io::Result<()> {
        self.unlink(directory)?;
        self.sync_parent()
    }

    /// The same, before it is on the disk; for one of many.
    pub(super) fn unlink(&self, directory: bool) -> io::Result<()> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(rustix::fs::unlinkat(&self.parent, &self.name, flags)?)
    }

    /// Opens the directory that is here, which is no link.
    pub(super) fn open_directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty())?)
    }

    /// The names in the directory are on the disk too after this.
    fn sync_parent(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.parent, ".", flags, Mode::empty()).and_then(rustix::fs::fsync) {
            // It may be written and not read, or its file system has no such call: no more can be done then.
            Ok(()) | Err(Errno::ACCESS | Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Staged {
    /// Writes on at its end.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)
    }

    /// Lets everybody run it who can read it.
    pub(super) fn make_executable(&self) -> io::Result<()> {
        let mode = rustix::fs::fstat(&self.file)?.st_mode;
        Ok(rustix::fs::fchmod(&self.file, Mode::from_raw_mode(executable(mode & 0o7777)))?)
    }

    /// Brings what was written to the disk, so that little is left to do when it is put in its place.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((parent, name)) = &self.named {
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
    }
}

/// A mode with which everybody runs who reads.
pub(super) fn executable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}
