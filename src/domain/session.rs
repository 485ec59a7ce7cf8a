//! The session: one per container, created on first use.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use std::sync::{Arc, PoisonError};

use super::{
    OpenCode, Read,
    cursor::Cursor,
    error::{Error, Result},
    event::{EventKind, SessionEvent},
    id::{MessageId, SessionId},
    permission::{PermissionMode, ReplyToken},
    queue,
    repeat::{Answered, IdempotencyKey, Keyed},
    store::{Batch, PermissionRow},
    usage::Usage,
};

/// The session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its id; reset makes a new one.
    pub id: SessionId,
    /// The session above it; always absent for the session of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_session_id: Option<SessionId>,
    /// Its title: the client's, or made from the first message, at first of its words and then by a small model where
    /// there is one (`session_updated` has it); empty before that.
    pub title: String,
    /// Number of messages, all roles.
    pub message_count: u64,
    /// All input tokens of the session, as the ledger sums them.
    pub prompt_tokens: u64,
    /// All output tokens of the session, as the ledger sums them.
    pub completion_tokens: u64,
    /// The message that summarises those before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_message_id: Option<MessageId>,
    /// Cost in US dollars, as the ledger sums it.
    pub cost: f64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When something last happened in it.
    pub updated_at: Timestamp,
    /// What the agent may do without asking, in turns that do not say otherwise. It outlives a reset.
    #[serde(default = "strictest")]
    pub permission_mode: PermissionMode,
}

/// Of sessions in events that were stored before there were modes.
fn strictest() -> PermissionMode {
    PermissionMode::ReadOnly
}

/// Counts of the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionStats {
    /// Messages of all roles.
    pub total_messages: u64,
    /// Messages of the user.
    pub user_messages: u64,
    /// Answers of models.
    pub assistant_messages: u64,
    /// Messages with tool results.
    pub tool_messages: u64,
    /// All input tokens.
    pub prompt_tokens: u64,
    /// All output tokens.
    pub completion_tokens: u64,
    /// Cost in US dollars.
    pub total_cost: f64,
    /// Tokens by class and the exact cost: the sum of the ledger.
    pub usage: Usage,
    /// When something last happened.
    pub last_activity: Timestamp,
    /// Every model that was called, as `provider/id`, in the order of first use.
    pub models_used: Vec<String>,
    /// The model that the next turn uses unless its message names another; absent if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_model: Option<String>,
}

/// A change of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSession {
    /// The new title, at most 200 characters.
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// What the agent may do without asking. Loosening it takes the scope `permissions:reply`, or the reply token where nobody
    /// is asked for tokens.
    #[schema(inline)]
    pub permission_mode: Option<PermissionMode>,
    /// What the client shows.
    #[serde(skip)]
    pub token: Option<ReplyToken>,
}

/// The beginning of a new session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetSession {
    /// The new session's title, at most 200 characters; made from the first message if absent.
    #[schema(max_length = 200)]
    pub title: Option<String>,
    /// With it a repeat is answered again.
    #[serde(skip)]
    pub idempotency_key: Option<IdempotencyKey>,
}

/// Most characters of a title that a client sets.
const TITLE_CHARS: usize = 200;
/// Most characters of a title that is made.
const MADE_TITLE_CHARS: usize = 50;

impl OpenCode {
    /// The session; created on first use.
    pub async fn get_session(&self) -> Result<Read<Session>> {
        self.ensure_session().await?;
        let read = self.read(|snapshot| snapshot.session()).await?;
        let as_of = read.as_of;
        let value = read.value.ok_or_else(|| Error::internal("the session is gone"))?;
        Ok(Read { value, as_of })
    }

    /// Counts, tokens and cost of the session.
    pub async fn get_session_stats(&self) -> Result<Read<SessionStats>> {
        self.ensure_session().await?;
        let current_model = self.current_model().await?.map(|model| model.info.id);
        let read = self.read(|snapshot| snapshot.stats()).await?;
        let as_of = read.as_of;
        let stats = read.value.ok_or_else(|| Error::internal("the session is gone"))?;
        Ok(Read { value: SessionStats { current_model, ..stats }, as_of })
    }

