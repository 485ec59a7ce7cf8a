//! What the user's own repository already knows: the ids of files in its index, so that the first version of a large
//! workspace need not read them all. Read as plain files; nothing of the user's is opened by git or written.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use git2::{IndexEntry, IndexEntryExtendedFlag, IndexEntryFlag};
use rustix::fs::Stat;

use super::{
    super::{figures::Figures, rules::Rules},
    manifest::{File, Kind},
    objects::Keeper,
};

/// Bytes of the largest index that is read.
const MAX_INDEX: u64 = 1024 * 1024 * 1024;

/// The user's repository, as far as it lies inside the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserGit {
    /// What belongs to this work tree: HEAD and the index.
    pub folder: PathBuf,
    /// What all work trees share: objects and refs.
    pub common: PathBuf,
    /// Device and inode of the objects: another repository may take the place of this one.
    pub identity: (u64, u64),
}

/// The entries of the user's index that can be trusted as long as the figures are right, sorted by path.
pub(super) struct Seed {
    entries: Vec<IndexEntry>,
    /// When the index was written: a file that changed as late may have changed after.
    written: i64,
}

impl UserGit {
    /// The repository whose work tree the root is. One that lies outside (or borrows from outside) is none: nothing
    /// beyond the workspace is read.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let inside = |path: PathBuf| path.canonicalize().ok().filter(|path| path.starts_with(root));
        let dot = root.join(".git");
        let kind = fs::symlink_metadata(&dot).ok()?.file_type();
        let folder = if kind.is_file() {
            let text = small(&dot)?;
            inside(root.join(text.strip_prefix("gitdir:")?.trim()))?
        } else {
            inside(dot)?
        };
        let common = match small(&folder.join("commondir")) {
            Some(text) => inside(folder.join(text.trim()))?,
            None => folder.clone(),
        };
        let objects = inside(common.join("objects"))?;
        if objects.join("info/alternates").exists() || !folder.join("HEAD").is_file() {
            return None;
        }
        let data = fs::metadata(objects).ok()?;
        Some(Self { folder, common, identity: (data.dev(), data.ino()) })
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.common.join("objects")
    }

    /// The figures of the index, by which it is known whether it changed.
    pub(super) fn index_figures(&self) -> Option<(u64, i64, i64)> {
        let data = fs::symlink_metadata(self.folder.join("index")).ok().filter(|data| data.is_file())?;
        Some((
            data.ino(),
            data.mtime().saturating_mul(1_000_000_000).saturating_add(data.mtime_nsec()),
            data.size() as i64,
        ))
    }

    /// The entries of the index. One that libgit2 cannot read gives none. `copy` is where it may be copied to; fails
    /// where there is no room for that.
    pub(super) fn entries(&self, copy: &Path) -> io::Result<Option<(Vec<IndexEntry>, i64)>> {
        let figures = self.index_figures().filter(|(_, _, size)| *size as u64 <= MAX_INDEX);
        let Some((_, written, _)) = figures else { return Ok(None) };
        let copied = fs::copy(self.folder.join("index"), copy);
        // Opening reads it.
        let entries = copied.as_ref().ok().and_then(|_| git2::Index::open(copy).ok());
        let entries = entries.map(|index| (index.iter().collect(), written));
        let _ = fs::remove_file(copy);
        match copied.map_err(|error| (error.kind(), error)) {
            Err((io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge, error)) => {
                Err(error)
            }
            Ok(_) | Err(_) => Ok(entries),
        }
    }
}

/// A file of a line or two, as git has them; none where it is anything else.
pub(super) fn small(path: &Path) -> Option<String> {
    let data = fs::symlink_metadata(path).ok()?;
    if !data.is_file() || data.len() > 64 * 1024 {
        return None;
    }
    fs::read_to_string(path).ok()
}

impl Figures {
    /// Whether the user's index has these figures; it keeps the lower half of what is longer.
    pub(super) fn is_of(&self, entry: &IndexEntry) -> bool {
        let nanos = |time: git2::IndexTime| {
            i64::from(time.seconds()).saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanoseconds()))
        };
        entry.file_size == self.size as u32
            && nanos(entry.mtime) == self.mtime
            && nanos(entry.ctime) == self.ctime
            && entry.ino == self.inode as u32
    }
}

impl Seed {
    pub(super) fn new((mut entries, written): (Vec<IndexEntry>, i64)) -> Self {
        // Stage 0 alone, and nothing that git itself was told not to look at.
        let hidden = (IndexEntryExtendedFlag::SKIP_WORKTREE | IndexEntryExtendedFlag::INTENT_TO_ADD).bits();
        entries.retain(|entry| {
            (entry.flags >> 12) & 3 == 0
                && entry.flags & IndexEntryFlag::VALID.bits() == 0
                && entry.flags_extended & hidden == 0
        });
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Self { entries, written }
    }

    /// The entries below a directory.
    pub(super) fn below(&self, dir: &Path) -> &[IndexEntry] {
        let dir = dir.as_os_str().as_bytes();
        if dir.is_empty() {
            return &self.entries;
        }
        let (from, to) = ([dir, b"/"].concat(), [dir, b"0"].concat());
        // '0' comes after '/'.
        let place = |path: &[u8]| self.entries.partition_point(|entry| entry.path.as_slice() < path);
        &self.entries[place(&from)..place(&to)]
    }

    /// The file as one of the entries below its directory knows it, if that can be trusted: the figures are those that git saw, no attribute changes
    /// its content, and what is stored has its size.
    pub(super) fn file(
        &self,
        below: &[IndexEntry],
        keeper: &Keeper<'_>,
        path: &Path,
        kind: Kind,
        stat: &Stat,
        rules: Option<&Rules>,
    ) -> Option<File> {
        let name = path.as_os_str().as_bytes();
        let place = below.binary_search_by(|entry| entry.path.as_slice().cmp(name)).ok()?;
        let entry = &below[place];
        let figures = Figures::of(stat);
        let mode = match kind {
            Kind::Plain => 0o100_644,
            Kind::Executable => 0o100_755,
            Kind::Link => 0o120_000,
        };
        let same = entry.mode == mode
            && figures.is_of(entry)
            // Written as late as the index itself: git would look again too.
            && !figures.are_racy(UNIX_EPOCH + Duration::from_nanos(self.written.max(0) as u64));
        if !same || rules.is_some_and(|rules| rules.converts(name)) {
            return None;
        }
        keeper.is_blob_of(entry.id, figures.size).then_some(File {
            oid: entry.id,
            kind,
            figures,
            racy: false,
            seeded: true,
        })
    }
}

/// The paths of the index that a rule ignores: they belong to a version all the same. Sorted.
pub(super) fn tracked(entries: &[IndexEntry], ignores: impl Fn(&Path) -> bool) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<u8>> = entries
        .iter()
        .filter(|entry| entry.mode != 0o160_000 && ignores(Path::new(std::ffi::OsStr::from_bytes(&entry.path))))
        .map(|entry| entry.path.clone())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}
