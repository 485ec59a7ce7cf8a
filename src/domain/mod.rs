//! The one room behind both doors: [`OpenCode`] and its nouns. Nothing here knows a transport.

mod access;
mod agent;
mod budget;
mod capabilities;
mod change;
mod cursor;
mod drain;
mod error;
mod event;
mod figures;
mod file;
mod follow;
mod health;
mod id;
mod ledger;
mod list;
mod message;
mod model;
mod money;
mod part;
mod permission;
mod process;
mod providers;
mod queue;
mod repeat;
mod revert;
mod send;
mod session;
mod snapshot;
mod status;
mod store;
mod timeline;
mod tools;
mod turn;
mod usage;
mod version;
mod view;
mod watchdog;
mod workspace;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::keeper;

pub use access::{
    AccessSettings, Caller, CreateTicket, Needs, Refusal, Scope, Scopes, Ticket, TicketUse, TokenHash, needs,
};
pub use budget::{Budget, Budgets, Limits};
pub use capabilities::{Capabilities, Sandbox};
pub use change::{FileChange, FileChanges, GetFileChanges};
pub use cursor::{Cursor, ResyncReason};
pub use error::{Code, Error, FieldError, Result};
pub use event::{
    AgentStatusChanged, ContextCompacted, Event, EventKind, EventType, FilesChanged, MessageCompleted, MessageDeleted,
    MessageEvent, MessagesCleared, ModelChanged, ModelRetry, PermissionRequested, PermissionResolved, SessionEvent,
    TextDelta, ToolCallCompleted, ToolCallStarted, ToolDelta, TurnCompleted, TurnStarted,
};
pub use figures::Figures;
pub use file::{
    Conditions, DeleteFile, Encoding, FileContent, FileInfo, FileList, FileText, FileWritten, ListFiles, NewContent,
    RawFile, ReadFile, Upload, WriteFile, WriteRaw,
};
pub use follow::{EventPage, ListEvents, StreamEvents};
pub use health::{Check, Health, HealthStatus, Readiness};
pub use id::{MessageId, PermissionId, ProcessId, SessionId, ToolCallId, TurnId};
pub use ledger::{CallKind, LedgerEntry, ListLedger, PriceUsed};
pub use list::{List, Order, PageParams, PageQuery, Pagination};
pub use message::{ListMessages, Message, Role};
pub use model::{ModelInfo, ProviderSettings, SetModel};
pub use money::Picodollars;
pub use part::{Binary, Data, Finish, FinishReason, Part, Reasoning, Text, ToolCall, ToolResult, WholePart};
pub use permission::{
    EvaluatePermission, Permission, PermissionDecision, PermissionEvaluation, PermissionMode, PermissionResolver,
    PermissionSettings, ReplyPermission, ReplyToken, Verdict,
};
pub use process::{AgentProcess, ProcessEnded, ProcessEnding, ProcessKind, ProcessLeft, ProcessesEnded};
pub use queue::WhenBusy;
pub use repeat::{Answered, IdempotencyKey};
pub use revert::{RevertFiles, Reverted};
pub use send::{Attachment, InputBinary, InputPart, InputText, SendMessage, Started};
pub use session::{ResetSession, Session, SessionStats, UpdateSession};
pub use snapshot::VersionLimits;
pub use status::{Activity, AgentState, CancelAgent, Canceled};
pub use store::{COMMIT_CLASSES, Item, Logged, OpenError, Retention, Subscription, Tally};
pub use timeline::{Timeline, ToolTime};
pub use turn::{Turn, TurnError, TurnErrorCode, TurnStatus};
pub use usage::Usage;
pub use version::{ChangedFile, FileChangeType, Origin, PathReason, Version, VersionCause};

