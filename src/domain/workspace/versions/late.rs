//! Large files: their content is not stored, but their hash is kept, and finding it may take all the time that a look has.
//! So everything else comes first.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{
    Lack,
    content::{self, Read},
    manifest::{Dir, Kind},
    scan::{MAX_THREADS, Scan},
};

impl Scan<'_> {
    /// Reads these files, by several threads, and puts what was found where it belongs.
    pub(super) fn read_late(&self, late: Vec<Vec<u8>>, root: &mut Dir, lacks: &mut Vec<Lack>) -> io::Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(late.len());
        let (waiting, found) = (Mutex::new(late), Mutex::new(Vec::new()));
        let work = || {
            let store = self.objects.store()?;
            let keeper = store.keeper(self.borrows())?;
            // One statement: the lock is not held while a file is read.
            while let Some(path) = { waiting.lock().unwrap_or_else(PoisonError::into_inner).pop() } {
                let Some((above, name)) = super::open_above(self.root, Path::new(OsStr::from_bytes(&path))) else {
                    continue;
                };
                let read = content::read(&keeper, above.as_fd(), name, Kind::Plain, self.limits)?;
                found.lock().unwrap_or_else(PoisonError::into_inner).push((path, read));
            }
            Ok(())
        };
        std::thread::scope(|scope| -> io::Result<()> {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others =
                others.into_iter().map(|other| other.join().unwrap_or_else(|it| std::panic::resume_unwind(it)));
            others.fold(own, |one, other| one.and(other))
        })?;
        for (path, read) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match read {
                Read::File(file) => root.put(&path, Some(file)),
                Read::Gone => {}
                Read::Lacks(reason) => lacks.push(Lack::file(path, reason)),
            }
        }
        Ok(())
    }
}
