//! A reader of the log: a cursor, not a queue. Resume, replay, catch-up and live are one code path, and a slow
//! reader costs nothing but its own lag.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Head, Health, Store, read::has_ended, streams::Shown, tail::Logged};
use crate::domain::{
    access::{Caller, Refusal},
    cursor::{Cursor, ResyncReason},
    error::{Code, Error, Result},
    event::{Event, EventKind, EventType, TurnCompleted},
    id::TurnId,
    turn::Turn,
};

/// How often a stream says where it stands, whatever else is sent.
pub(in crate::domain) const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes of events that a reader takes at a time.
const STEP_BYTES: usize = 16 * 1024;

/// Which events a reader wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only these types; all if empty.
    pub only: Vec<EventType>,
    /// Not these types.
    pub without: Vec<EventType>,
    /// Only events of this turn; the stream ends after its `turn_completed`.
    pub turn_id: Option<TurnId>,
}

/// What a stream has to say.
pub enum Item {
    /// An event.
    Event(Arc<Logged>),
    /// All up to here was considered: sent or filtered out.
    Position(Cursor),
    /// What the client has is stale: it reads the state anew, and the stream goes on from the cursor.
    Resync {
        /// Why.
        reason: ResyncReason,
        /// Where the stream goes on.
        cursor: Cursor,
    },
    /// The server is about to end: the stream goes on until then, and is over by the deadline.
    Draining {
        /// When it ends at the latest.
        deadline: Timestamp,
        /// The last event considered.
        cursor: Cursor,
    },
    /// The stream ends before its time, and why.
    Closed(Error),
}

/// A reader of the log. Dropping it is all that leaving takes.
pub struct Subscription {
    store: Store,
    filter: Filter,
    head: watch::Receiver<Head>,
    closing: CancellationToken,
    /// The token of the reader is good no more.
    unauthenticated: CancellationToken,
    /// The last event considered.
    position: Cursor,
    /// Taken from the log and not handed out yet.
    ready: VecDeque<Arc<Logged>>,
    heartbeat: Instant,
    state: State,
    /// Its place as others see it, where it is shown as a stream.
    shown: Option<Shown>,
    /// Whether it was said that the server is about to end.
    told_of_end: bool,
    /// Held as long as somebody reads.
    kept: Vec<Box<dyn Send + Sync>>,
}

enum State {
    /// Nothing was said yet; a resync comes first, if there is one.
    Begin(Option<ResyncReason>),
    /// Nothing was said yet, and the turn that is followed begins behind the place: it cannot have ended before it.
    BeforeTurn,
    Following,
    /// The turn that is followed has ended, and the log no longer holds that: it is told from the turn's row.
    Told(Box<Turn>),
    Ended,
}

/// Where a reader begins.
pub(crate) enum Start {
    /// With what comes next.
    Now,
    /// With all that the log still holds.
    Beginning,
    /// After this cursor.
    After(Cursor),
    /// The cursor could not be read, and that is to be said in the stream.
    Unknown,
}

impl Store {
    /// Opens a reader. It ends when `closing` is cancelled.
    pub(crate) async fn subscribe(
        &self,
        from: Start,
        filter: Filter,
        closing: CancellationToken,
    ) -> Result<Subscription> {
        let head = self.0.shared.head.subscribe();
        let (position, resync) = self.locate(from).await?;
        if let Some(id) = &filter.turn_id {
            let (wanted, id) = (id.clone(), id.clone());
            if self.read(move |snapshot| snapshot.turn(wanted.as_str())).await?.is_none() {
                return Err(Error::not_found("turn", id));
            }
        }
        Ok(self.subscription(position, filter, closing, head, State::Begin(resync)))
    }

    /// Opens a reader of a turn that was just stored, from the cursor before its first event: nothing has to be looked
    /// up, and the first word is not kept waiting.
    pub(crate) fn follow_new_turn(&self, turn: TurnId, before: Cursor, closing: CancellationToken) -> Subscription {
        let filter = Filter { turn_id: Some(turn), ..Filter::default() };
        self.subscription(before, filter, closing, self.0.shared.head.subscribe(), State::BeforeTurn)
    }

