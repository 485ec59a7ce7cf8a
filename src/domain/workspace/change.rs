//! Changing files for clients: what is checked and what is done are one step among all that write through here.

use std::{
    fs::Metadata,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};

use super::{
    Workspace,
    facts::{Facts, HEAD},
    list,
    path::{PathError, Problem, RelativePath, in_git},
    place::{Place, Staged},
    tag,
};
use crate::domain::{
    error::{Code, Error, Result},
    file::{Checks, Current},
};

/// A file on its way in: written out of sight, and gone unless it is finished.
pub(crate) struct Incoming {
    staged: Staged,
    hash: Sha256,
    size: u64,
    head: Vec<u8>,
}

/// A file that was written.
pub(crate) struct Written {
    pub canonical: PathBuf,
    pub facts: Facts,
    pub etag: String,
    /// Whether it did not exist before.
    pub created: bool,
}

impl Workspace {
    /// Begins a file that is to be at `path`, if the checks permit it as things are now. With `create_dirs` its directory
    /// may be missing: it is made when the file is finished, and what breaks off leaves none. Blocks.
    pub(crate) fn begin(&self, path: &RelativePath, create_dirs: bool, checks: &Checks) -> Result<Incoming> {
        let place = match self.0.jail.place(path) {
            Err(PathError { problem: Problem::NotFound, .. }) if create_dirs => {
                refuse_git(path, path.as_path())?;
                checks.permit_change(&path.to_string(), None)?;
                let above = self.0.jail.above(path).map_err(in_the_way)?;
                refuse_git(path, &above.canonical)?;
                above
            }
            Ok(_) | Err(_) => self.target(path, false, checks)?.0,
        };
        let staged = place.stage().map_err(|error| PathError::io(path, error))?;
        Ok(Incoming { staged, hash: Sha256::new(), size: 0, head: Vec::new() })
    }

    /// Puts the file in its place if the checks permit it still. Whoever reads sees the old content or the new one.
    /// Blocks.
    pub(crate) fn finish(
        &self,
        path: &RelativePath,
        create_dirs: bool,
        checks: &Checks,
        incoming: Incoming,
    ) -> Result<Written> {
        let fail = |error| Error::from(PathError::io(path, error));
        let Incoming { staged, hash, size, head } = incoming;
        // The long part of it, while others may write.
        staged.flush().map_err(fail)?;
        let _one_step = self.writing();
        let (place, old) = self.target(path, create_dirs, checks)?;
        self.preserve(&place.canonical).map_err(fail)?;
        let file = place.commit(staged, old.as_ref()).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let etag = if size > tag::MAX_HASHED { tag::of_figures(&metadata) } else { tag::finish(hash) };
        let created = old.is_none();
        let facts = Facts::of_file(path.as_path(), &metadata, &head);
        Ok(Written { canonical: place.canonical, facts, etag, created })
    }

