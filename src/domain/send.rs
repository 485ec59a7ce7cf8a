//! Sending a message: checked, accepted in one transaction, and then a turn of its own that no request owns.

mod input;
mod keyed;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    agent::{self, Closed, Coming, Running, Spending, Untitled, Used},
    budget::{Budget, Limits, refuse_unpriced},
    cursor::Cursor,
    error::{Code, Error, Result},
    event::{AgentStatusChanged, EventKind, MessageEvent, SessionEvent, TurnStarted},
    follow::place,
    id::{MessageId, SessionId, TurnId},
    message::{Message, Role},
    model::Model,
    part::Part,
    permission::{PermissionMode, Presence, ReplyToken},
    queue::{MAX_WAITING, WhenBusy},
    repeat::{IdempotencyKey, Keyed},
    session::{fit_title, now},
    status::Activity,
    store::{Accepted, Batch, Filter, FoundKey, Start, Subscription},
};

/// Most parts and attachments of a message together.
pub(super) const MAX_PARTS: usize = 100;

/// A user's message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// What the user says; instead of `text`.
    #[serde(default)]
    pub parts: Vec<InputPart>,
    /// Files beside the words.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Shorthand for one text part; instead of `parts`.
    #[schema(min_length = 1)]
    pub text: Option<String>,
    /// The model of this turn as `provider/id`; the session's if absent. `mock/demo` needs no key.
    pub model: Option<String>,
    /// Limits of this turn, at most those of the settings.
    pub budget: Option<Budget>,
    /// What the agent may do without asking in this turn; as the session has it if absent. Loosening takes the scope
    /// `permissions:reply`, or the reply token where nobody is asked for tokens.
    #[schema(inline)]
    pub permission_mode: Option<PermissionMode>,
    /// Cancel the turn 10 s after the last view of it has gone: the stream of this request or of a repeat, a wait for
    /// its end, `GET /events` with its `turn_id`. Who starts it without a view has 10 s to come.
    #[serde(default)]
    pub cancel_on_disconnect: bool,
    /// What to do while another turn runs; `reject` if absent.
    #[serde(default)]
    #[schema(inline)]
    pub when_busy: WhenBusy,
    /// With `steer`: the turn that the message is for, `stale_turn` where that does not run.
    pub turn_id: Option<String>,
    /// With it a repeat joins the turn.
    #[serde(skip)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// With a key that joins a turn: the cursor to go on from; else from the turn's first event.
    #[serde(skip)]
    pub after: Option<String>,
    /// Whether a cursor that cannot be read is answered in the stream instead of refused.
    #[serde(skip)]
    pub forgiving: bool,
    /// What the client shows.
    #[serde(skip)]
    pub token: Option<ReplyToken>,
}

/// One part of a user's message.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// Words.
    Text(InputText),
    /// A file or an image.
    Binary(InputBinary),
}

/// Words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputText {
    /// The words.
    #[schema(min_length = 1)]
    pub text: String,
}

/// A file or an image: exactly one of `base64_data` and `path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBinary {
    /// A file of the workspace, which is read now.
    pub path: Option<String>,
    /// Its MIME type; found by name or content if absent.
    pub mime_type: Option<String>,
    /// The bytes in base64.
    #[schema(content_encoding = "base64")]
    pub base64_data: Option<String>,
    /// The bytes, where the door has a type for them.
    #[serde(skip)]
    pub data: Option<Bytes>,
}

/// A file beside the words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Its name; without `content`, a file of the workspace, which is read now.
    #[schema(min_length = 1)]
    pub path: String,
    /// Its content: text for text and JSON types, else base64.
    pub content: Option<String>,
    /// Its MIME type; found by name if absent.
    pub mime_type: Option<String>,
    /// Its size in bytes; refused where it is not the content's.
    pub size: Option<i64>,
}

/// A turn that was accepted.
pub struct Started {
    /// Its id.
    pub turn_id: TurnId,
    /// Its events from the user's message to `turn_completed`.
    pub events: Subscription,
    /// It was accepted before, under the same key.
    pub replayed: bool,
    presence: Presence,
}

