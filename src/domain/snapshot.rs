//! Taking versions of the workspace: one at a time, each from one look, each stored with the event that tells of it.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use git2::Oid;
use tokio::sync::{Notify, OnceCell, OwnedMutexGuard, oneshot, watch};

mod begin;
mod budget;
mod hear;
mod record;
mod upkeep;

pub(super) use budget::Budget;
use record::prepare;

use super::{
    OpenCode,
    agent::Running,
    error::{Code, Error, Result},
    event::FilesChanged,
    id::{ToolCallId, TurnId},
    store::{NewVersion, VersionRow},
    version::VersionCause,
    workspace::{Ask, Lack, Limits, Looked, Reach, Versions, blocking, lacks_from},
};

/// How long the look at the start of a turn lets the model go first.
const FIRST_WORDS: Duration = Duration::from_millis(50);
/// Limits of the versions.
#[derive(Clone, Copy, Debug)]
pub struct VersionLimits {
    /// Longest time that one look at the workspace takes; what it did not reach is left out of its version.
    pub time: Duration,
    /// Most bytes that one look reads in order to store them, those of a first look included. What is too large to be
    /// stored is not counted.
    pub bytes: u64,
    /// How long a turn waits for its versions at most, before its first tool that writes and at its end together.
    pub wait: Duration,
    /// How long listening for changes stands for a look at everything: there are changes that nobody hears of.
    pub watch: Duration,
    /// Newest versions that are kept, the session's baseline beside them.
    pub kept: u64,
    /// Bytes of objects above which the older half of the versions is given up.
    pub stored_bytes: u64,
}

/// What takes versions.
pub(super) struct Snapshots {
    engine: OnceCell<Arc<Versions>>,
    /// Held while a version is taken.
    latest: Arc<tokio::sync::Mutex<Latest>>,
    /// Whether the session has its baseline.
    baseline: watch::Sender<bool>,
    /// Told when a version could not be taken or stored.
    failed: Notify,
}

/// The newest version.
#[derive(Default)]
pub(super) struct Latest {
    known: bool,
    row: Option<VersionRow>,
    next: u64,
    /// Where a turn began, for what it changed.
    turn: Option<Began>,
}

/// Where a turn began.
#[derive(Clone)]
struct Began {
    turn_id: TurnId,
    tree: Oid,
    /// What others than the turn have changed since.
    others: HashSet<Vec<u8>>,
}

/// Which version is wanted.
#[derive(Clone, Debug)]
pub(super) struct Take {
    pub cause: VersionCause,
    pub turn_id: Option<TurnId>,
    /// Only these paths were changed.
    pub paths: Option<Vec<PathBuf>>,
    /// What tools wrote.
    pub touched: HashMap<PathBuf, ToolCallId>,
}

/// While it is held nobody else takes a version.
pub(super) struct Hold(OwnedMutexGuard<Latest>);

/// A version that is taken and not stored yet. Nobody takes another one meanwhile.
pub(super) struct Taken {
    guard: OwnedMutexGuard<Latest>,
    version: Option<NewVersion>,
    event: Option<FilesChanged>,
    /// The version that has what was seen: the new one, or the one before where nothing differs.
    pub row: VersionRow,
    turn: Option<Began>,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Self {
            engine: OnceCell::new(),
            latest: Arc::default(),
            baseline: watch::channel(false).0,
            failed: Notify::new(),
        }
    }

    /// Ends a look that is under way.
    pub(super) fn stop(&self) {
        if let Some(engine) = self.engine.get() {
            engine.stop();
        }
    }

    /// Stores what is known of the workspace, for the next start.
    pub(super) async fn settle(&self) {
        if let Some(engine) = self.engine.get().cloned() {
            blocking(move || engine.settle()).await;
        }
    }
}

impl Take {
    pub(super) fn new(cause: VersionCause) -> Self {
        Self { cause, turn_id: None, paths: None, touched: HashMap::new() }
    }
}

impl OpenCode {
    /// The versions' engine, opened when first needed.
    pub(super) async fn engine(&self) -> Result<Arc<Versions>> {
        let open = || async {
            let (workspace, folder) = (self.0.workspace.clone(), self.0.settings.data_dir.join("versions"));
            let trust = self.0.settings.versions.watch;
            let engine = blocking(move || Versions::open(&workspace, &folder, trust)).await.map(Arc::new)?;
            self.0.workspace.keep_versions(engine.clone());
            Ok(engine)
        };
        self.0.snapshots.engine.get_or_try_init(open).await.cloned().map_err(failed)
    }

