//! Listing directories, by descriptor: no name is ever joined to a path and opened, so that a link that takes a
//! directory's place in the meantime leads nowhere. Everything comes in the byte order of whole paths, and what a page
//! does not show is not read.

use std::{
    ffi::{CString, OsStr},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{
    fs::{AtFlags, FileType, OFlags, RawDir},
    io::Errno,
};

use super::{
    Workspace,
    ahead::Ahead,
    beneath::Jail,
    facts::Facts,
    path::{PathError, Problem, RelativePath, in_git},
    rules::{Compiled, InForce, Reads},
    walk::Globs,
};

/// What is to be listed.
#[derive(Default)]
pub(crate) struct Wanted {
    /// What is in the directories too, all the way down.
    pub recursive: bool,
    /// Leave out names that begin with a dot, and what is below such directories.
    pub exclude_hidden: bool,
    /// Show what git's ignore rules name too; not recursive, it is always shown.
    pub include_ignored: bool,
    /// Show only what matches; all if `None`. Relative to the root.
    pub patterns: Option<Globs>,
    /// Leave out what matches, and what is below such directories. Relative to the root.
    pub exclude: Globs,
    /// The globs are relative to the start instead.
    pub exclude_below: bool,
    /// Look at `.ignore` files too, as search tools do.
    pub dot_ignore: bool,
    /// So many names below the start at most.
    pub max_depth: Option<usize>,
    /// Only paths after this one, below the start, in byte order.
    pub after: Vec<u8>,
    /// So many are looked at ahead of those that were taken.
    pub ahead: usize,
}

impl Wanted {
    fn reads(&self) -> Reads {
        Reads { dot_ignore: self.dot_ignore, attributes: false }
    }
}

/// Something that was found.
pub(crate) struct Entry {
    /// Its path below the start.
    pub path: PathBuf,
    /// What the system says of it; of a link, the link's own.
    pub facts: Facts,
    /// What it points to, if it is a link.
    pub target: Option<PathBuf>,
}

/// A directory that is to be read.
pub(super) struct Folder {
    /// Its path below the start; empty for the start.
    path: PathBuf,
    above: InForce,
    /// Only what comes after this path; also where a large directory goes on.
    after: Vec<u8>,
}

/// What a directory gives, in order.
pub(super) enum Item {
    /// Something to show.
    Show(Entry),
    /// The place where what is in a directory comes, or more of it.
    Descend(Folder),
}

/// One listing.
pub(super) struct Listing<'a> {
    wanted: &'a Wanted,
    jail: Jail,
    rules: &'a Compiled,
    /// The canonical path of the start, empty for the root; for the rules.
    canonical: Vec<u8>,
    /// The path of the start as it was named, empty for the root; for the globs.
    named: PathBuf,
    /// Whether ignore rules and `.git` are looked at.
    choosy: bool,
    /// Directories that could not be read.
    unreadable: AtomicUsize,
}

impl Workspace {
    /// Lists a directory in byte order of the paths. `visit` is given each entry until it answers false. Directories
    /// that cannot be read are shown and have nothing in them; their number is the answer. Blocks.
    pub(crate) fn list(
        &self,
        start: &RelativePath,
        wanted: &Wanted,
        visit: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<usize, PathError> {
        let fail = |error: Errno| PathError::io(start, error.into());
        let jail = self.0.jail.below(start.as_path()).map_err(|error| match error {
            // Of a listing this means that the path itself is a file, or one before it.
            Errno::NOTDIR => PathError::new(start.to_string(), Problem::NoFolder),
            error => PathError::io(start, error.into()),
        })?;
        let canonical = self.0.jail.canonical(jail.directory()).map_err(|error| PathError::io(start, error))?;
        let is_root = canonical == Path::new(".");
        // What is in .git has no rules: who lists it wants to see it.
        let choosy = wanted.recursive && !in_git(&canonical);
        let obeys = choosy && !wanted.include_ignored;
        let above = match canonical.parent() {
            Some(parent) if obeys && !is_root => self.0.rules.down_to(&self.0.jail, parent, wanted.reads()),
            Some(_) | None => None,
        };
        let canonical = if is_root { Vec::new() } else { canonical.as_os_str().as_bytes().to_vec() };
        let named = if start.is_root() || wanted.exclude_below { PathBuf::new() } else { start.as_path().to_owned() };
        let (rules, unreadable) = (&self.0.rules, AtomicUsize::new(0));
        let listing = Listing { wanted, jail, rules, canonical, named, choosy, unreadable };
        let first = listing.read(&Folder { path: PathBuf::new(), above, after: wanted.after.clone() }).map_err(fail)?;
        Ahead::new(&listing, wanted.ahead).run(first, visit);
        Ok(listing.unreadable.into_inner())
    }
}

/// All that is in a directory, `.git` and ignored files too, in order, and whether each is a directory. None of it where
/// anything cannot be read.
pub(super) fn everything(jail: &Jail) -> Result<Vec<(PathBuf, bool)>, Errno> {
    let wanted = Wanted { recursive: true, include_ignored: true, ahead: usize::MAX, ..Wanted::default() };
    let jail = jail.below(Path::new("."))?;
    let listing = Listing {
        wanted: &wanted,
        jail,
        // None is looked at.
        rules: &Compiled::default(),
        canonical: Vec::new(),
        named: PathBuf::new(),
        choosy: false,
        unreadable: AtomicUsize::new(0),
    };
    let first = listing.read(&Folder { path: PathBuf::new(), above: None, after: Vec::new() })?;
    let mut found = Vec::new();
    Ahead::new(&listing, wanted.ahead).run(first, &mut |entry| {
        found.push((entry.path, entry.facts.is_directory));
        true
    });
    if listing.unreadable.into_inner() > 0 { Err(Errno::ACCESS) } else { Ok(found) }
}

impl Listing<'_> {
    /// Whether reading ahead is worth it.
    pub(super) fn is_deep(&self) -> bool {
        self.wanted.recursive
    }