/// What the domain is told at the start. Read from flags and environment elsewhere.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that the agent works in; made if missing.
    pub workspace: PathBuf,
    /// The folder of the log, never inside the workspace.
    pub data_dir: PathBuf,
    /// The model of turns that name none, as `provider/id`; the first available if unset.
    pub model: Option<String>,
    /// The model that makes titles, as `provider/id`; `none` for none; if unset the small one of the turn's provider.
    pub title_model: Option<String>,
    /// Keys and addresses of model providers.
    pub providers: ProviderSettings,
    /// Variables that no child process gets.
    pub secret_variables: Vec<String>,
    /// What the log keeps.
    pub retention: Retention,
    /// What turns and the session may use.
    pub budgets: Budgets,
    /// What versions of the workspace may take.
    pub versions: VersionLimits,
    /// Most bytes of a file that a client writes.
    pub max_file_bytes: u64,
    /// What the agent may do without asking.
    pub permissions: PermissionSettings,
    /// Who may come in.
    pub access: AccessSettings,
    /// What requests may have at most, by name: kept by the doors, and told to clients here.
    pub request_limits: BTreeMap<String, u64>,
    /// Most bytes of a message's text.
    pub max_text_bytes: u64,
    /// Most bytes of the files that come with a message, together.
    pub max_attachment_bytes: u64,
    /// How long the runtime or the log's writer may be at one step before it counts as wedged.
    pub watchdog: Duration,
}

/// The agent server without its doors: one session on one log. Clones share it.
#[derive(Clone)]
pub struct OpenCode(Arc<Inner>);

struct Inner {
    store: store::Store,
    workspace: workspace::Workspace,
    catalogue: model::Catalogue,
    settings: Settings,
    /// The tokens that are good.
    tokens: access::Tokens,
    tickets: access::Tickets,
    /// The operator's rules of permissions.
    rules: Vec<permission::Rule>,
    /// The permission requests that wait, the grants, the mode, and whether a client is there.
    requests: permission::Requests,
    /// Held while a message is accepted, and by everything that must not meet that: reset, clear, session creation.
    gate: tokio::sync::Mutex<()>,
    /// The turn that runs.
    running: Mutex<Option<Arc<agent::Running>>>,
    /// The model that a client set; the log has it too, and this is what spares a read at each look.
    chosen: Mutex<Option<String>>,
    /// Set when a turn's ending could not be stored: it is written before the next message is accepted.
    unfinished: AtomicBool,
    /// Whether the last model call failed, for `checks.model`.
    model_failing: AtomicBool,
    /// When the workspace was last seen to be there.
    workspace_seen: Mutex<Option<Instant>>,
    /// What the tools remember; replaced at reset.
    memory: Mutex<Arc<tools::ToolMemory>>,
    /// The commands that run.
    processes: tools::Processes,
    snapshots: snapshot::Snapshots,
    /// The turns that wait.
    queue: queue::Queue,
    /// The requests with a key that are at work.
    at_work: repeat::AtWork,
    /// Who watches the turns that end with their watchers.
    views: view::Views,
    /// The server begins to end.
    stopping: CancellationToken,
    /// Every stream ends.
    closing: CancellationToken,
    tasks: TaskTracker,
    watchdog: watchdog::Watchdog,
    started: Instant,
}

/// A value that was read, with the cursor up to which it holds every effect.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// The value.
    pub value: T,
    /// Follow from here.
    pub as_of: Cursor,
}

impl OpenCode {
    /// Opens workspace and log, and closes what a crash left open. The answer is ready to serve;
    /// [`Self::load_queue`] begins the turns that wait.
    pub async fn open(settings: Settings) -> std::result::Result<Self, OpenError> {
        let opened = {
            let settings = settings.clone();
            workspace::blocking(move || open_folders(&settings)).await
        };
        let (workspace, store, data_dir) = opened?;
        let settings = Settings { data_dir, ..settings };
        let catalogue = model::Catalogue::new(settings.providers.clone()).map_err(OpenError::Setting)?;
        let rules = permission::rules_of(&settings, &workspace).map_err(OpenError::Setting)?;
        let tokens = access::Tokens::open(&settings.access, workspace.root()).map_err(OpenError::Setting)?;
        let (tasks, stopping, closing) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let watchdog = watchdog::Watchdog::start(settings.watchdog, store.pulse(), closing.clone())?;
        let domain = Self(Arc::new(Inner {
            store,
            workspace,
            catalogue,
            requests: permission::Requests::new(settings.permissions.mode),
            processes: tools::Processes::new(settings.data_dir.clone(), tasks.clone(), stopping.clone()),
            settings,
            tokens,
            tickets: access::Tickets::default(),
            rules,
            gate: tokio::sync::Mutex::default(),
            running: Mutex::default(),
            chosen: Mutex::default(),
            unfinished: AtomicBool::new(true),
            model_failing: AtomicBool::new(false),
            workspace_seen: Mutex::default(),
            memory: Mutex::default(),
            snapshots: snapshot::Snapshots::new(),
            queue: queue::Queue::default(),
            at_work: repeat::AtWork::default(),
            views: view::Views::default(),
            stopping,
            closing,
            tasks,
            watchdog,
            started: Instant::now(),
        }));
        domain.close_open_turns().await.map_err(std::io::Error::other)?;
        let chosen = domain.read(|snapshot| snapshot.model()).await.map_err(std::io::Error::other)?.value;
        *domain.0.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
        domain.begin_permissions().await.map_err(std::io::Error::other)?;
        domain.begin_versions().await.map_err(std::io::Error::other)?;
        domain.begin_tokens();
        if domain.0.settings.model.is_some() {
            // Whoever set one looks here for what is wrong with it. Nobody waits: a local server may have to be asked.
            let domain = domain.clone();
            tokio::spawn(async move {
                if let Err(error) = domain.model_for(None).await {
                    tracing::warn!("messages that name no model will be refused: {error}");
                }
            });
        }
        Ok(domain)
    }

