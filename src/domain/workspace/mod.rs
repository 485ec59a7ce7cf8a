//! The workspace: every path that a client or the model names is resolved here, beneath its root. All of this blocks;
//! async code calls it in [`blocking`].

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use git2::Repository;
use rustix::fs::OFlags;

mod ahead;
mod beneath;
mod change;
mod escape;
mod facts;
mod figures;
mod list;
mod path;
mod place;
mod rules;
mod tag;
mod temporary;
mod versions;
mod walk;

use self::{beneath::Jail, path::in_git, rules::Compiled, tag::Tags};
pub(super) use self::{
    change::{Incoming, Written},
    facts::{Facts, HEAD},
    list::Wanted,
    path::{MAX_PATH, PathError, Problem, RelativePath},
    versions::*,
    walk::Globs,
};
use super::error::{Error, Result as DomainResult};

/// The folder that the agent works in.
#[derive(Clone)]
pub(super) struct Workspace(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// The root as it was given, made absolute: the model may have that name from the user.
    given: PathBuf,
    jail: Jail,
    /// For listings and versions alike.
    rules: Arc<Compiled>,
    writing: Mutex<()>,
    tags: Tags,
    /// Keeps what a file held before it is changed, for a version that is being taken.
    versions: OnceLock<Arc<Versions>>,
}

impl Workspace {
    /// Opens the folder, which is made if it is missing. Its versions are kept in `data_dir`.
    pub(super) fn open(root: &Path, data_dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let given = std::path::absolute(root)?;
        let root = root.canonicalize()?;
        let jail = Jail::open(&root)?;
        temporary::belong_to(data_dir, &root);
        Ok(Self::new(root, given, jail))
    }

    fn new(root: PathBuf, given: PathBuf, jail: Jail) -> Self {
        let (writing, tags, versions) = (Mutex::new(()), Tags::default(), OnceLock::new());
        Self(Arc::new(Inner { root, given, jail, rules: Arc::default(), writing, tags, versions }))
    }

    /// The same for tests, of both ways to resolve a path.
    #[cfg(test)]
    fn open_for_test(root: &Path, by_hand: bool) -> io::Result<Self> {
        let jail = if by_hand { Jail::by_hand(root) } else { Jail::open(root) }?;
        let (root, given) = (root.to_owned(), root.to_owned());
        Ok(Self::new(root, given, jail))
    }

    /// Its absolute path, without links.
    pub(super) fn root(&self) -> &Path {
        &self.0.root
    }

    /// A path that the model named: relative to the root, or absolute and inside. `..` may be in it.
    pub(super) fn for_model(&self, path: &str) -> Result<RelativePath, PathError> {
        RelativePath::from_model(path, [&self.0.root, &self.0.given])
    }

    /// A path that a client named: relative, without `.` and `..`.
    pub(super) fn for_client(&self, path: &str) -> DomainResult<RelativePath> {
        Ok(RelativePath::from_client(path)?)
    }

    /// The same, of a name that need not be UTF-8.
    pub(super) fn for_client_bytes(&self, path: &[u8]) -> DomainResult<RelativePath> {
        Ok(RelativePath::from_bytes(path)?)
    }

    /// Makes checking a file and writing it one step, among all that write through here. Not to be held across an
    /// await.
    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a regular file to read.
    pub(super) fn open_file(&self, path: &RelativePath) -> Result<File, PathError> {
        self.0.jail.open_file(path)
    }

    /// What the file system knows of a file or directory, links followed.
    pub(super) fn metadata(&self, path: &RelativePath) -> Result<Metadata, PathError> {
        let fd = self.0.jail.open_with(path.as_path(), OFlags::PATH).map_err(|e| PathError::io(path, e.into()))?;
        File::from(fd).metadata().map_err(|error| PathError::io(path, error))
    }

    /// The path below the root without links and `..`, of something that exists; `.` for the root.
    pub(super) fn canonical(&self, path: &RelativePath) -> Result<PathBuf, PathError> {
        let fd = self.0.jail.open_with(path.as_path(), OFlags::PATH).map_err(|e| PathError::io(path, e.into()))?;
        self.0.jail.canonical(fd.as_fd()).map_err(|error| PathError::io(path, error))
    }

    /// The same, of a file that is open.
    pub(super) fn canonical_of(&self, path: &RelativePath, file: &File) -> Result<PathBuf, PathError> {
        self.0.jail.canonical(file.as_fd()).map_err(|error| PathError::io(path, error))
    }

    /// A whole file, refused as too large above `max_bytes`.
    pub(super) fn read(&self, path: &RelativePath, max_bytes: u64) -> Result<Vec<u8>, PathError> {
        let content = self.read_range(path, 0, max_bytes.saturating_add(1))?;
        if content.len() as u64 > max_bytes {
            return Err(PathError::new(path.to_string(), Problem::TooLarge(max_bytes)));
        }
        Ok(content)
    }

