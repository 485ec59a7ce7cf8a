//! Reading a file for a version: its bytes as they are, into the object store.

use std::{
    ffi::OsStr,
    fs::File as OpenFile,
    io::{self, Read as _},
    os::fd::BorrowedFd,
    time::SystemTime,
};

use git2::ObjectType;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use sha1::Digest;

use super::{
    super::figures::Figures,
    LackReason, Limits,
    manifest::{File, Kind},
    objects::{self, Keeper, MAX_STORED},
};

/// What came of reading.
pub(super) enum Read {
    File(File),
    /// It is there no more, or is something else now.
    Gone,
    Lacks(LackReason),
}

/// Reads a file or link and stores its content, if it is not too large.
pub(super) fn read(
    keeper: &Keeper<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: Kind,
    limits: &Limits,
) -> io::Result<Read> {
    let began = SystemTime::now();
    if kind == Kind::Link {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Kind::of(&stat) == Some(Kind::Link) => stat,
            Ok(_) | Err(_) => return Ok(Read::Gone),
        };
        let Ok(target) = rustix::fs::readlinkat(dir, name, Vec::new()) else { return Ok(Read::Gone) };
        let oid = keeper.keep(ObjectType::Blob, target.as_bytes())?;
        let figures = Figures::of(&stat);
        return Ok(Read::File(File { oid, kind, figures, racy: figures.are_racy(began), seeded: false }));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => OpenFile::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Ok(Read::Gone),
        Err(Errno::ACCESS | Errno::PERM | Errno::IO) => return Ok(Read::Lacks(LackReason::Unreadable)),
        Err(error) => return Err(error.into()),
    };
    let before = rustix::fs::fstat(&file)?;
    let Some(kind) = Kind::of(&before) else { return Ok(Read::Gone) };
    let figures = Figures::of(&before);
    if limits.is_over() {
        return Ok(Read::Lacks(LackReason::Time));
    }
    let (oid, read) = if figures.size <= MAX_STORED {
        if !limits.take(figures.size) {
            return Ok(Read::Lacks(LackReason::Bytes));
        }
        let mut content = Vec::with_capacity(figures.size as usize + 1);
        // One byte more than is kept: a file that grows meanwhile is large.
        (&mut file).take(MAX_STORED + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_STORED {
            return Ok(Read::Lacks(LackReason::Changing));
        }
        (keeper.keep(ObjectType::Blob, &content)?, content.len() as u64)
    } else {
        match hash(&mut file, figures.size, limits)? {
            Ok((oid, read)) => {
                keeper.note(oid, read)?;
                (oid, read)
            }
            Err(reason) => return Ok(Read::Lacks(reason)),
        }
    };
    let after = Figures::of(&rustix::fs::fstat(&file)?);
    let racy = read != figures.size || after != figures || figures.are_racy(began);
    Ok(Read::File(File { oid, kind, figures, racy, seeded: false }))
}

/// The id of a large file, which is not stored.
fn hash(file: &mut OpenFile, size: u64, limits: &Limits) -> io::Result<Result<(git2::Oid, u64), LackReason>> {
    let mut hash = objects::begin("blob", size);
    let mut buffer = vec![0; 1024 * 1024];
    let mut read = 0;
    let mut rest = file.take(size);
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        read += count as u64;
        if limits.is_over() {
            return Ok(Err(LackReason::Time));
        }
    }
    // Shorter than it was: the id is of no content that ever was.
    Ok(if read == size { Ok((objects::end(hash), read)) } else { Err(LackReason::Changing) })
}