impl Started {
    /// Its events, for somebody who reads them as they come and can answer what is asked for.
    pub fn watched(self) -> Subscription {
        let here = self.presence.enter();
        self.events.keeping(Some(here))
    }
}

/// A message that is to be accepted.
pub(super) struct Wanted {
    pub(super) model: Model,
    pub(super) parts: Vec<Part>,
    pub(super) limits: Limits,
    pub(super) key: Option<Keyed>,
    pub(super) cancel_on_disconnect: bool,
    pub(super) mode: Option<PermissionMode>,
    /// Whether who sends it may loosen the session's mode.
    pub(super) may_loosen: bool,
}

/// What came of a message.
enum Outcome {
    /// A turn, and the cursor before its first event.
    New(TurnId, Cursor),
    /// A turn that is told from here on, the cursor: one that waits, or one that runs and takes the message.
    Later(TurnId, Cursor),
    /// It was accepted before.
    Known(FoundKey),
}

impl OpenCode {
    /// Accepts a message and starts its turn, which goes on whoever watches; or joins the turn that the same message
    /// has started before under its key.
    pub async fn send_message(&self, wish: SendMessage) -> Result<Started> {
        let key = wish.keyed()?;
        let after = match wish.after.as_deref() {
            None | Some("") => None,
            Some(_) if key.is_none() => {
                let detail = "is for a repeat, which needs its idempotency key: without one this would start again";
                return Err(Error::field("after", detail));
            }
            // All that there is of it: from its first event.
            Some("0") => None,
            Some(after) => Some(place(Some(after), wish.forgiving)?),
        };
        // Before anything is looked at that may have changed since: a repeat is not checked again.
        if let Some(key) = &key
            && let Some(found) = self.found(key).await?
        {
            return self.join(found, after).await;
        }
        self.refuse_when_draining()?;
        if wish.turn_id.is_some() && wish.when_busy != WhenBusy::Steer {
            return Err(Error::field("turn_id", "is for a message that steers: set when_busy to steer"));
        }
        if wish.when_busy == WhenBusy::Steer {
            for (field, set) in [
                ("cancel_on_disconnect", wish.cancel_on_disconnect),
                ("model", wish.model.is_some()),
                ("budget", wish.budget.is_some()),
                ("permission_mode", wish.permission_mode.is_some()),
            ] {
                if set {
                    return Err(Error::field(field, "is set when a turn is started, not by a message for it"));
                }
            }
        }
        wish.permission_mode.map(|mode| self.check_mode(mode, wish.token.as_ref())).transpose()?;
        let may_loosen = self.check_reply_token(wish.token.as_ref(), "").is_ok();
        let SendMessage { parts, attachments, text, model, budget, cancel_on_disconnect, when_busy, turn_id, .. } =
            wish;
        let budgets = &self.0.settings.budgets;
        let limits = budget.map(|budget| budget.check(&budgets.turn)).transpose()?.unwrap_or_default();
        let parts = self.input_parts(parts, text, attachments).await?;
        let model = match self.running().filter(|_| when_busy == WhenBusy::Steer) {
            // It is for that turn's model, whichever new turns would have.
            Some(running) => Some(self.read_turn(running.id().as_str()).await?.value.model),
            // A repeat is told what became of the first.
            None if turn_id.is_some() && key.is_none() => return Err(stale("no turn runs")),
            None => model,
        };
        let model = self.model_for(model.as_deref()).await?;
        refuse_unpriced(&model, &limits, budgets)?;
        let wanted = Wanted { model, parts, limits, key, cancel_on_disconnect, mode: wish.permission_mode, may_loosen };
        let domain = self.clone();
        // A client that leaves between the commit and the start must not leave a turn behind that nobody runs.
        let accepting = async move {
            let _gate = domain.0.gate.lock().await;
            if let Some(key) = &wanted.key {
                domain.0.at_work.refuse(key)?;
                if let Some(found) = domain.found(key).await? {
                    return Ok(Outcome::Known(found));
                }
            }
            domain.decide(wanted, when_busy, turn_id.as_deref()).await
        };
        match self.to_the_end(accepting).await? {
            Outcome::Known(found) => self.join(found, after).await,
            Outcome::New(turn_id, first) => {
                let view = self.0.views.watch(&turn_id);
                let events = self.0.store.follow_new_turn(turn_id.clone(), first, self.0.closing.clone());
                Ok(Started { turn_id, events: events.keeping(view), replayed: false, presence: self.presence() })
            }
            Outcome::Later(turn_id, here) => {
                let view = self.0.views.watch(&turn_id);
                let filter = Filter { turn_id: Some(turn_id.clone()), ..Filter::default() };
                let events = self.0.store.subscribe(Start::After(here), filter, self.0.closing.clone()).await?;
                Ok(Started { turn_id, events: events.keeping(view), replayed: false, presence: self.presence() })
            }
        }
    }