    fn subscription(
        &self,
        position: Cursor,
        filter: Filter,
        closing: CancellationToken,
        head: watch::Receiver<Head>,
        state: State,
    ) -> Subscription {
        Subscription {
            store: self.clone(),
            filter,
            head,
            closing,
            unauthenticated: Caller::current().map(|caller| caller.ended().clone()).unwrap_or_default(),
            position,
            ready: VecDeque::new(),
            heartbeat: Instant::now() + HEARTBEAT,
            state,
            shown: None,
            told_of_end: false,
            kept: Vec::new(),
        }
    }

    /// The cursor of the newest event that is shown.
    pub(crate) fn head(&self) -> Cursor {
        Cursor { epoch: self.0.shared.epoch, seq: self.0.shared.head.borrow().seq }
    }

    /// Turns the wish of a client into a place in this log.
    async fn locate(&self, from: Start) -> Result<(Cursor, Option<ResyncReason>)> {
        let cursor = match from {
            Start::Now => return Ok((self.head(), None)),
            Start::Beginning => {
                // In the epoch of what comes next, so that the place itself is a good cursor.
                let seq = self.floor().saturating_sub(1);
                let epoch = self.read(move |snapshot| snapshot.epoch_after(seq)).await?;
                return Ok((Cursor { epoch: epoch.unwrap_or(self.0.shared.epoch), seq }, None));
            }
            Start::Unknown => return Ok((self.head(), Some(ResyncReason::OtherLog))),
            Start::After(cursor) => cursor,
        };
        let epoch = self.read(move |snapshot| snapshot.epoch(cursor.epoch)).await?;
        let reason = match epoch {
            None => ResyncReason::OtherLog,
            Some((first, last))
                if cursor.seq.saturating_add(1) < first || cursor.seq > last.max(first.saturating_sub(1)) =>
            {
                ResyncReason::Lost
            }
            Some(_) if cursor.seq + 1 < self.floor() => ResyncReason::Expired,
            Some(_) => return Ok((cursor, None)),
        };
        Ok((self.head(), Some(reason)))
    }
}

impl Subscription {
    /// Keeps something as long as somebody reads.
    pub(crate) fn keeping(mut self, kept: Option<impl Send + Sync + 'static>) -> Self {
        self.kept.extend(kept.map(|kept| Box::new(kept) as _));
        self
    }

    /// Counts it among the streams that are open.
    pub fn shown(mut self) -> Self {
        self.shown = Some(self.store.0.shared.streams.open(self.position.seq));
        self
    }

    /// The last event considered.
    pub fn position(&self) -> Cursor {
        self.position
    }

