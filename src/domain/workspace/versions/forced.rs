//! Files that a rule ignores and the user's index has all the same: git tracks them, so they belong to a version.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::fs::AtFlags;

use super::{
    Lack,
    content::{self, Read},
    manifest::{Dir, Figures, Kind},
    objects::Keeper,
    scan::Scan,
};

impl Scan<'_> {
    /// Files below ignored directories that the user's index has all the same.
    pub(super) fn force(&self, keeper: &Keeper<'_>, root: &mut Dir, lacks: &mut Vec<Lack>) -> io::Result<bool> {
        let mut changed = false;
        for path in self.forced {
            if root.holds(path) {
                continue;
            }
            let place = Path::new(OsStr::from_bytes(path));
            let Some((above, name)) = super::open_above(self.root, place) else { continue };
            let Ok(stat) = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let Some(kind) = Kind::of(&stat) else { continue };
            let file = match self.known.file(path) {
                Some(file) if file.kind == kind && file.figures == Figures::of(&stat) && !file.racy => *file,
                Some(_) | None => match content::read(keeper, above.as_fd(), name, kind, self.limits)? {
                    Read::File(file) => {
                        changed = true;
                        file
                    }
                    Read::Gone => continue,
                    Read::Lacks(reason) => {
                        lacks.push(Lack::file(path.clone(), reason));
                        continue;
                    }
                },
            };
            root.put(path, Some(file));
        }
        Ok(changed)
    }
    pub(super) fn is_forced(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        self.forced.binary_search_by(|own| own.as_slice().cmp(path)).is_ok()
    }

    /// Whether such a file is below a directory.
    pub(super) fn leads_to_forced(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        let from = self.forced.partition_point(|own| own.as_slice() < path);
        self.forced[from..].iter().take_while(|own| own.starts_with(path)).any(|own| is_within(own, path))
    }
}

/// Whether a path is another one, or lies below it.
pub(super) fn is_within(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