    /// The turn that was accepted before, from its first event or after the place that a client knows.
    async fn join(&self, found: FoundKey, after: Option<Start>) -> Result<Started> {
        let turn_id = match found.accepted {
            Accepted::Turn(id) => id,
            Accepted::Answer(_) => return Err(Error::internal("a message was answered without a turn")),
        };
        let view = self.0.views.watch(&turn_id);
        let turn = self.get_turn(turn_id.as_str(), 0).await?.value;
        let first: Cursor = turn.first_cursor.parse().map_err(|()| Error::internal("a turn without a place"))?;
        let from = after.unwrap_or(Start::After(Cursor { seq: first.seq.saturating_sub(1), ..first }));
        let filter = Filter { turn_id: Some(turn_id.clone()), ..Filter::default() };
        let events = self.0.store.subscribe(from, filter, self.0.closing.clone()).await?;
        Ok(Started { turn_id, events: events.keeping(view), replayed: true, presence: self.presence() })
    }

    /// Does with a message what is to be done while a turn runs, or starts its turn. For who holds the gate.
    async fn decide(&self, wanted: Wanted, when_busy: WhenBusy, turn_id: Option<&str>) -> Result<Outcome> {
        self.refuse_when_draining()?;
        loop {
            let busy = match self.refuse_while_busy().await {
                Ok(()) => None,
                Err(error) if error.code() == Code::AgentBusy => Some(error),
                Err(error) => return Err(error),
            };
            let here = self.0.store.head();
            match (busy, when_busy, self.running()) {
                (None, WhenBusy::Steer, _) if turn_id.is_some() => return Err(stale("no turn runs")),
                (None, ..) => {
                    let (turn_id, first) = self.accept(wanted, TurnId::generate(), MessageId::generate()).await?;
                    return Ok(Outcome::New(turn_id, first));
                }
                (Some(_), WhenBusy::Queue, _) => return self.queue(wanted).await.map(|id| Outcome::Later(id, here)),
                (Some(_), WhenBusy::Steer, Some(running)) => {
                    if turn_id.is_some_and(|wanted| wanted != running.id().as_str()) {
                        return Err(stale(&format!("another turn runs: {}", running.id())));
                    }
                    // Its model does what this says, in the turn's mode and not in the session's.
                    if running.mode().is_some_and(|mode| mode < self.0.requests.mode()) && !wanted.may_loosen {
                        self.check_reply_token(
                            None,
                            "to steer a turn whose permission mode is looser than the session's",
                        )?;
                    }
                    match running.steering().announce() {
                        Ok(coming) => return self.steer(wanted, &running, coming, here).await,
                        Err(Closed::Full) => {
                            let detail = format!("{MAX_WAITING} messages wait for the running turn to take them");
                            return Err(Error::new(Code::AgentBusy, detail));
                        }
                        // It came to its end meanwhile: this is for whatever comes after it.
                        Err(Closed::Ending) => running.done().await,
                    }
                }
                (Some(busy), WhenBusy::Steer | WhenBusy::Reject, _) => return Err(busy),
            }
        }
    }

