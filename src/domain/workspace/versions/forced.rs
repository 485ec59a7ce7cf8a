//! Files that a rule ignores and the user's index has all the same: git tracks them, so they belong to a version.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::fs::AtFlags;

use super::{
    super::figures::Figures,
    Lack,
    content::{self, Read},
    links::Links,
    manifest::{Dir, File, Kind},
    objects::Keeper,
    scan::Scan,
};

impl Scan<'_> {
    /// Files below ignored directories that the user's index has all the same.
    pub(super) fn force(
        &self,
        keeper: &Keeper<'_>,
        root: &mut Dir,
        (lacks, links): (&mut Vec<Lack>, &mut Links),
    ) -> io::Result<bool> {
        let mut changed = false;
        for path in self.forced {
            let place = Path::new(OsStr::from_bytes(path));
            let above = super::open_above(self.root, place);
            if let (Some(watch), Some((above, _)), Some(dir)) = (self.watch, &above, place.parent()) {
                // Nothing else leads into a directory that is ignored.
                watch.add(above.as_fd(), dir);
            }
            let stat = above
                .as_ref()
                .and_then(|(above, name)| rustix::fs::statat(above, *name, AtFlags::SYMLINK_NOFOLLOW).ok());
            let (Some((above, name)), Some((stat, kind))) =
                (above, stat.and_then(|stat| Some((stat, Kind::of(&stat)?))))
            else {
                if root.file(path).is_some() {
                    root.put(path, None);
                    changed = true;
                }
                continue;
            };
            if Links::is_one(&stat) {
                links.note(path.clone(), stat.st_ino);
            }
            let is_same = |file: &File| file.kind == kind && file.figures == Figures::of(&stat) && !file.racy;
            if root.file(path).is_some_and(is_same) {
                continue;
            }
            let file = match self.known.file(path) {
                Some(file) if is_same(file) => *file,
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