    /// Changes the session.
    pub async fn update_session(&self, change: UpdateSession) -> Result<Read<Session>> {
        let UpdateSession { title, permission_mode, token } = change;
        if title.is_none() && permission_mode.is_none() {
            return Err(Error::field("title", "is missing: nothing to change was named"));
        }
        title.as_deref().map(check_title).transpose()?;
        let domain = self.clone();
        self.to_the_end(async move {
            let _gate = domain.0.gate.lock().await;
            let mut session = domain.session_made_at_need().await?;
            let mut batch = Batch::new();
            if let Some(mode) = permission_mode {
                domain.check_mode(mode, token.as_ref())?;
                batch = batch.permission(PermissionRow::Mode(mode));
            }
            session.title = title.unwrap_or(session.title);
            session.updated_at = now();
            let kind = EventKind::SessionUpdated(SessionEvent { session });
            domain.0.store.append(batch.event(None, kind)).await?;
            if let Some(mode) = permission_mode {
                domain.0.requests.set_mode(mode);
            }
            Ok(())
        })
        .await?;
        self.get_session().await
    }

    /// Puts a new session in the place of this one. A running turn is cancelled first, and all jobs are ended; messages
    /// go, and their content is erased from the log; the workspace stays.
    pub async fn reset_session(&self, wish: ResetSession) -> Result<Answered<Read<Session>>> {
        let ResetSession { title, idempotency_key } = wish;
        let title = title.unwrap_or_default();
        check_title(&title)?;
        let key = idempotency_key.map(|key| Keyed::new(key, "reset_session", &title)).transpose()?;
        let (domain, stored) = (self.clone(), key.clone());
        let reset = async move {
            let _gate = domain.0.gate.lock().await;
            if let Some(key) = &stored {
                domain.found(key).await?;
            }
            let (turn_ended, ()) = tokio::join!(domain.end_running_turn(), domain.0.processes.end_all());
            turn_ended?;
            let session = new_session(title, domain.0.requests.mode());
            let key = stored.map(|key| key.answered(&session)).transpose()?;
            let kind = EventKind::SessionReset(SessionEvent { session: session.clone() });
            // Their messages were for the old one. Behind the reset, which takes all before it out of the log.
            let waiting = domain.0.queue.all();
            let batch = waiting.iter().fold(Batch::new().event(None, kind), queue::canceled);
            let seq = domain.0.store.append(batch.key(key)).await?;
            waiting.iter().for_each(|id| domain.0.queue.remove(id));
            *domain.0.memory.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
            domain.0.requests.set_grants(Vec::new());
            domain.begin_baseline();
            Ok(Read { value: session, as_of: Cursor { seq, ..domain.0.store.head() } })
        };
        let again = |json: &str, as_of| Ok(Read { value: serde_json::from_str(json)?, as_of });
        self.once(key.as_ref(), again, reset).await
    }

    /// Creates the session if there is none; concurrent callers make one.
    pub(super) async fn ensure_session(&self) -> Result<()> {
        if self.read(|snapshot| snapshot.session()).await?.value.is_some() {
            return Ok(());
        }
        let domain = self.clone();
        self.to_the_end(async move {
            let _gate = domain.0.gate.lock().await;
            domain.session_made_at_need().await.map(drop)
        })
        .await
    }

    /// The session, which is made if there is none; for who holds the gate.
    pub(super) async fn session_made_at_need(&self) -> Result<Session> {
        if let Some(session) = self.read(|snapshot| snapshot.session()).await?.value {
            return Ok(session);
        }
        let session = new_session(String::new(), self.0.requests.mode());
        let kind = EventKind::SessionCreated(SessionEvent { session: session.clone() });
        self.0.store.append(Batch::new().event(None, kind)).await?;
        Ok(session)
    }
}

fn new_session(title: String, permission_mode: PermissionMode) -> Session {
    let now = now();
    Session {
        id: SessionId::generate(),
        parent_session_id: None,
        title,
        message_count: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        summary_message_id: None,
        cost: 0.0,
        created_at: now,
        updated_at: now,
        permission_mode,
    }
}

fn check_title(title: &str) -> Result<()> {
    if title.chars().count() > TITLE_CHARS {
        return Err(Error::field("title", format!("must have at most {TITLE_CHARS} characters")));
    }
    Ok(())
}

/// A title of the first words of a text, as many as fit; `None` where it has none.
pub(super) fn fit_title(text: &str) -> Option<String> {
    let mut title = String::new();
    for word in text.split_whitespace() {
        let room = MADE_TITLE_CHARS - title.chars().count();
        let needed = word.chars().count() + usize::from(!title.is_empty());
        if needed > room {
            if title.is_empty() {
                title.extend(word.chars().take(MADE_TITLE_CHARS));
            }
            break;
        }
        if !title.is_empty() {
            title.push(' ');
        }
        title.push_str(word);
    }
    (!title.is_empty()).then_some(title)
}

/// The present time, in whole milliseconds as all our times are.
pub(super) fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default()
}
