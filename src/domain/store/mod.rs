//! The log as bus: one SQLite file, one writer thread, a shared tail in memory, and readers that are cursors.
//! The only files with SQL are here.

mod batch;
mod keys;
mod ledger;
mod lock;
mod message_rows;
mod open;
mod permission_rows;
mod project;
mod pulse;
mod read;
mod schema;
mod streams;
mod subscription;
mod tail;
mod tally;
mod turn_rows;
mod upkeep;
mod version_rows;
mod waiting;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use batch::Batch;
use batch::Entry;
pub(super) use keys::{Accepted, FoundKey, NewKey};
pub(super) use ledger::{LedgerRow, OpenCall};
pub(crate) use open::Open;
pub(crate) use permission_rows::PermissionRow;
pub(super) use pulse::Pulse;
pub(super) use read::{ContextRow, Page, PageRequest, Snapshot, has_ended};
pub(super) use subscription::HEARTBEAT;
pub(crate) use subscription::{Filter, Start};
pub use subscription::{Item, Subscription};
pub use tail::Logged;
pub(super) use tally::Names;
pub use tally::{COMMIT_CLASSES, Tally};
pub(crate) use version_rows::{NewVersion, VersionRow};
pub(crate) use waiting::{QueuedTurn, QueuedWish};

use super::error::{Code, Error, Result};
use read::Readers;
use tail::Tail;

/// What the log keeps at most.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Events older than this are dropped.
    pub age: Duration,
    /// The oldest events are dropped while all together are larger than this, in bytes.
    pub bytes: u64,
}

/// The store of one data directory. Clones share it.
#[derive(Clone)]
pub(super) struct Store(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<writer::Command>,
    readers: Readers,
    shared: Arc<Shared>,
    /// Held as long as the store is open; the kernel lets go of it when the process ends.
    _lock: lock::Lock,
}

/// What the writer publishes and subscribers read.
struct Shared {
    tail: Tail,
    /// The number of the last event that is shown, and what else streams have to tell.
    head: watch::Sender<Head>,
    /// How long the writer has been at what it does.
    pulse: Arc<Pulse>,
    /// What was stored since the start.
    counting: tally::Counting,
    /// The streams that are open.
    streams: streams::Streams,
    /// How many batches were not stored.
    refused: watch::Sender<u64>,
    /// The first event that the log still holds; 1 for a log that has dropped nothing.
    floor: AtomicU64,
    /// This start's epoch.
    epoch: u64,
}

/// What subscribers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    seq: u64,
    health: Health,
    /// The server ends at that time at the latest. It stands here so that streams wait for one thing.
    draining: Option<Timestamp>,
}

/// Whether the log takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It does.
    Writable,
    /// The disk is full: reads go on, a turn's ending is stored from the reserve.
    Full,
}

impl Store {
    /// Opens (or makes) the store in `folder`, which no other process may have open, and draws this start's epoch.
    /// Blocks; the answer of the second start on one folder names the holder.
    pub(super) fn open(folder: &Path, retention: Retention, names: Names) -> std::result::Result<Self, OpenError> {
        let lock = lock::Lock::take(folder)?;
        let file = folder.join("log.sqlite3");
        let (writer, shared) = writer::Writer::open(folder, &file, retention, names)?;
        let (commands, queue) = mpsc::channel(256);
        std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(OpenError::Io)?;
        Ok(Self(Arc::new(Inner { commands, readers: Readers::new(file), shared, _lock: lock })))
    }

    /// Appends a batch: when this answers, all of it is committed and shown. The answer is the number of the last
    /// event in it, or of the last event of the log where it had none.
    pub(super) async fn append(&self, batch: Batch) -> Result<u64> {
        self.begin_append(batch).await?.done().await
    }

    /// Hands a batch to the writer. Who asks what came of it only when that is known already is not woken for it; that
    /// it may not have been stored is heard of by [`Store::refusals`].
    pub(super) async fn begin_append(&self, batch: Batch) -> Result<Appending> {
        let (done, answer) = oneshot::channel();
        self.0.commands.send(writer::Command { batch, done }).await.map_err(|_| writer_gone())?;
        Ok(Appending(answer))
    }