    /// Deletes a file, a link itself, or a directory: an empty one, or with `recursive` all that is in it. Answers the
    /// path below the root, without links and `..`. Blocks.
    pub(crate) fn delete(&self, path: &RelativePath, recursive: bool, checks: &Checks) -> Result<PathBuf> {
        let fail = |error| Error::from(PathError::io(path, error));
        let _one_step = self.writing();
        refuse_git(path, path.as_path())?;
        let place = self.0.jail.entry(path)?;
        refuse_git(path, &place.canonical)?;
        let stat = place.stat().map_err(fail)?.ok_or_else(|| PathError::new(path.to_string(), Problem::NotFound))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        // Of a link the tag is that of the file behind it, as reading it has told; a link that leads nowhere has none.
        let etag = || match self.open_file(path) {
            Ok(file) => Ok(Some(self.tag_of(path, &file)?.0)),
            Err(_) => Ok(None),
        };
        let facts = Facts::of_entry(path.as_path(), &stat);
        checks.permit_change(&path.to_string(), Some(&Current { etag: &etag, modified_at: facts.modified_at }))?;
        if is_directory && recursive {
            self.empty(path, &place)?;
        } else if !is_directory {
            self.preserve(&place.canonical).map_err(fail)?;
        }
        place.remove(is_directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::DirectoryNotEmpty => {
                let rest =
                    if recursive { "something was put into it meanwhile" } else { "set recursive to delete all" };
                Error::new(Code::AlreadyExists, format!("directory {:?} is not empty: {rest}", path.to_string()))
            }
            _ => fail(error),
        })?;
        Ok(place.canonical)
    }

    /// Deletes all that is in a directory. A `.git` anywhere in it keeps all of it: a repository is not deleted by
    /// deleting what it happens to lie in.
    fn empty(&self, path: &RelativePath, place: &Place) -> Result<()> {
        let fail = |below: &Path, error| PathError::io(&RelativePath::found(&path.as_path().join(below)), error);
        let (above, directory) =
            (&place.canonical, place.open_directory().map_err(|error| fail(Path::new(""), error))?);
        let jail = self.0.jail.held(directory);
        let found = list::everything(&jail).map_err(|error| fail(Path::new(""), error.into()))?;
        if let Some((git, _)) = found.iter().find(|(path, _)| in_git(path)) {
            let git = path.as_path().join(git).display().to_string();
            let detail = format!("directory {:?} holds {git:?}, which is not deleted here", path.to_string());
            return Err(Error::new(Code::PermissionDenied, detail));
        }
        // In reverse order what is in a directory comes before it.
        for (below, is_directory) in found.iter().rev() {
            if !is_directory {
                self.preserve(&above.join(below)).map_err(|error| fail(below, error))?;
            }
            let place = jail.plain_entry(below).map_err(|error| fail(below, error.into()));
            match place.and_then(|place| place.unlink(*is_directory).map_err(|error| fail(below, error))) {
                // Somebody else was faster, or put something there, which deleting the directory itself will tell.
                Err(PathError { problem: Problem::NotFound, .. }) => {}
                Err(PathError { problem: Problem::Io(error), .. })
                    if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Where a file is to be put, and what is there; refused where it may not be.
    fn target(&self, path: &RelativePath, create_dirs: bool, checks: &Checks) -> Result<(Place, Option<Stat>)> {
        refuse_git(path, path.as_path())?;
        let place = match self.0.jail.place(path) {
            Err(PathError { problem: Problem::NotFound, .. }) if create_dirs => {
                // Nothing is made for a request that does not hold.
                checks.permit_change(&path.to_string(), None)?;
                self.0.jail.make_parents(path).map_err(in_the_way)?;
                self.0.jail.place(path)
            }
            Err(PathError { problem: Problem::NotFound, path }) => {
                let detail = format!("the directory of {path:?} does not exist; create_dirs makes it");
                return Err(Error::new(Code::NotFound, detail));
            }
            found => found,
        };
        let place = place.map_err(in_the_way)?;
        refuse_git(path, &place.canonical)?;
        let old = place.replaceable().map_err(|error| in_the_way(PathError::io(path, error)))?;
        let etag = || {
            let file = place.open().map_err(|error| PathError::io(path, error))?;
            Ok(Some(self.tag_of(path, &file)?.0))
        };
        let current = old
            .as_ref()
            .map(|stat| Current { etag: &etag, modified_at: Facts::of_entry(path.as_path(), stat).modified_at });
        checks.permit_change(&path.to_string(), current.as_ref())?;
        Ok((place, old))
    }

    /// The tag of an open file, and what the system says of it as it was tagged.
    pub(crate) fn tag_of(&self, path: &RelativePath, file: &std::fs::File) -> Result<(String, Metadata)> {
        self.0.tags.of(file).map_err(|error| PathError::io(path, error).into())
    }
}

impl Incoming {
    /// Writes on. Blocks.
    pub(crate) fn write(&mut self, path: &RelativePath, mut content: &[u8]) -> Result<()> {
        self.staged.write(content).map_err(|error| PathError::io(path, error))?;
        self.size += content.len() as u64;
        if self.size <= tag::MAX_HASHED {
            self.hash.update(content);
        }
        let room = HEAD.saturating_sub(self.head.len()).min(content.len());
        // Reading from a slice does not fail.
        let _ = content.by_ref().take(room as u64).read_to_end(&mut self.head);
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

fn refuse_git(path: &RelativePath, canonical: &Path) -> Result<()> {
    if in_git(canonical) { Err(PathError::new(path.to_string(), Problem::Git).into()) } else { Ok(()) }
}

/// What stands where a file is to be put is told as such.
fn in_the_way(error: PathError) -> Error {
    if matches!(error.problem, Problem::IsDirectory | Problem::NotDirectory) {
        return Error::new(Code::AlreadyExists, error.to_string());
    }
    error.into()
}
