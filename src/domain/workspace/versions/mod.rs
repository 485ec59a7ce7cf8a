//! The versions of the workspace: what it held at a moment, as trees in a git repository of our own in the data
//! directory. The user's repository is read where that spares work, and never written. All of this blocks.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use git2::Oid;
use rustix::fs::{AtFlags, Mode, OFlags};

mod assemble;
mod content;
mod crew;
mod difference;
mod entry;
mod forced;
mod lack;
mod late;
mod lent;
mod links;
mod manifest;
mod narrow;
mod objects;
mod preserve;
mod prune;
mod restore;
mod revision;
mod saved;
mod scan;
mod seed;
mod user;
mod watch;

use self::{
    content::Read,
    links::Links,
    manifest::{Dir, File, Kind},
    objects::{Keeper, Objects},
    saved::Saved,
    scan::Scan,
    seed::UserGit,
    watch::{News, Watch},
};
pub(in crate::domain) use self::{
    difference::{Ask, Compared, Contents, Difference, DifferenceKind},
    lack::{Lack, LackReason, Limits, lacks_from, lacks_to},
    objects::{MAX_STORED, nobodys_settings},
    revision::GitView,
};
use super::{Workspace, figures::Figures, rules::Compiled};

/// The versions of one workspace.
pub(in crate::domain) struct Versions {
    root: OwnedFd,
    root_path: PathBuf,
    folder: PathBuf,
    objects: Objects,
    rules: Arc<Compiled>,
    state: Mutex<State>,
    /// What files were before the agent changed them, while a look that has to see them as they were is under way.
    preserved: Mutex<Option<HashMap<Vec<u8>, Option<File>>>>,
    stop: AtomicBool,
    watch: Option<Watch>,
    /// How long what is heard stands for a look at everything.
    trust: Duration,
}

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum Reach {
    /// Everything.
    All,
    /// Everything, and what the agent changes meanwhile is taken as it was.
    AllBefore,
    /// What may have changed, as far as that was heard; everything else where something was missed.
    Heard,
}

/// Paths of directories that are repositories, each with the figures of its `info/exclude`.
type Repositories = BTreeMap<Vec<u8>, Option<Figures>>;

struct State {
    manifest: Arc<Dir>,
    git: Option<UserGit>,
    /// The user's index when it was last read, and what it has although a rule ignores it.
    index: Option<(u64, i64, i64)>,
    forced: Arc<Vec<Vec<u8>>>,
    /// The repositories in it, each with the figures of what it excludes without saying so in the workspace.
    repositories: Repositories,
    /// The manifest as a file.
    saved: Saved,
    /// Whether anything was ever looked at: the first look can be spared by the user's index.
    empty: bool,
    /// Whether the last look at everything came upon something that a rule ignores.
    ignored: bool,
    /// When the last look at everything began.
    whole: Option<Instant>,
    /// Files that can be changed without anybody's hearing of it.
    links: Links,
    /// How git saw it when that was last asked.
    view: Option<(revision::Source, Arc<GitView>)>,
}

/// What a look saw.
#[derive(Clone, Debug)]
pub(in crate::domain) struct Looked {
    /// The tree of everything that belongs to the version.
    pub tree: Oid,
    /// What it should hold and does not.
    pub lacks: Vec<Lack>,
}

impl Versions {
    /// Opens the versions of a workspace, kept in `folder`. Everything is looked at when the last such look is older than
    /// `trust`.
    pub(in crate::domain) fn open(workspace: &Workspace, folder: &Path, trust: Duration) -> io::Result<Self> {
        let root = workspace.root();
        std::fs::create_dir_all(folder)?;
        let git = UserGit::of(root);
        let objects = Objects::open(&folder.join("objects.git"), git.as_ref().map(UserGit::objects).as_deref())?;
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let manifest = saved::load(folder);
        let state = State {
            empty: manifest.is_none(),
            manifest: Arc::new(manifest.unwrap_or_default()),
            git,
            index: None,
            forced: Arc::default(),
            repositories: Repositories::new(),
            saved: Saved::default(),
            ignored: false,
            whole: None,
            links: Links::default(),
            view: None,
        };
        Ok(Self {
            root: fd,
            root_path: root.to_owned(),
            folder: folder.to_owned(),
            objects,
            rules: Arc::clone(&workspace.0.rules),
            state: Mutex::new(state),
            preserved: Mutex::default(),
            stop: AtomicBool::new(false),
            watch: Watch::new(),
            trust,
        })
    }

    /// Looks at the workspace. `carried` is what the last version lacked: what was left out as ignored stays so while it
    /// is there.
    pub(in crate::domain) fn look(&self, limits: &Limits, carried: &[Lack], reach: Reach) -> io::Result<Looked> {
        let before = reach == Reach::AllBefore;
        if before {
            *self.preserved() = Some(HashMap::new());
        }
        let looked = self.look_around(limits, carried, reach);
        let looked = match (looked, before.then(|| self.preserved().take()).flatten()) {
            (Ok(looked), Some(files)) if !files.is_empty() => self.put_back(looked, files),
            (looked, _) => looked,
        };
        self.preserved().take_if(|_| before);
        looked
    }