    /// Changes when a batch was not stored, whosever it was.
    pub(super) fn refusals(&self) -> watch::Receiver<u64> {
        self.0.shared.refused.subscribe()
    }

    /// Runs reads in one transaction, off the runtime.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.0.readers.turn().await;
        let store = self.clone();
        super::workspace::blocking(move || {
            // Held by the work itself: who asked may be gone before it is done.
            let _turn = turn;
            store.0.readers.with(query)
        })
        .await
        .map_err(Error::internal)
    }

    /// Whether the log takes events.
    pub(super) fn health(&self) -> Health {
        self.0.shared.head.borrow().health
    }

    /// Has every stream told that the server is about to end.
    pub(super) fn begin_draining(&self, deadline: Timestamp) {
        self.0.shared.head.send_modify(|head| head.draining = Some(deadline));
    }

    /// Whether the server is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.0.shared.head.borrow().draining.is_some()
    }

    /// Waits until the log's health is another one, or the server begins to end.
    pub(super) async fn condition_changed(&self, health: Health, draining: bool) {
        let same = |head: &Head| (head.health, head.draining.is_some()) == (health, draining);
        // A writer that is gone ends the process; until then nothing changes.
        if self.0.shared.head.subscribe().wait_for(|head| !same(head)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The log in figures.
    pub(super) fn figures(&self) -> Figures {
        let shared = &self.0.shared;
        // First: what is stored later is no lag.
        let (streams, furthest) = shared.streams.read();
        let head = shared.head.borrow().seq;
        Figures {
            tally: shared.counting.read(),
            streams: streams as u64,
            stream_lag: furthest.map_or(0, |place| head.saturating_sub(place)),
            head,
            floor: self.floor(),
        }
    }

    /// Tells how long the writer has been at what it does.
    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.0.shared.pulse)
    }

    /// Refuses what somebody would have to be told of while the log takes no event.
    pub(super) fn refuse_when_full(&self) -> Result<()> {
        match self.health() {
            Health::Writable => Ok(()),
            Health::Full => Err(AppendError::Full.into()),
        }
    }

    /// The first event that the log still holds.
    fn floor(&self) -> u64 {
        self.0.shared.floor.load(Ordering::Acquire)
    }
}

/// The log in figures.
pub(super) struct Figures {
    pub(super) tally: Tally,
    pub(super) streams: u64,
    pub(super) stream_lag: u64,
    pub(super) head: u64,
    pub(super) floor: u64,
}

/// A batch on its way into the log.
#[must_use = "whether it was stored has to be asked"]
pub(super) struct Appending(oneshot::Receiver<std::result::Result<u64, AppendError>>);

impl Appending {
    /// As [`Store::append`] answers.
    pub(super) async fn done(self) -> Result<u64> {
        Ok(self.0.await.map_err(|_| writer_gone())??)
    }
}

fn writer_gone() -> Error {
    Error::internal("the log's writer has ended")
}

/// Why a batch was not stored. Nothing of it is.
#[derive(Clone, Debug)]
enum AppendError {
    Full,
    Failed(Arc<str>),
}

impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => Self::new(Code::InsufficientStorage, "the disk of the data directory is full")
                .retry_after(Duration::from_secs(5)),
            AppendError::Failed(cause) => Self::internal(cause.to_string()),
        }
    }
}

/// Why a data directory could not be opened, in a sentence for whoever started the server.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    Held {
        /// The folder.
        folder: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// A newer version wrote it.
    Newer {
        /// The version of the file.
        found: i64,
        /// The version that this binary writes.
        known: i64,
    },
    /// A setting is at fault.
    Setting(Error),
    /// The file system said no.
    Io(std::io::Error),
    /// SQLite said no.
    Sqlite(rusqlite::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held { folder, holder } => write!(
                f,
                "the data directory {} is in use by {holder}; stop that server or set OPENCODE_DATA_DIR to another folder",
                folder.display()
            ),
            Self::Newer { found, known } => write!(
                f,
                "the log was written by a newer version of this server (format {found}, this one knows {known}); \
                 start that version, or set OPENCODE_DATA_DIR to another folder"
            ),
            Self::Setting(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "the data directory cannot be used: {error}"),
            Self::Sqlite(error) => write!(f, "the log cannot be opened: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