    /// At most `length` bytes of a file from `offset` on; fewer where it ends.
    pub(super) fn read_range(&self, path: &RelativePath, offset: u64, length: u64) -> Result<Vec<u8>, PathError> {
        let mut file = self.open_file(path)?;
        let mut content = Vec::new();
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(length).read_to_end(&mut content));
        read.map_err(|error| PathError::io(path, error))?;
        Ok(content)
    }

    /// Writes a file as a whole, all or nothing: whoever reads sees the old content or the new. Parents are made, an
    /// existing file keeps its mode, a link inside the workspace stays and its target is written. Answers the
    /// canonical path.
    pub(super) fn write(&self, path: &RelativePath, content: &[u8]) -> Result<PathBuf, PathError> {
        if in_git(path.as_path()) {
            return Err(PathError::new(path.to_string(), Problem::Git));
        }
        self.0.jail.make_parents(path)?;
        let place = self.0.jail.place(path)?;
        if in_git(&place.canonical) {
            return Err(PathError::new(path.to_string(), Problem::Git));
        }
        let put = || {
            self.preserve(&place.canonical)?;
            let old = place.replaceable()?;
            let mut staged = place.stage()?;
            staged.write(content)?;
            place.commit(staged, old.as_ref())
        };
        put().map_err(|error| PathError::io(path, error))?;
        Ok(place.canonical)
    }

    /// From now on, what is changed here is kept for the versions that need it.
    pub(super) fn keep_versions(&self, versions: Arc<Versions>) {
        let _ = self.0.versions.set(versions);
    }

    /// To be called before a file is changed, by its canonical path.
    fn preserve(&self, canonical: &Path) -> io::Result<()> {
        self.0.versions.get().map_or(Ok(()), |versions| versions.preserve(canonical))
    }

    /// The names in a directory, in no order; those that are not UTF-8 left out.
    pub(super) fn names(&self, path: &RelativePath) -> Result<Vec<String>, PathError> {
        let fail = |error: rustix::io::Errno| PathError::io(path, error.into());
        let fd = self.0.jail.open_with(path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(fail)? {
            match entry.map_err(fail)?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// A file that a message refers to, and its MIME type.
    pub(super) async fn read_for_client(&self, path: &str, max_bytes: u64) -> DomainResult<(Vec<u8>, String)> {
        let path = self.for_client(path)?;
        let workspace = self.clone();
        blocking(move || {
            let content = workspace.read(&path, max_bytes)?;
            let mime = mime_type(path.as_path(), &content);
            Ok::<_, Error>((content, mime))
        })
        .await
    }

    /// The branch that the workspace is on, if it is the root of a git work tree and on one. What is above the root is
    /// not looked at, and a repository that libgit2 does not trust counts as none.
    pub(super) fn git_branch(&self) -> Option<String> {
        if walk::has_trap(self.root()) {
            return None;
        }
        let repository = Repository::open(self.root()).ok()?;
        let head = repository.find_reference("HEAD").ok()?;
        let target = head.symbolic_target().ok()??;
        target.strip_prefix("refs/heads/").map(str::to_owned)
    }
}

/// Runs what blocks where it may. The one way to do so.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it: there is nobody to answer to.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The type of an image that models take, told by its content.
pub(super) fn image_type(content: &[u8]) -> Option<&'static str> {
    match content {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// The MIME type of a file: by content for images, by name else, and text where the name claims what text cannot be
/// (`.ts` is no video here).
pub(super) fn mime_type(path: &Path, content: &[u8]) -> String {
    if let Some(image) = image_type(content) {
        return image.to_owned();
    }
    let is_text = std::str::from_utf8(content).is_ok() && !content.contains(&0);
    let guess = mime_guess::from_path(path).first();
    match guess {
        Some(guess) if is_text => match guess.type_().as_str() {
            "text" | "application" => guess.essence_str().to_owned(),
            "image" if guess.subtype() == "svg" => guess.essence_str().to_owned(),
            _ => "text/plain".to_owned(),
        },
        Some(guess) if guess.type_() != "text" => guess.essence_str().to_owned(),
        None if is_text => "text/plain".to_owned(),
        Some(_) | None => "application/octet-stream".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_content_before_names() {
        let of = |name: &str, content: &[u8]| mime_type(Path::new(name), content);
        assert_eq!(of("a.ts", b"let a = 1"), "text/plain");
        assert_eq!(of("a.txt", b"\x89PNG\r\n\x1a\n.."), "image/png");
        assert_eq!(of("a.json", b"{}"), "application/json");
        assert_eq!(of("a.svg", b"<svg/>"), "image/svg+xml");
        assert_eq!(of("Makefile", b"all:"), "text/plain");
        assert_eq!(of("a.txt", b"\xff\xfe\x00"), "application/octet-stream");
        assert_eq!(of("a.pdf", b"%PDF\xff"), "application/pdf");
    }
}
