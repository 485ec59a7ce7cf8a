//! The object store of the versions: a bare git repository in the data directory, which borrows what the user's own
//! repository has and never writes there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Once},
};

use git2::{ConfigLevel, ObjectType, Odb, OdbLookupFlags, Oid, Repository};
use sha1::{Digest, Sha1};

use super::manifest::{Dir, Node};

/// Bytes of the largest file whose content is stored; of larger ones size, time and hash are kept.
pub(in crate::domain) const MAX_STORED: u64 = 10 * 1024 * 1024;

/// Where a repository names others to read from, below its objects.
const ALTERNATES: &str = "info/alternates";

/// Where the objects are.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    folder: PathBuf,
}

/// The object store in the hands of one thread.
pub(super) struct Store {
    /// With what is borrowed from the user.
    pub repository: Repository,
    own: Repository,
    large: PathBuf,
}

/// Reads and writes objects.
pub(super) struct Keeper<'a> {
    odb: Odb<'a>,
    own: Odb<'a>,
    large: &'a Path,
    borrows: bool,
}

impl Objects {
    /// Opens the store, which is made if it is missing, and borrows from the user's repository if there is one (its
    /// folder of objects).
    pub(super) fn open(folder: &Path, borrowed: Option<&Path>) -> io::Result<Self> {
        let objects = Self { folder: folder.to_owned() };
        for bare in [&objects.folder, &objects.reading()] {
            make(bare)?;
        }
        objects.lean_on_taken()?;
        objects.borrow_from(borrowed)?;
        Ok(objects)
    }

    /// Names the user's folder of objects as the place to look for what is not here.
    pub(super) fn borrow_from(&self, borrowed: Option<&Path>) -> io::Result<()> {
        let mut lines = b"../../objects.git/objects\n../../taken\n".to_vec();
        let line = borrowed.map(|path| path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        // Such a path cannot be said in this file.
        if !line.contains(&b'\n') {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
        let file = self.reading().join("objects").join(ALTERNATES);
        if fs::read(&file).is_ok_and(|old| old == lines) {
            return Ok(());
        }
        fs::create_dir_all(self.reading().join("objects/info"))?;
        fs::write(file, lines)
    }

    /// Lets what was taken along of the user's objects count as ours, if there is any.
    pub(super) fn lean_on_taken(&self) -> io::Result<()> {
        let file = self.own().join(ALTERNATES);
        if self.taken().exists() {
            fs::create_dir_all(self.own().join("info"))?;
            return fs::write(file, b"../../taken\n");
        }
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// For the thread that asks.
    pub(super) fn store(&self) -> io::Result<Store> {
        let repository = Repository::open_bare(self.reading()).map_err(failed)?;
        let own = Repository::open_bare(&self.folder).map_err(failed)?;
        Ok(Store { repository, own, large: self.large() })
    }

    /// A repository without an object of its own, which has ours and the user's.
    fn reading(&self) -> PathBuf {
        self.folder.with_file_name("reading.git")
    }

    /// Where the objects of our own are.
    pub(super) fn own(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// Where the user's objects are that were taken along.
    pub(super) fn taken(&self) -> PathBuf {
        self.folder.with_file_name("taken")
    }

    /// Where the sizes of contents are noted that are too large to be stored.
    pub(super) fn large(&self) -> PathBuf {
        self.folder.join("large")
    }
}

impl Store {
    /// `borrows`: what the user's repository has is enough for now. So it is for a first look, after which all is made
    /// our own.
    pub(super) fn keeper(&self, borrows: bool) -> io::Result<Keeper<'_>> {
        let (odb, own) = (self.repository.odb().map_err(failed)?, self.own.odb().map_err(failed)?);
        Ok(Keeper { odb, own, large: &self.large, borrows })
    }
}

impl Keeper<'_> {
    /// Stores an object.
    pub(super) fn keep(&self, kind: ObjectType, content: &[u8]) -> io::Result<Oid> {
        let oid = id(kind.str(), content);
        let known = if self.borrows { &self.odb } else { &self.own };
        if !known.exists(oid) {
            self.own.write(kind, content).map_err(failed)?;
        }
        Ok(oid)
    }

    /// Whether only the user's repository has it.
    pub(super) fn is_lent(&self, oid: Oid) -> bool {
        let look = OdbLookupFlags::NO_REFRESH;
        !self.own.exists_ext(oid, look) && self.odb.exists_ext(oid, look)
    }

    /// Stores a tree here if it is only in the user's repository.
    pub(super) fn own_tree(&self, tree: Oid) -> io::Result<()> {
        if !self.is_lent(tree) {
            return Ok(());
        }
        let object = self.odb.read(tree).map_err(failed)?;
        self.own.write(ObjectType::Tree, object.data()).map(drop).map_err(failed)
    }

    /// Notes the size of a content that is too large to be stored.
    pub(super) fn note(&self, oid: Oid, size: u64) -> io::Result<()> {
        fs::create_dir_all(self.large)?;
        fs::write(self.large.join(oid.to_string()), size.to_string())
    }

    /// Whether the content is here, or in the user's repository, and not damaged as far as its head tells.
    pub(super) fn has(&self, oid: Oid) -> bool {
        self.odb.read_header(oid).is_ok()
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

/// Makes a bare repository, or what is missing of one.
fn make(folder: &Path) -> io::Result<()> {
    if Repository::open_bare(folder).is_ok() {
        return Ok(());
    }
    // Never the objects: they may be all that is left of what somebody wants back.
    // A start that was killed leaves locks; the data directory is ours alone.
    for name in ["config", "HEAD", "config.lock", "HEAD.lock"] {
        let _ = fs::remove_file(folder.join(name));
    }
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).external_template(false).no_reinit(false);
    Repository::init_opts(folder, &options).map(drop).map_err(failed)
}

/// Settings and attributes of whoever runs the server are not for us: they would change patches. And a repository of
/// another user is read like any other, since nothing in it is ever run. To be called before anything of git is used.
pub(in crate::domain) fn nobodys_settings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let levels = [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global];
        #[allow(unsafe_code, reason = "libgit2 has no other way")]
        // SAFETY: this changes variables of the process that only libgit2 reads, and it comes before its first use.
        let outcomes = unsafe {
            let owner = git2::opts::set_verify_owner_validation(false);
            levels.map(|level| git2::opts::set_search_path(level, "")).into_iter().chain([owner]).collect::<Vec<_>>()
        };
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "git's settings could not be left out");
        }
    });
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
    let words = ["No space left", "Disk quota exceeded", "File too large"];
    let full = words.iter().any(|said| error.message().contains(said));
    let kind = match error.code() {
        git2::ErrorCode::NotFound => io::ErrorKind::NotFound,
        _ if full => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