    /// Whether nothing more will ever come.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// What comes next; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            let item = self.next_stored().await;
            if item.is_some() || self.has_ended() {
                return item;
            }
            if self.head.borrow().health == Health::Full {
                return self.close(
                    Error::new(
                        Code::InsufficientStorage,
                        "the disk of the data directory is full; what was shown is stored, nothing more can be",
                    )
                    .retry_after(Duration::from_secs(5)),
                );
            }
            tokio::select! {
                // What was stored before the end is shown before it, so that the head is asked first.
                biased;
                changed = self.head.changed() => {
                    if changed.is_err() {
                        return self.close(Error::internal("the log's writer has ended"));
                    }
                }
                () = self.unauthenticated.cancelled() => {
                    return self.close(Refusal::unauthenticated().into());
                }
                () = self.closing.cancelled() => {
                    return self.close(Error::new(Code::Unavailable, "the server is shutting down").retry_after(Duration::from_secs(1)));
                }
                () = tokio::time::sleep_until(self.heartbeat) => {}
            }
        }
    }

    /// What comes next of what is stored already; `None` when all of it was considered, and at the end.
    pub async fn next_stored(&mut self) -> Option<Item> {
        match std::mem::replace(&mut self.state, State::Following) {
            State::Ended => {
                self.state = State::Ended;
                return None;
            }
            State::Told(turn) => {
                self.state = State::Ended;
                return told(&turn, self.position)
                    .filter(|event| self.wants(event))
                    .map(|event| Item::Event(Arc::new(event)));
            }
            State::Begin(resync) => {
                self.end_with_turn(resync.is_some()).await;
                return Some(match resync {
                    Some(reason) => Item::Resync { reason, cursor: self.position },
                    None => Item::Position(self.position),
                });
            }
            State::BeforeTurn => return Some(Item::Position(self.position)),
            State::Following => {}
        }
        loop {
            if Instant::now() >= self.heartbeat {
                self.heartbeat = Instant::now() + HEARTBEAT;
                return Some(Item::Position(self.position));
            }
            // However far behind it is: what is left is not for whoever lost the right to it.
            if self.unauthenticated.is_cancelled() {
                return self.close(Refusal::unauthenticated().into());
            }
            if let Some(event) = self.next_ready() {
                return Some(Item::Event(event));
            }
            if self.has_ended() {
                return None;
            }
            if let Some(shown) = &self.shown {
                shown.at(self.position.seq);
            }
            let Head { seq, draining, .. } = *self.head.borrow_and_update();
            if let Some(deadline) = draining.filter(|_| !self.told_of_end) {
                self.told_of_end = true;
                return Some(Item::Draining { deadline, cursor: self.position });
            }
            if seq <= self.position.seq {
                return None;
            }
            match self.take().await {
                Ok(None) => {}
                Ok(Some(item)) => return Some(item),
                Err(error) => return self.close(error),
            }
        }
    }

    /// The next event if it was taken from the log already.
    pub fn next_ready(&mut self) -> Option<Arc<Logged>> {
        if matches!(self.state, State::Ended) {
            return None;
        }
        while let Some(event) = self.ready.pop_front() {
            self.position = event.cursor;
            // Whether it is wanted or not.
            if event.event_type == EventType::TurnCompleted && self.filter.turn_id.is_some() && self.is_of_turn(&event)
            {
                self.state = State::Ended;
                return self.wants(&event).then_some(event);
            }
            if self.wants(&event) {
                return Some(event);
            }
        }
        None
    }

    /// Takes the next events from the tail, or from the file when the reader is further behind.
    async fn take(&mut self) -> Result<Option<Item>> {
        let after = self.position.seq;
        let events = match self.store.0.shared.tail.after(after, STEP_BYTES) {
            Some(events) => events,
            None => self.store.read(move |snapshot| snapshot.events_after(after, STEP_BYTES)).await?,
        };
        if events.first().is_none_or(|event| event.cursor.seq != after + 1) {
            // Clear, reset or retention took what comes next while this reader was behind.
            self.position = self.store.head();
            self.end_with_turn(true).await;
            return Ok(Some(Item::Resync { reason: ResyncReason::Expired, cursor: self.position }));
        }
        self.ready = events.into();
        Ok(None)
    }

    fn wants(&self, event: &Logged) -> bool {
        let Filter { only, without, turn_id: _ } = &self.filter;
        (only.is_empty() || only.contains(&event.event_type))
            && !without.contains(&event.event_type)
            && self.is_of_turn(event)
    }

    fn is_of_turn(&self, event: &Logged) -> bool {
        self.filter.turn_id.as_ref().is_none_or(|id| event.turn_id.as_deref() == Some(id.as_str()))
    }

    /// Ends the stream where the one turn that is followed has ended before the place where it goes on: nothing of
    /// it would ever come. Where that end was `skipped` it is told.
    async fn end_with_turn(&mut self, skipped: bool) {
        let Some(id) = self.filter.turn_id.clone() else { return };
        let turn = self.store.read(move |snapshot| snapshot.turn(id.as_str())).await;
        let Some(turn) = turn.ok().flatten().filter(has_ended) else { return };
        let last = turn.last_cursor.as_deref().and_then(|cursor| cursor.parse::<Cursor>().ok());
        if skipped {
            self.state = State::Told(Box::new(turn));
        } else if last.is_some_and(|last| last.seq <= self.position.seq) {
            self.state = State::Ended;
        }
    }

    fn close(&mut self, error: Error) -> Option<Item> {
        self.state = State::Ended;
        Some(Item::Closed(error))
    }
}

/// The end of a turn as its row has it, for a reader at a place behind it.
fn told(turn: &Turn, position: Cursor) -> Option<Logged> {
    let last: Cursor = turn.last_cursor.as_deref()?.parse().ok()?;
    let completed = TurnCompleted {
        finish_reason: turn.finish_reason?,
        usage: turn.usage.clone(),
        message_id: turn.message_id.clone(),
        version_before: turn.version_before.clone(),
        version_after: turn.version_after.clone(),
    };
    let kind = EventKind::TurnCompleted(completed);
    let event = Event { seq: last.seq, at: turn.finished_at?, turn_id: Some(turn.id.clone()), token_id: None, kind };
    let json = serde_json::to_vec(&event).ok()?;
    Some(Logged::new(position, EventType::TurnCompleted, Some(turn.id.as_str()), json.into()))
}