    /// The same as [`Self::read`], of a directory further down: one that cannot be read is counted, and has nothing in
    /// it.
    pub(super) fn look(&self, folder: &Folder) -> Vec<Item> {
        self.read(folder).unwrap_or_else(|error| {
            // One that is gone meanwhile, or is something else by now, is missed by nobody.
            if !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
            }
            Vec::new()
        })
    }

    /// Reads a directory: its entries in order, and where what is below them comes.
    pub(super) fn read(&self, folder: &Folder) -> Result<Vec<Item>, Errno> {
        let Folder { path, above, after } = folder;
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path.as_path() };
        let directory = self.jail.open_plain(here, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names: Vec<(CString, FileType)> = Vec::new();
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        let canonical = join(&self.canonical, path.as_os_str().as_bytes());
        let rules = if self.choosy && !self.wanted.include_ignored {
            let has = |name: &str| names.iter().any(|(own, _)| own.as_bytes() == name.as_bytes());
            self.rules.enter(above.clone(), directory.as_fd(), &canonical, self.wanted.reads(), has).rules
        } else {
            None
        };

        let deep = path.components().count() + 1;
        let after = after.as_slice();
        let mut chosen: Vec<(Vec<u8>, CString, bool)> = Vec::with_capacity(names.len());
        for (name, mut kind) in names {
            let bytes = name.as_bytes();
            if (self.wanted.exclude_hidden && bytes.starts_with(b"."))
                || (self.choosy && bytes.eq_ignore_ascii_case(b".git"))
            {
                continue;
            }
            let below = join(path.as_os_str().as_bytes(), bytes);
            let inside = [below.as_slice(), b"/"].concat();
            let (show, mut descend) =
                (below.as_slice() > after, inside.as_slice() > after || after.starts_with(&inside));
            descend &= self.wanted.recursive && self.wanted.max_depth.is_none_or(|depth| deep < depth);
            if !show && !descend {
                continue;
            }
            if kind == FileType::Unknown {
                match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                }
            }
            let is_directory = kind == FileType::Directory;
            let shown = join(self.named.as_os_str().as_bytes(), &below);
            let shown = Path::new(OsStr::from_bytes(&shown));
            if self.wanted.exclude.matches(shown)
                || rules.as_ref().is_some_and(|rules| rules.ignores(&join(&canonical, bytes), is_directory))
            {
                continue;
            }
            if show && self.wanted.patterns.as_ref().is_none_or(|globs| globs.matches(shown)) {
                chosen.push((below, name.clone(), false));
            }
            if descend && is_directory {
                chosen.push((inside, name, true));
            }
        }
        // A directory's content comes where its name with a slash stands: `a`, `a.b`, `a/b`.
        chosen.sort_unstable_by(|a, b| a.0.cmp(&b.0));

        let mut items = Vec::new();
        for (count, (key, name, descend)) in chosen.iter().enumerate() {
            if count == self.wanted.ahead {
                // A page holds no more than that: what the others are is not asked before somebody wants them.
                let after = chosen[count - 1].0.clone();
                items.push(Item::Descend(Folder { path: path.clone(), above: above.clone(), after }));
                break;
            }
            if *descend {
                let path = path.join(OsStr::from_bytes(name.as_bytes()));
                items.push(Item::Descend(Folder { path, above: rules.clone(), after: self.wanted.after.clone() }));
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // The directory shows its names and no more.
                Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(error),
                // What is gone by now was not there.
                Err(_) => continue,
            };
            // As it is now: it may have become something else since its name was read.
            let target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                let target = rustix::fs::readlinkat(&directory, name, Vec::new());
                target.ok().map(|target| PathBuf::from(OsStr::from_bytes(target.as_bytes())))
            } else {
                None
            };
            let path = PathBuf::from(OsStr::from_bytes(key));
            items.push(Item::Show(Entry { facts: Facts::of_entry(&path, &stat), path, target }));
        }
        Ok(items)
    }
}

/// A path of two halves, the first of which may be empty.
fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    match (first, second) {
        ([], path) | (path, []) => path.to_vec(),
        (first, second) => [first, b"/", second].concat(),
    }
}