    /// Stores a message for the running turn.
    async fn steer(&self, wanted: Wanted, running: &Running, coming: Coming<'_>, here: Cursor) -> Result<Outcome> {
        let Wanted { model, parts, limits: _, key, cancel_on_disconnect: _, mode: _, may_loosen: _ } = wanted;
        let id = running.id().clone();
        let session = self.session_made_at_need().await?;
        let message = user_message(session.id, MessageId::generate(), &id, &model, parts);
        let key = key.map(|key| key.accepted(Accepted::Turn(id.clone())));
        self.0.store.append(Batch::new().steer(&id, message.clone()).key(key)).await?;
        coming.came(message);
        Ok(Outcome::Later(id, here))
    }

    /// Stores the message and the beginning of its turn in one transaction, and starts it. Answers the cursor before
    /// its first event.
    pub(super) async fn accept(
        &self,
        wanted: Wanted,
        turn_id: TurnId,
        message_id: MessageId,
    ) -> Result<(TurnId, Cursor)> {
        let Wanted { model, parts, limits, key, cancel_on_disconnect, mode, may_loosen: _ } = wanted;
        let mut session = self.session_made_at_need().await?;
        let used = match self.0.settings.budgets.session {
            Limits { model_calls: None, seconds: None, tokens: None, usd: None } => Used::default(),
            Limits { .. } => self.read(|snapshot| snapshot.used()).await?.value,
        };
        let now = now();
        let mut batch = Batch::new();
        let mut untitled = None;
        if session.title.is_empty()
            && let Some(words) = words(&parts)
            && let Some(title) = fit_title(words)
        {
            untitled = Some(Untitled { title: title.clone(), words: words.to_owned() });
            (session.title, session.updated_at) = (title, now);
            batch = batch.event(None, EventKind::SessionUpdated(SessionEvent { session: session.clone() }));
        }
        let message = user_message(session.id.clone(), message_id, &turn_id, &model, parts);
        let started = TurnStarted { user_message_id: message.id.clone(), model: model.info.id.clone() };
        let status = AgentStatusChanged {
            status: Activity::Processing,
            current_operation: Some(format!("calling {}", model.info.id)),
        };
        let batch = batch
            .event(Some(&turn_id), EventKind::MessageCreated(MessageEvent { message }))
            .event(Some(&turn_id), EventKind::TurnStarted(started))
            .event(Some(&turn_id), EventKind::AgentStatusChanged(status))
            .key(key.map(|key| key.accepted(Accepted::Turn(turn_id.clone()))));
        let last = self.0.store.append(batch).await?;
        let spending = Spending::new(&self.0.settings.budgets, limits, used);
        let running = Running::new(turn_id.clone(), self.0.settings.versions.wait, spending);
        if let Some(mode) = mode {
            running.set_mode(mode);
        }
        self.set_running(Some(running.clone()));
        if cancel_on_disconnect {
            self.cancel_when_left(turn_id.clone());
        }
        self.0.tasks.spawn(agent::run(self.clone(), running, session.id, model, untitled));
        // Three events were stored for the turn.
        Ok((turn_id, Cursor { seq: last.saturating_sub(3), ..self.0.store.head() }))
    }
}

/// The first words of a message.
fn words(parts: &[Part]) -> Option<&str> {
    parts.iter().find_map(|part| match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    })
}

fn user_message(session_id: SessionId, id: MessageId, turn: &TurnId, model: &Model, parts: Vec<Part>) -> Message {
    let now = now();
    Message {
        id,
        session_id,
        role: Role::User,
        parts,
        model: Some(model.info.id.clone()),
        turn_id: Some(turn.clone()),
        usage: None,
        created_at: now,
        updated_at: now,
        finished_at: Some(now),
        seq: 0,
    }
}

fn stale(what: &str) -> Error {
    Error::new(Code::StaleTurn, format!("{what}; the message was not taken"))
}
