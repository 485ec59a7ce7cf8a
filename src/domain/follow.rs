//! Following the log: as a stream, or as pages.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    OpenCode,
    cursor::{Cursor, ResyncReason},
    error::{Error, Result},
    event::EventType,
    id::TurnId,
    store::{Filter, Item, Logged, Start, Subscription},
    turn::wait_time,
};

/// Which events are wanted, and from where on.
#[derive(Clone, Debug, Default)]
pub struct StreamEvents {
    /// A cursor: none is live from now, `0` is all that the log still holds.
    pub after: Option<String>,
    /// Whether a cursor that cannot be read is answered in the stream instead of refused: a browser that
    /// reconnects gives up at any status but 200.
    pub forgiving: bool,
    /// Names of types; `-` before a name leaves it out.
    pub types: Vec<String>,
    /// Only events of this turn; the stream ends after its `turn_completed`.
    pub turn_id: Option<String>,
}

/// A page of events.
#[derive(Clone, Debug, Default)]
pub struct ListEvents {
    /// Which events; without a cursor from the beginning of the log.
    pub stream: StreamEvents,
    /// 1 to 1,000; zero or absent is 50.
    pub limit: i64,
    /// Seconds (0 to 60) to wait for the first event.
    pub wait: i64,
}

/// A page of events.
pub struct EventPage {
    /// The events.
    pub events: Vec<Arc<Logged>>,
    /// The cursor to go on from: everything up to it was considered.
    pub next: Cursor,
    /// Whether more lie behind it now.
    pub has_more: bool,
    /// Where a stream would say `resync_required`: why.
    pub resync: Option<ResyncReason>,
}

/// Most events of a page.
pub(super) const MAX_PAGE: i64 = 1000;
/// Most bytes of events of a page, so that no answer is over 3 MiB.
const PAGE_BYTES: usize = 2 * 1024 * 1024 + 512 * 1024;
/// Longest that a page waits for its first event, in seconds.
pub(super) const MAX_WAIT: i64 = 60;
/// The types that tell of whole messages, without deltas.
const MESSAGE_TYPES: [EventType; 5] = [
    EventType::MessageCreated,
    EventType::MessageUpdated,
    EventType::MessageDeleted,
    EventType::MessagesCleared,
    EventType::SessionReset,
];

impl OpenCode {
    /// Every event from a cursor on, then live.
    pub async fn stream_events(&self, wish: StreamEvents) -> Result<Subscription> {
        let filter = filter(&wish)?;
        let from = place(wish.after.as_deref(), wish.forgiving)?;
        let view = filter.turn_id.as_ref().and_then(|id| self.0.views.watch(id));
        let here = self.presence().enter();
        let events = self.0.store.subscribe(from, filter, self.0.closing.clone()).await?;
        Ok(events.keeping(view).keeping(Some(here)))
    }

    /// The stream of whole messages, without deltas.
    pub async fn stream_messages(&self, after: Option<&str>, forgiving: bool) -> Result<Subscription> {
        let filter = Filter { only: MESSAGE_TYPES.to_vec(), ..Filter::default() };
        let here = self.presence().enter();
        let events = self.0.store.subscribe(place(after, forgiving)?, filter, self.0.closing.clone()).await?;
        Ok(events.keeping(Some(here)))
    }

    /// A page of events.
    pub async fn list_events(&self, wish: ListEvents) -> Result<EventPage> {
        let limit = match wish.limit {
            0 => i64::from(super::list::DEFAULT_LIMIT),
            limit @ 1..=MAX_PAGE => limit,
            _ => return Err(Error::field("limit", format!("must be 1 to {MAX_PAGE}"))),
        } as usize;
        let deadline = Instant::now() + wait_time("wait", wish.wait, MAX_WAIT)?;
        let after = wish.stream.after.filter(|after| !after.is_empty()).or_else(|| Some("0".into()));
        let mut events = self.stream_events(StreamEvents { after, ..wish.stream }).await?;
        let mut page = EventPage { events: Vec::new(), next: events.position(), has_more: false, resync: None };
        let mut bytes = 0;
        while page.events.len() < limit && bytes < PAGE_BYTES {
            // What is stored is taken however long reading it takes; only the first event is waited for.
            let item = match events.next_stored().await {
                None if page.events.is_empty() => tokio::time::timeout_at(deadline, events.next()).await.ok().flatten(),
                item => item,
            };
            match item {
                Some(Item::Event(event)) => {
                    bytes += event.json.len();
                    if bytes > PAGE_BYTES && !page.events.is_empty() {
                        break;
                    }
                    page.next = event.cursor;
                    page.events.push(event);
                }
                Some(Item::Position(cursor)) => page.next = cursor,
                // A page ends by itself, and soon.
                Some(Item::Draining { .. }) => {}
                Some(Item::Resync { reason, cursor }) => {
                    (page.resync, page.next) = (Some(reason), cursor);
                    page.events.clear();
                    break;
                }
                Some(Item::Closed(error)) if page.events.is_empty() => return Err(error),
                Some(Item::Closed(_)) | None => break,
            }
        }
        if page.events.len() < limit && bytes < PAGE_BYTES && page.resync.is_none() {
            // Everything was considered: what was filtered out need not be looked at again.
            page.next = events.position();
        }
        // Behind the end of the turn that was asked for nothing more comes.
        page.has_more = page.next.seq < self.0.store.head().seq && page.resync.is_none() && !events.has_ended();
        Ok(page)
    }
}

/// The place in the log that a client names.
pub(super) fn place(after: Option<&str>, forgiving: bool) -> Result<Start> {
    match after {
        None | Some("") => Ok(Start::Now),
        Some("0") => Ok(Start::Beginning),
        Some(text) => match text.parse() {
            Ok(cursor) => Ok(Start::After(cursor)),
            Err(()) if forgiving => Ok(Start::Unknown),
            Err(()) => {
                Err(Error::field("after", "is no cursor; take one that the server sent, or 0 for the beginning"))
            }
        },
    }
}

fn filter(wish: &StreamEvents) -> Result<Filter> {
    let mut filter = Filter { turn_id: wish.turn_id.clone().map(TurnId::from), ..Filter::default() };
    for name in wish.types.iter().map(|name| name.trim()) {
        let (list, name) = match name.strip_prefix('-') {
            Some(name) => (&mut filter.without, name),
            None => (&mut filter.only, name),
        };
        let known = EventType::parse(name).ok_or_else(|| {
            let all: Vec<_> = EventType::ALL.iter().map(|known| known.as_str()).collect();
            Error::field("types", format!("\"{name}\" is no event type; there are {}", all.join(", ")))
        })?;
        list.push(known);
    }
    Ok(filter)
}
