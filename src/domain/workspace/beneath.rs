//! Opening files beneath the root. The kernel judges (`openat2` with RESOLVE_BENEATH); where it cannot (an old
//! kernel, an old container's seccomp filter, gVisor) the path is walked name by name here, never following a link
//! that was not read and judged first. Paths are never joined to strings and opened.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    path::{MAX_PATH, PathError, Problem, RelativePath, in_git},
    place::Place,
};

/// Times that `openat2` is asked again when a rename elsewhere made it uncertain (EAGAIN).
const RETRIES: usize = 16;
/// Links that one path may go through, as in the kernel.
const MAX_LINKS: usize = 40;

/// A directory and a way to open what is beneath it, and nothing else.
pub(super) struct Jail {
    root: OwnedFd,
    openat2: bool,
}

impl Jail {
    /// Holds the directory.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut jail = Self { root, openat2: true };
        if let Err(Errno::NOSYS | Errno::PERM) = jail.open_with(Path::new("."), OFlags::PATH) {
            tracing::info!("openat2 is not available here; paths are resolved name by name");
            jail.openat2 = false;
        }
        Ok(jail)
    }

    /// One that resolves name by name, as where the kernel cannot.
    #[cfg(test)]
    pub(super) fn by_hand(root: &Path) -> io::Result<Self> {
        Ok(Self { openat2: false, ..Self::open(root)? })
    }

    /// Opens what the path names, its last link followed.
    pub(super) fn open_with(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    }

    /// Opens what the path names, which may have no link in it, nor be one. (With `O_PATH` a link at its end is opened
    /// as itself.)
    pub(super) fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags | OFlags::NOFOLLOW, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    /// The directory that the path names, as a jail of its own: what is beneath it stays in reach when it is moved, and
    /// a link that takes its place leads nobody anywhere.
    pub(super) fn below(&self, path: &Path) -> Result<Self, Errno> {
        let root = self.open_with(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self { root, openat2: self.openat2 })
    }

    /// A directory that is open already, as a jail of its own.
    pub(super) fn held(&self, root: OwnedFd) -> Self {
        Self { root, openat2: self.openat2 }
    }

    /// Where the path's last name itself is; no link may be in the path before it.
    pub(super) fn plain_entry(&self, path: &Path) -> Result<Place, Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ISDIR) };
        let here = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = self.open_plain(here, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Place::new(directory, name.to_owned(), path.to_owned()))
    }

    /// The directory itself.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        // What is longer than the kernel takes at once is reached name by name.
        if !self.openat2 || path.as_os_str().len() > MAX_PATH {
            let follow = !resolve.contains(ResolveFlags::NO_SYMLINKS);
            return walk(self.root.as_fd(), path, flags, follow);
        }
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
                answer => return answer,
            }
        }
    }

    /// Opens a regular file to read. Pipes and devices are refused and do not block.
    pub(super) fn open_file(&self, path: &RelativePath) -> Result<File, PathError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fail = |problem| Err(PathError::new(path.to_string(), problem));
        let file = File::from(self.open_with(path.as_path(), flags).map_err(|e| PathError::io(path, e.into()))?);
        let kind = file.metadata().map_err(|error| PathError::io(path, error))?.file_type();
        match (kind.is_file(), kind.is_dir()) {
            (true, _) => Ok(file),
            (false, true) => fail(Problem::IsDirectory),
            (false, false) => fail(Problem::Special),
        }
    }

    /// The path of an open file below the root, without links and `..`; `.` for the root itself.
    pub(super) fn canonical(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        let name = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // The root's name of now: it may have been renamed since it was opened.
        match name(fd)?.strip_prefix(name(self.root.as_fd())?) {
            Ok(path) if path.as_os_str().is_empty() => Ok(PathBuf::from(".")),
            Ok(path) => Ok(path.to_owned()),
            // Moved out of the root between opening and asking.
            Err(_) => Err(Errno::XDEV.into()),
        }
    }

    /// Where a file named so is or would be; the directories before it must exist.
    pub(super) fn place(&self, path: &RelativePath) -> Result<Place, PathError> {
        let fail = |error: Errno| PathError::io(path, error.into());
        let mut next = path.as_path().to_owned();
        for _ in 0..=MAX_LINKS {
            let (Some(parent), Some(name)) = (next.parent(), next.file_name()) else {
                return Err(fail(Errno::ISDIR));
            };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let directory = self.open_with(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
            match rustix::fs::readlinkat(&directory, name, Vec::new()) {
                Ok(target) => {
                    // An absolute target replaces the whole path here, and is then refused by open.
                    next = parent.join(OsStr::from_bytes(target.as_bytes()));
                    if next.is_absolute() {
                        return Err(fail(Errno::XDEV));
                    }
                }
                // It is no link, or is not there yet.
                Err(Errno::INVAL | Errno::NOENT) => {
                    let above = self.canonical(directory.as_fd()).map_err(|error| PathError::io(path, error))?;
                    let canonical = if above == Path::new(".") { PathBuf::from(name) } else { above.join(name) };
                    return Ok(Place::new(directory, name.to_owned(), canonical));
                }
                Err(error) => return Err(fail(error)),
            }
        }
        Err(fail(Errno::LOOP))
    }

    /// A place in the nearest directory above the path that there is, where the one it would be in is missing.
    pub(super) fn above(&self, path: &RelativePath) -> Result<Place, PathError> {
        let fail = |error: Errno| PathError::io(path, error.into());
        let name = path.as_path().file_name().ok_or_else(|| fail(Errno::ISDIR))?;
        for (number, above) in path.as_path().ancestors().skip(1).enumerate() {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            match self.open_with(above, OFlags::PATH | OFlags::DIRECTORY) {
                // Then it is a link that leads to what is missing.
                Ok(_) if number == 0 => break,
                Ok(directory) => {
                    let canonical = self.canonical(directory.as_fd()).map_err(|error| PathError::io(path, error))?;
                    return Ok(Place::new(directory, name.to_owned(), canonical.join(name)));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Err(fail(Errno::NOENT))
    }

    /// Where the path's last name itself is, be it a link or not; the directories before it must exist.
    pub(super) fn entry(&self, path: &RelativePath) -> Result<Place, PathError> {
        let fail = |error: Errno| PathError::io(path, error.into());
        let (Some(parent), Some(name)) = (path.as_path().parent(), path.as_path().file_name()) else {
            return Err(fail(Errno::ISDIR));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = self.open_with(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        let above = self.canonical(directory.as_fd()).map_err(|error| PathError::io(path, error))?;
        let canonical = if above == Path::new(".") { PathBuf::from(name) } else { above.join(name) };
        Ok(Place::new(directory, name.to_owned(), canonical))
    }

    /// Makes the directories before the path's last name, where they are missing.
    pub(super) fn make_parents(&self, path: &RelativePath) -> Result<(), PathError> {
        let fail = |error: Errno| PathError::io(path, error.into());
        let Some(parents) = path.as_path().parent().filter(|parent| !parent.as_os_str().is_empty()) else {
            return Ok(());
        };
        let open = |path: &Path| self.open_with(path, OFlags::PATH | OFlags::DIRECTORY);
        match open(parents) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(fail(error)),
        }
        let mut sofar = PathBuf::new();
        let mut above = open(Path::new(".")).map_err(fail)?;
        let mut parts = parents.components();
        while let Some(part) = parts.next() {
            sofar.push(part);
            let mut next = open(&sofar);
            if let (Err(Errno::NOENT), Component::Normal(name)) = (&next, part) {
                // What does not exist leads nowhere, also not back: who judged the path went by that.
                if parts.clone().any(|part| part == Component::ParentDir) {
                    return Err(fail(Errno::NOENT));
                }
                // A link on the way may have led into .git.
                if in_git(&self.canonical(above.as_fd()).map_err(|error| PathError::io(path, error))?) {
                    return Err(PathError::new(path.to_string(), Problem::Git));
                }
                match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => next = open(&sofar),
                    Err(error) => return Err(fail(error)),
                }
            }
            above = next.map_err(fail)?;
        }
        Ok(())
    }
}

/// `openat2` by hand. The directories on the way are held open, so that `..` is the one we came through.
fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlags, follow: bool) -> Result<OwnedFd, Errno> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut ahead: Vec<OsString> = Vec::new();
    let push = |ahead: &mut Vec<OsString>, path: &Path| {
        ahead.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
    };
    if path.is_absolute() {
        return Err(Errno::XDEV);
    }
    push(&mut ahead, path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == "." {
            continue;
        }
        if name == ".." {
            above.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let here = above.last().map_or(root, AsFd::as_fd);
        match rustix::fs::readlinkat(here, &name, Vec::new()) {
            Ok(_) if !follow && ahead.is_empty() && flags.contains(OFlags::PATH) => {
                return rustix::fs::openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty());
            }
            Ok(_) if !follow => return Err(Errno::LOOP),
            Ok(target) => {
                links += 1;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                if target.is_absolute() {
                    return Err(Errno::XDEV);
                }
                push(&mut ahead, target);
            }
            Err(Errno::INVAL) if ahead.is_empty() => {
                return rustix::fs::openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty());
            }
            Err(Errno::INVAL) => {
                let next = rustix::fs::openat(here, &name, directory, Mode::empty())?;
                above.push(next);
            }
            Err(error) => return Err(error),
        }
    }
    let here = above.last().map_or(root, AsFd::as_fd);
    rustix::fs::openat(here, ".", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn both_ways_of_opening_judge_alike() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("w/a/b")).unwrap();
        std::fs::write(at("w/a/b/file"), "inside").unwrap();
        std::fs::write(at("secret"), "outside").unwrap();
        for (target, link) in [
            ("b/file", "w/a/in"),
            ("a/b", "w/dir"),
            ("../secret", "w/out"),
            ("../../w/a/b/file", "w/a/round"),
            ("circle", "w/circle"),
            ("../a/in", "w/a/twice"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("w/a/b/file"), at("w/absolute")).unwrap();
        let kernel = Jail::open(&at("w")).unwrap();
        let hand = Jail::by_hand(&at("w")).unwrap();
        for (path, found) in [
            ("a/b/file", Some("a/b/file")),
            ("a/in", Some("a/b/file")),
            ("a/twice", Some("a/b/file")),
            ("dir/file", Some("a/b/file")),
            ("dir/../b/file", Some("a/b/file")),
            ("a/../a/b", Some("a/b")),
            (".", Some(".")),
            ("a/..", Some(".")),
            ("..", None),
            ("a/../../w/a/b/file", None),
            ("dir/../../../secret", None),
            ("out", None),
            ("a/round", None),
            ("circle", None),
            ("absolute", None),
            ("/etc/passwd", None),
            ("missing", None),
            ("a/b/file/more", None),
        ] {
            for jail in [&kernel, &hand] {
                let opened = jail.open_with(Path::new(path), OFlags::PATH);
                let name = opened.map(|fd| jail.canonical(fd.as_fd()).unwrap());
                assert_eq!(name.ok().as_deref(), found.map(Path::new), "{path} openat2={}", jail.openat2);
            }
            let errors = [&kernel, &hand].map(|jail| jail.open_with(Path::new(path), OFlags::PATH).err());
            assert_eq!(errors[0], errors[1], "{path}");
        }
    }
}
