//! The user's own repository and rules, as far as they make a difference to a version.

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, FileType};

use super::{
    super::{
        figures::Figures,
        rules::{InForce, Reads},
    },
    State, Versions,
    manifest::{self, Dir, File},
    open_dir,
    seed::{self, Seed, UserGit},
};

impl Versions {
    /// Reads what is new of the user's repository. Answers its index for the first look, and whether anything is new that
    /// may make a difference to any file.
    pub(super) fn meet_the_user(&self, state: &mut State) -> io::Result<(Option<Seed>, bool)> {
        let git = UserGit::of(&self.root_path);
        let mut news = state.repositories.iter().any(|(path, known)| self.excluded(path) != *known);
        if git != state.git {
            self.objects.borrow_from(git.as_ref().map(UserGit::objects).as_deref())?;
            // What was borrowed may be gone with the repository that had it.
            state.manifest = Arc::new(without_seeds(&state.manifest));
            state.git = git;
            news = true;
        }
        let figures = state.git.as_ref().and_then(UserGit::index_figures);
        if figures == state.index && !(state.empty && figures.is_some()) {
            return Ok((None, news));
        }
        let entries = state.git.as_ref().map(|git| git.entries(&self.folder.join("index"))).transpose()?.flatten();
        state.index = figures;
        let Some((entries, written)) = entries else {
            news |= !state.forced.is_empty();
            state.forced = Arc::default();
            return Ok((None, news));
        };
        let forced = seed::tracked(&entries, self.ignores());
        news |= forced != *state.forced;
        state.forced = Arc::new(forced);
        Ok((state.empty.then(|| Seed::new((entries, written))), news))
    }

    /// The figures of what a repository excludes without saying so in the workspace.
    fn excluded(&self, repository: &[u8]) -> Option<Figures> {
        let info = open_dir(self.root.as_fd(), &Path::new(OsStr::from_bytes(repository)).join(".git/info"))?;
        let stat = rustix::fs::statat(info, "exclude", AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| Figures::of(&stat))
    }

    /// Whether a rule ignores a path or a directory above it. To be asked in the order of paths, or it is slow.
    pub(super) fn ignores(&self) -> impl Fn(&Path) -> bool {
        let base = std::cell::RefCell::new(Vec::<(PathBuf, InForce, bool)>::new());
        move |path: &Path| {
            let ignores = |rules: &InForce, path: &Path, is_directory| {
                rules.as_ref().is_some_and(|rules| rules.ignores(path.as_os_str().as_bytes(), is_directory))
            };
            let mut known = base.borrow_mut();
            let above = path.parent().unwrap_or(Path::new(""));
            // Most have their directory with the one before.
            if let Some((dir, rules, is_ignored)) = known.last()
                && dir.as_os_str() == above.as_os_str()
            {
                return *is_ignored || ignores(rules, path, false);
            }
            while known.last().is_some_and(|(dir, ..)| !above.starts_with(dir)) {
                known.pop();
            }
            if known.is_empty() {
                known.push((PathBuf::new(), self.rules_of(Path::new(""), None), false));
            }
            let depth = known.last().map_or(0, |(dir, ..)| dir.components().count());
            let mut dir = known.last().map(|(dir, ..)| dir.clone()).unwrap_or_default();
            for name in above.components().skip(depth) {
                let Some((_, rules, is_ignored)) = known.last().cloned() else { return false };
                dir.push(name);
                let is_ignored = is_ignored || ignores(&rules, &dir, true);
                known.push((dir.clone(), self.rules_of(&dir, rules), is_ignored));
            }
            known.last().is_some_and(|(_, rules, is_ignored)| *is_ignored || ignores(rules, path, false))
        }
    }

    fn rules_of(&self, dir: &Path, above: InForce) -> InForce {
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let Some(fd) = open_dir(self.root.as_fd(), here) else { return above };
        self.rules.enter_unread(above, fd.as_fd(), dir.as_os_str().as_bytes(), Reads::default()).rules
    }

    pub(super) fn is_ignored(&self, state: &State, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        state.forced.binary_search_by(|own| own.as_slice().cmp(bytes)).is_err() && self.ignores()(path)
    }
}

impl State {
    /// What a look came upon: directories that are repositories now, or are none any more. A look at everything also
    /// tells what is gone.
    pub(super) fn met(&mut self, news: Vec<(Vec<u8>, Option<Option<Figures>>)>, all: Option<&Dir>) {
        if let Some(root) = all {
            self.repositories.retain(|path, _| path.is_empty() || root.holds(path));
        }
        for (path, repository) in news {
            match repository {
                Some(excluded) => self.repositories.insert(path, excluded),
                None => self.repositories.remove(&path),
            };
        }
    }
}

/// The manifest with everything that was borrowed to be read again.
fn without_seeds(dir: &Dir) -> Dir {
    let entries = dir.entries.iter().map(|(name, node)| {
        let node = match node {
            manifest::Node::Dir(below) => manifest::Node::Dir(Arc::new(without_seeds(below))),
            manifest::Node::File(file) => manifest::Node::File(File { racy: file.racy || file.seeded, ..*file }),
        };
        (name.clone(), node)
    });
    Dir { entries: entries.collect(), tree: None }
}