    fn look_around(&self, limits: &Limits, carried: &[Lack], reach: Reach) -> io::Result<Looked> {
        let mut state = self.state();
        let (seed, news) = self.meet_the_user(&mut state)?;
        let began = Instant::now();
        let heard = self.watch.as_ref().and_then(Watch::take);
        let is_whole = carried.iter().all(|lack| lack.reason == LackReason::Ignored);
        let is_trusted = state.whole.is_some_and(|last| last.elapsed() < self.trust) && !state.links.are_too_many();
        let mut only = heard.filter(|_| reach == Reach::Heard && !news && is_whole && !state.empty && is_trusted);
        if let Some(only) = &mut only {
            let State { links, manifest, .. } = &mut *state;
            links.ask(self.root.as_fd(), manifest, only);
        }
        tracing::debug!(everything = only.is_none(), "looking at the workspace");
        if only.as_ref().is_some_and(|only| only.dirty.is_empty()) {
            return Ok(Looked { tree: self.tree(&state.manifest)?, lacks: self.still(carried, &state.manifest) });
        }
        let scan = |only: Option<&News>| {
            let scan = Scan {
                root: self.root.as_fd(),
                objects: &self.objects,
                known: &state.manifest,
                seed: seed.as_ref(),
                rules: &self.rules,
                repositories: &state.repositories,
                forced: &state.forced,
                limits,
                stop: &self.stop,
                watch: self.watch.as_ref(),
                rematch: news,
                only,
            };
            scan.run().inspect_err(|_| {
                if let Some(watch) = &self.watch {
                    watch.missed();
                }
            })
        };
        let mut scanned = scan(only.as_ref())?;
        if only.is_some() && !state.links.has_all(&scanned.links) {
            // Which files they are other names of is not known, nor whether those were changed through them.
            tracing::debug!("looking at everything: a file has got another name");
            only = None;
            scanned = scan(None)?;
        }
        match only {
            Some(_) => state.links.add(scanned.links),
            None => (state.links, state.whole) = (scanned.links, Some(began)),
        }
        state.met(scanned.repositories, only.is_none().then_some(&scanned.root));
        let mut lacks = scanned.lacks;
        lacks.extend(self.still(carried, &scanned.root));
        state.ignored = scanned.ignored || (only.is_some() && state.ignored);
        state.manifest = Arc::new(scanned.root);
        if scanned.changed || state.empty {
            self.save(&mut state);
        }
        // A first look that was cut short can still be spared work by the index.
        state.empty = state.empty && lacks.iter().any(|lack| lack.reason == LackReason::Time);
        Ok(Looked { tree: self.tree(&state.manifest)?, lacks: lack::bounded(lacks) })
    }

    /// What was left out as ignored, and still is.
    fn still(&self, carried: &[Lack], root: &Dir) -> Vec<Lack> {
        let is_still =
            |lack: &&Lack| lack.reason == LackReason::Ignored && !root.holds(&lack.path) && self.exists(&lack.path);
        carried.iter().filter(is_still).cloned().collect()
    }

    /// Where changes are heard of, if they can be.
    pub(in crate::domain) fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// Looks at some paths alone, after they were changed here.
    pub(in crate::domain) fn look_at(
        &self,
        paths: &[PathBuf],
        limits: &Limits,
        carried: &[Lack],
    ) -> io::Result<Looked> {
        let mut state = self.state();
        let store = self.objects.store()?;
        let keeper = store.keeper(false)?;
        let mut root = Dir::clone(&state.manifest);
        let mut lacks = carried.to_vec();
        for path in paths {
            let bytes = path.as_os_str().as_bytes();
            lacks.retain(|lack| lack.path != bytes);
            if self.is_ignored(&state, path) {
                continue;
            }
            match self.read(&keeper, path, limits)? {
                Read::File(file) => root.put(bytes, Some(file)),
                Read::Gone => root.put(bytes, None),
                Read::Lacks(reason) => {
                    root.put(bytes, None);
                    lacks.push(Lack::file(bytes.to_vec(), reason));
                }
            }
        }
        keeper.plant(&mut root)?;
        state.manifest = Arc::new(root);
        self.save(&mut state);
        Ok(Looked { tree: self.tree(&state.manifest)?, lacks: lack::bounded(lacks) })
    }

    /// Whether a rule kept anything out of the last look.
    pub(in crate::domain) fn ignores_anything(&self) -> bool {
        self.state().ignored
    }

    /// Ends a look that is under way, for the end of the server.
    pub(in crate::domain) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn tree(&self, root: &Dir) -> io::Result<Oid> {
        match root.tree {
            Some(tree) => Ok(tree),
            None => self.objects.store()?.keeper(false)?.empty_tree(),
        }
    }

    fn read(&self, keeper: &Keeper<'_>, path: &Path, limits: &Limits) -> io::Result<Read> {
        let Some((above, name)) = open_above(self.root.as_fd(), path) else { return Ok(Read::Gone) };
        let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW);
        match stat.ok().and_then(|stat| Kind::of(&stat)) {
            Some(kind) => content::read(keeper, above.as_fd(), name, kind, limits),
            None => Ok(Read::Gone),
        }
    }

    fn exists(&self, path: &[u8]) -> bool {
        let Some((above, name)) = open_above(self.root.as_fd(), Path::new(OsStr::from_bytes(path))) else {
            return false;
        };
        rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The manifest is another one. It is stored now and then, and at the end.
    fn save(&self, state: &mut State) {
        state.saved.changed(&state.manifest, &self.folder);
    }

    /// Stores what is not yet stored of what is known, before objects are removed that it may stand for, and at the end
    /// of the server.
    pub(in crate::domain) fn settle(&self) {
        let state = &mut *self.state();
        state.saved.settle(&state.manifest, &self.folder);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the directory that a path's last name is in, name by name and through no link.
pub(super) fn open_above<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Option<(OwnedFd, &'a OsStr)> {
    let name = path.file_name()?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((open_dir(root, above)?, name))
}

fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(root, ".", flags, Mode::empty()).ok()?;
    for name in path.components().filter(|part| *part != std::path::Component::CurDir) {
        here = rustix::fs::openat(&here, name.as_os_str(), flags, Mode::empty()).ok()?;
    }
    Some(here)
}
