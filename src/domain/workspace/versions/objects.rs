//! The object store of the versions: a bare git repository in the data directory, which borrows what the user's own
//! repository has and never writes there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use git2::{ObjectType, Odb, Oid, Repository};
use sha1::{Digest, Sha1};

use super::manifest::{Dir, Node};

/// Bytes of the largest file whose content is stored; of larger ones size, time and hash are kept.
pub(in crate::domain) const MAX_STORED: u64 = 10 * 1024 * 1024;

/// Where the objects are.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    folder: PathBuf,
}

/// The object store in the hands of one thread.
pub(super) struct Store {
    pub repository: Repository,
    large: PathBuf,
}

/// Reads and writes objects.
pub(super) struct Keeper<'a> {
    odb: Odb<'a>,
    large: &'a Path,
}

impl Objects {
    /// Opens the store, which is made if it is missing, and borrows from the user's repository if there is
    /// one (its folder of objects).
    pub(super) fn open(folder: &Path, borrowed: Option<&Path>) -> io::Result<Self> {
        let objects = Self { folder: folder.to_owned() };
        if !folder.join("HEAD").exists() {
            let mut options = git2::RepositoryInitOptions::new();
            options.bare(true).external_template(false).no_reinit(false);
            Repository::init_opts(folder, &options).map_err(failed)?;
        }
        objects.borrow_from(borrowed)?;
        Ok(objects)
    }

    /// Names the user's folder of objects as the place to look for what is not here.
    pub(super) fn borrow_from(&self, borrowed: Option<&Path>) -> io::Result<()> {
        let mut line = borrowed.map(|path| path.as_os_str().as_encoded_bytes().to_vec()).unwrap_or_default();
        if line.contains(&b'\n') {
            // Such a path cannot be said in this file.
            line.clear();
        }
        line.push(b'\n');
        let file = self.folder.join("objects/info/alternates");
        if fs::read(&file).is_ok_and(|old| old == line) {
            return Ok(());
        }
        fs::create_dir_all(self.folder.join("objects/info"))?;
        fs::write(file, line)
    }

    /// For the thread that asks.
    pub(super) fn store(&self) -> io::Result<Store> {
        let repository = Repository::open_bare(&self.folder).map_err(failed)?;
        Ok(Store { repository, large: self.large() })
    }

    /// Where the objects of our own are.
    pub(super) fn own(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// Where the sizes of contents are noted that are too large to be stored.
    pub(super) fn large(&self) -> PathBuf {
        self.folder.join("large")
    }
}

impl Store {
    pub(super) fn keeper(&self) -> io::Result<Keeper<'_>> {
        Ok(Keeper { odb: self.repository.odb().map_err(failed)?, large: &self.large })
    }
}

impl Keeper<'_> {
    /// Stores an object, unless it is here or in the user's repository, which libgit2 would otherwise touch.
    pub(super) fn keep(&self, kind: ObjectType, content: &[u8]) -> io::Result<Oid> {
        let oid = id(kind.str(), content);
        if !self.odb.exists(oid) {
            self.odb.write(kind, content).map_err(failed)?;
        }
        Ok(oid)
    }

    /// Notes the size of a content that is too large to be stored.
    pub(super) fn note(&self, oid: Oid, size: u64) -> io::Result<()> {
        fs::create_dir_all(self.large)?;
        fs::write(self.large.join(oid.to_string()), size.to_string())
    }

    /// Whether the content is here, or in the user's repository.
    pub(super) fn has(&self, oid: Oid) -> bool {
        self.odb.exists(oid)
    }

    /// Size of a content, stored or not; none where nothing is known of it.
    pub(super) fn size(&self, oid: Oid) -> Option<u64> {
        match self.odb.read_header(oid) {
            Ok((size, _)) => Some(size as u64),
            Err(_) => fs::read_to_string(self.large.join(oid.to_string())).ok()?.parse().ok(),
        }
    }

    /// A content; none where it is not stored.
    pub(super) fn content(&self, oid: Oid) -> Option<Vec<u8>> {
        self.odb.read(oid).ok().map(|object| object.data().to_vec())
    }

    /// Whether the user's index may be trusted about a content: it is there, and as large as the file.
    pub(super) fn is_blob_of(&self, oid: Oid, size: u64) -> bool {
        matches!(self.odb.read_header(oid), Ok((found, ObjectType::Blob)) if found as u64 == size)
    }

    /// Stores the trees of a directory that have none yet. The empty directory has none.
    pub(super) fn plant(&self, dir: &mut Dir) -> io::Result<Option<Oid>> {
        if dir.tree.is_some() {
            return Ok(dir.tree);
        }
        let mut lines: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(dir.entries.len());
        for (name, node) in &mut dir.entries {
            let (mode, oid, suffix) = match node {
                Node::File(file) => (file.kind.mode(), file.oid, None),
                Node::Dir(below) => {
                    let tree = match below.tree {
                        Some(tree) => Some(tree),
                        None => self.plant(Arc::make_mut(below))?,
                    };
                    let Some(tree) = tree else { continue };
                    ("40000", tree, Some(b'/'))
                }
            };
            let mut line = format!("{mode} ").into_bytes();
            line.extend_from_slice(name);
            line.push(0);
            line.extend_from_slice(oid.as_bytes());
            // Git sorts directories as if their names ended in a slash.
            lines.push((name.iter().copied().chain(suffix).collect(), line));
        }
        if lines.is_empty() {
            return Ok(None);
        }
        lines.sort();
        let content: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line).collect();
        dir.tree = Some(self.keep(ObjectType::Tree, &content)?);
        Ok(dir.tree)
    }

    /// The tree of a directory without a file.
    pub(super) fn empty_tree(&self) -> io::Result<Oid> {
        self.keep(ObjectType::Tree, &[])
    }
}

/// The id of a content, as git counts it.
pub(super) fn id(kind: &str, content: &[u8]) -> Oid {
    let mut hash = begin(kind, content.len() as u64);
    hash.update(content);
    end(hash)
}

/// Begins an id that is counted piece by piece.
pub(super) fn begin(kind: &str, size: u64) -> Sha1 {
    Sha1::new_with_prefix(format!("{kind} {size}\0"))
}

/// Ends it.
pub(super) fn end(hash: Sha1) -> Oid {
    Oid::from_bytes(&hash.finalize()).unwrap_or(Oid::ZERO_SHA1)
}

pub(super) fn failed(error: git2::Error) -> io::Error {
    // libgit2 has no code for a full disk; its message ends in what the system said.
    let full = error.message().contains("No space left") || error.message().contains("Disk quota exceeded");
    let kind = match error.code() {
        git2::ErrorCode::NotFound => io::ErrorKind::NotFound,
        _ if full => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
