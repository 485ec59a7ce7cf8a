//! Names of files as clients and the model give them, and what can be wrong with them.

use std::{
    ffi::OsStr,
    fmt, io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::super::error::{Code, Error};

/// Bytes of the longest path, as the system has it.
pub(crate) const MAX_PATH: usize = 4095;

/// A path below the root, as it was named. It may still hold `..` and pass through links: only opening it beneath the
/// root tells whether it stays inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RelativePath(PathBuf);

/// Why a path cannot be used, in words for whoever named it.
#[derive(Debug)]
pub struct PathError {
    /// The path as it was named.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a path.
#[derive(Debug)]
pub enum Problem {
    /// It is empty.
    Empty,
    /// It holds a NUL byte.
    Nul,
    /// It has a segment that clients may not send: empty or `.`.
    Segment,
    /// It leads out of the workspace.
    Outside,
    /// It would write inside `.git`.
    Git,
    /// There is nothing.
    NotFound,
    /// It is a directory where a file is needed.
    IsDirectory,
    /// One of its parents is a file.
    NotDirectory,
    /// It is no directory where one is needed.
    NoFolder,
    /// It is a socket, a device or a pipe.
    Special,
    /// Its links lead in a circle.
    Loop,
    /// A name in it is longer than the file system allows.
    TooLong,
    /// The file system refuses it.
    Denied,
    /// The file has more bytes than that.
    TooLarge(u64),
    /// The disk is full.
    NoRoom,
    /// Something else was renaming there the whole time, or the server has no file descriptors left.
    Uncertain,
    /// Anything else that the system says.
    Io(io::Error),
}

impl RelativePath {
    /// The root itself.
    pub(crate) fn root() -> Self {
        Self(PathBuf::from("."))
    }

    /// Whether it is the root itself.
    pub(super) fn is_root(&self) -> bool {
        self.0 == Path::new(".")
    }

    /// A path that a walk below the root has found.
    pub(crate) fn found(path: &Path) -> Self {
        Self(tidy(path))
    }

    /// A path from a client: relative, without `.` and `..`.
    pub(super) fn from_client(text: &str) -> Result<Self, PathError> {
        Self::from_bytes(text.as_bytes())
    }

    /// The same, of a name that need not be UTF-8.
    pub(super) fn from_bytes(name: &[u8]) -> Result<Self, PathError> {
        let fail = |problem| Err(PathError::new(String::from_utf8_lossy(name), problem));
        let mut segments = name.split(|byte| *byte == b'/');
        if name.is_empty() {
            return fail(Problem::Empty);
        }
        if name.contains(&0) {
            return fail(Problem::Nul);
        }
        if name.len() > MAX_PATH {
            return fail(Problem::TooLong);
        }
        if name.starts_with(b"/") || segments.clone().any(|segment| segment == b"..") {
            return fail(Problem::Outside);
        }
        if segments.any(|segment| segment.is_empty() || segment == b".") {
            return fail(Problem::Segment);
        }
        Ok(Self(PathBuf::from(OsStr::from_bytes(name))))
    }

    /// A path from the model: relative to the root, or absolute below one of the names that the root goes by.
    pub(super) fn from_model(text: &str, roots: [&Path; 2]) -> Result<Self, PathError> {
        let fail = |problem| Err(PathError::new(text, problem));
        if text.is_empty() {
            return fail(Problem::Empty);
        }
        if text.contains('\0') {
            return fail(Problem::Nul);
        }
        let path = Path::new(text);
        if path.is_relative() {
            return Ok(Self(tidy(path)));
        }
        match roots.iter().find_map(|root| path.strip_prefix(root).ok()) {
            Some(inside) => Ok(Self(tidy(inside))),
            None => fail(Problem::Outside),
        }
    }

    /// The path.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl PathError {
    pub(super) fn new(path: impl Into<String>, problem: Problem) -> Self {
        Self { path: path.into(), problem }
    }

    pub(crate) fn io(path: &RelativePath, error: io::Error) -> Self {
        Self::new(path.to_string(), Problem::from(error))
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What RESOLVE_BENEATH answers for a path that leads out.
            io::ErrorKind::CrossesDevices => Self::Outside,
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::IsADirectory => Self::IsDirectory,
            io::ErrorKind::NotADirectory => Self::NotDirectory,
            io::ErrorKind::InvalidFilename => Self::TooLong,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::NoRoom,
            io::ErrorKind::WouldBlock => Self::Uncertain,
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => Self::Uncertain,
            _ if error.raw_os_error() == Some(rustix::io::Errno::NFILE.raw_os_error()) => Self::Uncertain,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Self::Loop,
            _ if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Self::Special,
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.problem {
            Problem::Empty => f.write_str("the path is empty"),
            Problem::Nul => f.write_str("the path holds a NUL byte"),
            Problem::Segment => write!(f, "path {path:?} has an empty or \".\" segment"),
            Problem::Outside => write!(f, "path {path:?} leads out of the workspace"),
            Problem::Git => write!(f, "path {path:?} is inside .git, which is not written here"),
            Problem::NotFound => write!(f, "there is no file {path:?}"),
            Problem::IsDirectory => write!(f, "path {path:?} is a directory"),
            Problem::NotDirectory => write!(f, "a parent of path {path:?} is not a directory"),
            Problem::NoFolder => write!(f, "path {path:?} is not a directory"),
            Problem::Special => write!(f, "path {path:?} is not a regular file"),
            Problem::Loop => write!(f, "path {path:?} goes through too many links or a link that may not be followed"),
            Problem::TooLong => write!(f, "path {path:?} or a name in it is too long"),
            Problem::Denied => write!(f, "the file system does not permit that for path {path:?}"),
            Problem::TooLarge(limit) => write!(f, "file {path:?} has more than {limit} bytes"),
            Problem::NoRoom => write!(f, "the disk has no room for {path:?}; nothing was changed"),
            Problem::Uncertain => write!(f, "path {path:?} could not be resolved just now: try again"),
            Problem::Io(error) => write!(f, "path {path:?} cannot be used: {error}"),
        }
    }
}

impl std::error::Error for PathError {}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        let code = match &error.problem {
            Problem::Empty
            | Problem::Nul
            | Problem::Segment
            | Problem::IsDirectory
            | Problem::NotDirectory
            | Problem::NoFolder
            | Problem::Special
            | Problem::Loop
            | Problem::TooLong => return Self::field("path", error.to_string()),
            Problem::Outside | Problem::Git => {
                return Self::new(Code::PermissionDenied, error.to_string()).about("path");
            }
            Problem::Denied => Code::PermissionDenied,
            Problem::NotFound => Code::NotFound,
            Problem::TooLarge(_) => Code::TooLarge,
            Problem::NoRoom => Code::InsufficientStorage,
            Problem::Uncertain => {
                return Self::new(Code::Unavailable, error.to_string()).retry_after(Duration::from_secs(1));
            }
            Problem::Io(_) => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}

/// Whether a path has `.git`, in any case, among its names.
pub(super) fn in_git(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().eq_ignore_ascii_case(".git"))
}

/// The path without `.` and doubled slashes. `..` stays: what it means depends on the links before it.
fn tidy(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_may_name_absolute_paths_below_the_root_alone() {
        let roots = [Path::new("/w/proj"), Path::new("/link")];
        let parse = |text| RelativePath::from_model(text, roots).map(|path| path.to_string()).ok();
        assert_eq!(parse("/w/proj/a//./b/"), Some("a/b".into()));
        assert_eq!(parse("/link/a"), Some("a".into()));
        assert_eq!(parse("/w/proj"), Some(".".into()));
        assert_eq!(parse("a/../b"), Some("a/../b".into()));
        for text in ["/w/proj-x/a", "/etc/passwd", "", "a\0b"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn clients_name_plain_relative_paths() {
        let code = |text| RelativePath::from_client(text).map_err(|error| Error::from(error).code()).err();
        assert_eq!(code("..hidden/a b+c;/changes"), None);
        for text in ["", "a\0", "./a", "a//b", "a/", "."] {
            assert_eq!(code(text), Some(Code::InvalidArgument), "{text:?}");
        }
        for text in ["/abs", "..", "a/../b", "../../etc"] {
            assert_eq!(code(text), Some(Code::PermissionDenied), "{text:?}");
        }
    }

    #[test]
    fn what_may_go_well_the_next_time_says_so() {
        for errno in [rustix::io::Errno::AGAIN, rustix::io::Errno::MFILE] {
            let error = Error::from(PathError::io(&RelativePath::root(), errno.into()));
            assert_eq!((error.code(), error.code().retryable()), (Code::Unavailable, true));
            assert!(error.retry_after_hint().is_some());
        }
    }

    #[test]
    fn git_is_git_in_any_case() {
        assert!(in_git(Path::new("a/.GIT/config")) && in_git(Path::new(".git")));
        assert!(!in_git(Path::new(".gitignore")) && !in_git(Path::new("a.git/b")));
    }
}