    /// Takes a version: looks, compares with the one before, and prepares what is to be stored.
    pub(super) async fn take(&self, wanted: Take) -> Result<Taken> {
        let hold = Hold(Arc::clone(&self.0.snapshots.latest).lock_owned().await);
        self.take_holding(hold, wanted).await
    }

    /// As [`Self::take`], by who keeps the others from it.
    pub(super) async fn take_holding(&self, hold: Hold, wanted: Take) -> Result<Taken> {
        let taken = self.look(hold, wanted).await;
        taken.inspect_err(|_| self.0.snapshots.failed.notify_one())
    }

    async fn look(&self, Hold(mut guard): Hold, mut wanted: Take) -> Result<Taken> {
        let engine = self.engine().await?;
        if !guard.known {
            let (row, next) = self.read(|snapshot| snapshot.latest_version()).await?.value;
            (guard.row, guard.next, guard.known) = (row, next, true);
        }
        // Known only now: another look may have come first.
        let is_there = *self.0.snapshots.baseline.borrow();
        wanted.cause = match wanted.cause {
            VersionCause::Baseline if is_there => VersionCause::Outside,
            VersionCause::BeforeTurn if !is_there => VersionCause::Baseline,
            // The first of all is of everything, whoever wants it.
            VersionCause::AfterTurn
            | VersionCause::Write
            | VersionCause::Revert
            | VersionCause::Request
            | VersionCause::Outside
                if guard.row.is_none() =>
            {
                wanted.paths = None;
                VersionCause::Baseline
            }
            cause => cause,
        };
        let limits = self.0.settings.versions;
        let last = guard.row.clone();
        let since = match (&wanted.cause, &guard.turn) {
            // A turn is told by what it found, whatever versions came in between.
            (VersionCause::AfterTurn, Some(began)) if Some(&began.turn_id) == wanted.turn_id.as_ref() => {
                Some(began.tree)
            }
            _ => None,
        };
        let take = wanted.clone();
        let (looked, list) = blocking(move || {
            let carried = last.as_ref().map(|row| lacks_from(&row.lacks)).unwrap_or_default();
            let limits = Limits::new(limits.time, limits.bytes);
            let reach = match take.cause {
                VersionCause::Baseline | VersionCause::BeforeTurn => Reach::AllBefore,
                VersionCause::AfterTurn | VersionCause::Write | VersionCause::Revert => Reach::All,
                VersionCause::Request | VersionCause::Outside => Reach::Heard,
            };
            let looked = match &take.paths {
                Some(paths) => engine.look_at(paths, &limits, &carried)?,
                None => engine.look(&limits, &carried, reach)?,
            };
            let tree = since.or_else(|| last.as_ref().and_then(|row| Oid::from_str(&row.tree).ok()));
            let list = match tree {
                Some(tree) if tree != looked.tree => {
                    let lacks: [&[Lack]; 2] = [&carried, &looked.lacks];
                    match engine.compare((tree, looked.tree), Ask::names(), &lacks, |compared| Ok(compared.list)) {
                        // Somebody took the objects away: what is there now is all that can be told.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                        list => list?,
                    }
                }
                Some(_) | None => Vec::new(),
            };
            io::Result::Ok((looked, list))
        })
        .await
        .map_err(failed)?;
        let mut list = list;
        if let (VersionCause::AfterTurn, Some(began)) = (wanted.cause, &guard.turn) {
            let touched = |path: &[u8]| wanted.touched.contains_key(Path::new(OsStr::from_bytes(path)));
            list.retain(|found| !began.others.contains(&found.path) || touched(&found.path));
        }
        Ok(prepare(guard, wanted, &looked, &list))
    }

    /// What the workspace holds, without a version of it.
    pub(super) async fn peek(&self) -> Result<Looked> {
        let guard = Arc::clone(&self.0.snapshots.latest).lock_owned().await;
        let engine = self.engine().await?;
        let carried = guard.row.as_ref().map(|row| lacks_from(&row.lacks)).unwrap_or_default();
        let limits = self.0.settings.versions;
        let looked = blocking(move || {
            // Held by the work itself: who asked may be gone.
            let _guard = guard;
            engine.look(&Limits::new(limits.time, limits.bytes), &carried, Reach::Heard)
        });
        looked.await.map_err(failed)
    }

