//! The user's own repository and rules, as far as they make a difference to a version.

use std::{
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::AtFlags;

use super::{
    State, Versions,
    manifest::{self, Dir, Figures, File},
    open_dir,
    rules::Rules,
    seed::{self, Seed, UserGit},
};

impl Versions {
    /// Reads what is new of the user's repository. Answers its index for the first look, and whether anything is new that
    /// may make a difference to any file.
    pub(super) fn meet_the_user(&self, state: &mut State) -> io::Result<(Option<Seed>, bool)> {
        let git = UserGit::of(&self.root_path);
        let excluded = self.excluded();
        let mut news = std::mem::replace(&mut state.excluded, excluded) != excluded;
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
        state.index = figures;
        let entries = state.git.as_ref().and_then(|git| git.entries(&self.folder.join("index")));
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

    /// The figures of what the user's repository excludes without saying so in the workspace.
    fn excluded(&self) -> Option<Figures> {
        let info = open_dir(self.root.as_fd(), Path::new(".git/info"))?;
        let stat = rustix::fs::statat(info, "exclude", AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Figures::of(&stat))
    }

    /// Whether a rule ignores a path or a directory above it. To be asked in the order of paths, or it is slow.
    pub(super) fn ignores(&self) -> impl Fn(&Path) -> bool {
        let base = std::cell::RefCell::new(Vec::<(PathBuf, Arc<Rules>, bool)>::new());
        move |path: &Path| {
            let mut known = base.borrow_mut();
            let above = path.parent().unwrap_or(Path::new(""));
            // Most have their directory with the one before.
            if let Some((dir, rules, is_ignored)) = known.last()
                && dir.as_os_str() == above.as_os_str()
            {
                return *is_ignored || rules.ignores(path, false);
            }
            while known.last().is_some_and(|(dir, ..)| !above.starts_with(dir)) {
                known.pop();
            }
            if known.is_empty() {
                known.push((PathBuf::new(), self.rules_of(Path::new(""), &Arc::default()), false));
            }
            let depth = known.last().map_or(0, |(dir, ..)| dir.components().count());
            let mut dir = known.last().map(|(dir, ..)| dir.clone()).unwrap_or_default();
            for name in above.components().skip(depth) {
                let Some((_, rules, is_ignored)) = known.last().cloned() else { return false };
                dir.push(name);
                let is_ignored = is_ignored || rules.ignores(&dir, true);
                known.push((dir.clone(), self.rules_of(&dir, &rules), is_ignored));
            }
            known.last().is_some_and(|(_, rules, is_ignored)| *is_ignored || rules.ignores(path, false))
        }
    }

    fn rules_of(&self, dir: &Path, above: &Arc<Rules>) -> Arc<Rules> {
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let Some(fd) = open_dir(self.root.as_fd(), here) else { return Arc::clone(above) };
        let mut rules = Arc::clone(above);
        if dir.as_os_str().is_empty()
            && let Some(info) = open_dir(self.root.as_fd(), Path::new(".git/info"))
        {
            rules = Rules::below(&rules, self.compiled.ignored(info.as_fd(), "exclude", dir).map(|(_, own)| own), None);
        }
        Rules::below(&rules, self.compiled.ignored(fd.as_fd(), ".gitignore", dir).map(|(_, own)| own), None)
    }

    pub(super) fn is_ignored(&self, state: &State, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        state.forced.binary_search_by(|own| own.as_slice().cmp(bytes)).is_err() && self.ignores()(path)
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