    /// The workspace, and the data directory.
    pub fn folders(&self) -> (&Path, &Path) {
        (self.0.workspace.root(), &self.0.settings.data_dir)
    }

    /// Does in the background what the first turn would have to wait for. For when the ports are bound: a start does not
    /// wait for it either.
    pub fn warm_up(&self) {
        let domain = self.clone();
        // Where the runtime ends before it is done, nobody misses it.
        drop(tokio::task::spawn_blocking(move || domain.0.catalogue.warm_up()));
    }

    /// The turn that runs.
    fn running(&self) -> Option<Arc<agent::Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_running(&self, running: Option<Arc<agent::Running>>) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// Reads in one transaction, with the cursor up to which it holds.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&store::Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Read<T>> {
        let store = self.0.store.clone();
        self.0.store.read(move |snapshot| Ok(Read { as_of: snapshot.as_of(&store)?, value: query(snapshot)? })).await
    }

    /// Runs a verb that acts in more than one step to its end, even if its caller leaves in the middle.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let caller = Caller::current();
        self.0.tasks.spawn(Caller::as_current(caller, work)).await.map_err(Error::internal)?
    }

    /// Writes the endings that are missing. Called at the start, and after a full disk has prevented one.
    async fn close_open_turns(&self) -> Result<()> {
        if self.0.unfinished.load(Ordering::Acquire) {
            agent::recover(&self.0.store).await?;
            self.0.unfinished.store(false, Ordering::Release);
        }
        Ok(())
    }
}

/// Opens the folders, and answers the real path of the data directory too.
fn open_folders(settings: &Settings) -> std::result::Result<(workspace::Workspace, store::Store, PathBuf), OpenError> {
    workspace::nobodys_settings();
    let workspace = workspace::Workspace::open(&settings.workspace, &settings.data_dir).map_err(|error| {
        let folder = settings.workspace.display();
        OpenError::Setting(Error::field("OPENCODE_WORKSPACE", format!("{folder} cannot be used: {error}")))
    })?;
    // Looked at before it is made: a refused start leaves nothing in the workspace.
    let data_dir = real_path(&settings.data_dir)?;
    if data_dir.starts_with(workspace.root()) {
        return Err(OpenError::Io(std::io::Error::other(format!(
            "{} lies inside the workspace; set OPENCODE_DATA_DIR to a folder outside of {}",
            data_dir.display(),
            workspace.root().display()
        ))));
    }
    std::fs::create_dir_all(&data_dir)?;
    let store = store::Store::open(&data_dir, settings.retention, figures::NAMES)?;
    // Only now is it known that nobody else uses them.
    keeper::end_leftovers(&data_dir);
    remove_leftovers(&scratch(&data_dir));
    Ok((workspace, store, data_dir))
}

/// The path without links and dots, of a folder that need not be there yet.
fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(real_path(parent)?.join(name)),
            _ => Err(error),
        },
        found => found,
    }
}

/// Where tools keep temporary files.
fn scratch(data_dir: &Path) -> PathBuf {
    data_dir.join("scratch")
}

/// What the tools of an earlier start left; a failure only leaves it lying there.
fn remove_leftovers(scratch: &Path) {
    let _ = std::fs::remove_dir_all(scratch);
    let _ = std::fs::create_dir_all(scratch);
}