    /// The paths that differ from the newest version in this tree.
    pub(super) async fn changed_so_far(&self, tree: Oid) -> Result<Option<HashSet<Vec<u8>>>> {
        let row = self.read(|snapshot| snapshot.latest_version()).await?.value.0;
        let Some(last) = row.and_then(|row| Oid::from_str(&row.tree).ok()) else { return Ok(None) };
        let engine = self.engine().await?;
        let list = blocking(move || {
            engine.compare((last, tree), Ask::names(), &[], |compared| {
                Ok(compared.list.into_iter().map(|found| found.path).collect())
            })
        });
        list.await.map(Some).map_err(failed)
    }

    /// Takes a version and stores it, whoever still waits for it.
    pub(super) async fn take_and_record(&self, wanted: Take) -> Result<VersionRow> {
        let domain = self.clone();
        self.to_the_end(async move { domain.take(wanted).await?.record(&domain).await }).await
    }

    /// The version that a turn begins with: what changed since the last one came from outside. The model's first words
    /// come first, as long as nobody is in a `hurry` for the version.
    pub(super) fn version_before(&self, turn_id: &TurnId, hurry: Arc<Notify>) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        let (domain, turn_id) = (self.clone(), turn_id.clone());
        self.0.tasks.spawn(async move {
            let _ = tokio::time::timeout(FIRST_WORDS, hurry.notified()).await;
            let outcome = async {
                let take = Take { turn_id: Some(turn_id), ..Take::new(VersionCause::BeforeTurn) };
                domain.take(take).await?.record(&domain).await
            };
            if let Err(error) = outcome.await {
                tracing::warn!(error = %error, cause = ?error.cause(), "a turn begins without a version");
            }
            let _ = done.send(());
        });
        answer
    }

    /// The version that a turn ends with, for its ending to store. None where it takes too long: then it is stored by
    /// itself when it is there, as also where nobody `waits` for it.
    pub(super) async fn version_after(&self, running: &Running, waits: bool) -> Option<Taken> {
        let (done, answer) = oneshot::channel();
        let (turn_id, touched) = (Some(running.id().clone()), running.changes().touched());
        let take = Take { turn_id, touched, ..Take::new(VersionCause::AfterTurn) };
        let domain = self.clone();
        // Its place in the queue is taken here: who comes after the turn is not to be taken for the turn.
        let mut latest = Box::pin(Arc::clone(&self.0.snapshots.latest).lock_owned());
        let at_once = futures_util::poll!(&mut latest);
        self.0.tasks.spawn(async move {
            let hold = Hold(match at_once {
                Poll::Ready(guard) => guard,
                Poll::Pending => latest.await,
            });
            let taken = match domain.take_holding(hold, take).await {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!(error = %error, cause = ?error.cause(), "a turn ends without a version");
                    return;
                }
            };
            if let Err(taken) = done.send(taken)
                && let Err(error) = taken.record(&domain).await
            {
                tracing::warn!(error = %error, "a version could not be stored");
            }
        });
        if waits { running.budget().wait(answer).await?.ok() } else { None }
    }

    /// A new baseline, for a new session.
    pub(super) fn begin_baseline(&self) {
        let domain = self.clone();
        self.0.snapshots.baseline.send_replace(false);
        self.0.tasks.spawn(async move {
            if let Err(error) = domain.take_and_record(Take::new(VersionCause::Baseline)).await {
                tracing::warn!(error = %error, cause = ?error.cause(), "a session begins without a baseline");
            }
        });
    }
}

/// A failure of the versions' engine: a full disk is the caller's to know, all else is ours.
pub(super) fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::new(Code::InsufficientStorage, "the disk of the data directory has no room for a version")
                .retry_after(Duration::from_secs(5))
        }
        io::ErrorKind::NotFound => Error::new(Code::NotFound, "the content of that version is gone"),
        io::ErrorKind::Interrupted => {
            Error::new(Code::Unavailable, "the server is shutting down").retry_after(Duration::from_secs(1))
        }
        _ => Error::internal(error),
    }
}
